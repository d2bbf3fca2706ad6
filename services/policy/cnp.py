"""CiliumNetworkPolicy objects (cilium.io/v2) out of document trees.

    text -> document.parse -> one ParsedPolicy per object, or every fault of the text at once

What this version cannot enforce is refused with its position, never skipped: dropping a part of a policy
silently changes what it allows. Absent, [] and [{}] mean different things here (a field that resolves to
nothing selects nobody), so every reader works on nodes, not on defaults.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from axoneme.lib.policy.model import Direction
from services.policy.document import Json, Node, from_plain, parse
from services.policy.faults import Fault, InvalidPolicy
from services.policy.fields import Fields
from services.policy.peers import read_peers
from services.policy.ports import read_ports
from services.policy.rules import ParsedPolicy, PolicyKey, Rule, RuleEntry
from services.policy.selectorfields import read_selector
from services.policy.selectors import scope_subject

KIND: Final = "CiliumNetworkPolicy"
API_VERSION: Final = "cilium.io/v2"
MAX_POLICIES: Final = 100
_LATER_KINDS: Final = {
    "CiliumClusterwideNetworkPolicy": API_VERSION,
    "CiliumLocalRedirectPolicy": API_VERSION,
    "CiliumCIDRGroup": API_VERSION,
    "NetworkPolicy": "networking.k8s.io/v1",
}
_LISTS: Final = {"List": "v1", "CiliumNetworkPolicyList": API_VERSION}
# What an API server adds to an object; it says nothing about policy.
_SERVER_METADATA: Final = (
    "uid",
    "resourceVersion",
    "generation",
    "generateName",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "managedFields",
    "ownerReferences",
    "finalizers",
    "selfLink",
    "annotations",
)
# Section -> direction, deny, key of its peers.
_SECTIONS: Final = {
    "ingress": (Direction.INGRESS, False),
    "egress": (Direction.EGRESS, False),
    "ingressDeny": (Direction.INGRESS, True),
    "egressDeny": (Direction.EGRESS, True),
}


@dataclass(slots=True)
class _Object:
    node: Node
    namespace: str
    name: str = ""
    labels: dict[str, str] = field(default_factory=dict)


def parse_policies(text: str, default_namespace: str = "default") -> list[ParsedPolicy]:
    """All policies of a text, in its order. Raises InvalidPolicy with every fault."""
    return _policies(parse(text), default_namespace)


def parse_object(document: object) -> ParsedPolicy:
    """The policy of one decoded object. Raises InvalidPolicy."""
    policies = _policies([from_plain(document)], "default")
    if len(policies) != 1:
        raise InvalidPolicy.of_faults([Fault(0, 1, "", f"{len(policies)} policies instead of one")])
    return policies[0]


def _policies(documents: list[Node], default_namespace: str) -> list[ParsedPolicy]:
    faults: list[Fault] = []
    policies: list[ParsedPolicy] = []
    for node in documents:
        for one in _objects(node, Fields(faults)):
            policy = _policy(one, default_namespace, Fields(faults))
            if policy is None:
                continue
            if any(policy.key == other.key for other in policies):
                faults.append(one.fault(f"{policy.key} appears twice", "keep one of them"))
            policies.append(policy)
    if len(policies) > MAX_POLICIES:
        faults.append(Fault(0, 1, "", f"{len(policies)} policies; at most {MAX_POLICIES} go at once"))
    if not faults and not policies:
        faults.append(Fault(0, 1, "", "the text holds no policy"))
    if faults:
        raise InvalidPolicy.of_faults(faults)
    return policies


def _objects(node: Node, fields: Fields) -> list[Node]:
    kind = (node.mapping or {}).get("kind")
    if kind is None or kind.scalar not in _LISTS:
        return [node]
    present = fields.mapping(node, ("apiVersion", "kind", "items"), ignored=("metadata",))
    return fields.items(present["items"]) if "items" in present else []


def _policy(node: Node, default_namespace: str, fields: Fields) -> ParsedPolicy | None:
    before = len(fields.faults)
    if not _of_our_kind(node, fields):
        return None
    present = fields.mapping(node, ("apiVersion", "kind", "metadata", "spec", "specs"), ignored=("status",))
    one = _metadata(node, present.get("metadata"), default_namespace, fields)
    rules = [_rule(rule, one.namespace, fields) for rule in _rule_nodes(node, present, fields)]
    if len(fields.faults) > before:
        return None
    return ParsedPolicy(
        key=PolicyKey(KIND, one.namespace, one.name),
        labels=tuple(f"{key}={value}" for key, value in sorted(one.labels.items())),
        rules=tuple(rules),
        document=_stored_form(one, present),
    )


def _of_our_kind(node: Node, fields: Fields) -> bool:
    if node.mapping is None:
        fields.fault(
            node, f"expected an object, found {node.kind}", f"start with `apiVersion: {API_VERSION}`"
        )
        return False
    values = {key: node.mapping[key] for key in ("apiVersion", "kind") if key in node.mapping}
    kind, version = (values[key].scalar if key in values else None for key in ("kind", "apiVersion"))
    if kind == KIND and version == API_VERSION:
        return True
    fix = f"write apiVersion: {API_VERSION} and kind: {KIND}"
    if isinstance(kind, str) and kind in _LATER_KINDS:
        fields.fault(values["kind"], f"not supported yet: kind {kind}", fix)
    elif kind == KIND:
        fields.fault(values.get("apiVersion", node), f"apiVersion {version!r} is not accepted", fix)
    else:
        fields.fault(values.get("kind", node), f"kind {kind!r} is not a policy", fix)
    return False


def _metadata(node: Node, metadata: Node | None, default_namespace: str, fields: Fields) -> _Object:
    one = _Object(node, default_namespace)
    if metadata is None:
        fields.fault(node, "the object has no metadata", "give it metadata.name")
        return one
    present = fields.mapping(metadata, ("name", "namespace", "labels"), ignored=_SERVER_METADATA)
    if "name" in present:
        one.name = fields.name(present["name"]) or ""
    else:
        fields.fault(metadata, "the object has no name", "give it metadata.name")
    if "namespace" in present:
        one.namespace = fields.namespace(present["namespace"]) or default_namespace
    if "labels" in present:
        one.labels = _labels(present["labels"], fields)
    return one


def _labels(node: Node, fields: Fields) -> dict[str, str]:
    texts = {key: fields.text(child) for key, child in (node.mapping or {}).items()}
    if node.mapping is None:
        fields.fault(node, f"expected a mapping, found {node.kind}")
    return {key: text for key, text in texts.items() if text is not None}


def _rule_nodes(node: Node, present: dict[str, Node], fields: Fields) -> list[Node]:
    rules = [present["spec"]] if "spec" in present else []
    if "specs" in present:
        rules += fields.items(present["specs"])
    if not rules:
        fields.fault(node, "the object has no rule", "give it `spec`, or `specs` with at least one element")
    return rules


def _rule(node: Node, namespace: str, fields: Fields) -> Rule:
    present = fields.mapping(
        node,
        ("endpointSelector", *_SECTIONS),
        later=("nodeSelector", "enableDefaultDeny", "labels", "log"),
        ignored=("description",),
    )
    if "endpointSelector" not in present:
        fields.fault(node, f"{node.path} has no endpointSelector", "`endpointSelector: {}` is every pod here")
        subject = scope_subject(read_selector(None, fields), namespace)
    else:
        subject = scope_subject(read_selector(present["endpointSelector"], fields, subject=True), namespace)
    entries = [
        _entry(item, section, namespace, fields)
        for section in _SECTIONS
        if section in present
        for item in fields.items(present[section])
    ]
    if not any(section in present and present[section].items != [] for section in _SECTIONS):
        fields.fault(
            node, f"{node.path} has no rules", "to deny by default write `ingress: [{}]` or `egress: [{}]`"
        )
    return Rule(path=node.path, subject=subject, entries=tuple(entries))


def _entry(node: Node, section: str, namespace: str, fields: Fields) -> RuleEntry:
    direction, deny = _SECTIONS[section]
    side = "from" if direction is Direction.INGRESS else "to"
    later = {f"{side}{noun}" for noun in ("CIDR", "CIDRSet", "Requires", "Nodes", "Groups")}
    later |= {"icmps", "authentication"} | ({"toFQDNs", "toServices"} if side == "to" else set())
    supported = (f"{side}Endpoints", f"{side}Entities", "toPorts")
    present = fields.mapping(node, supported, later=later)
    ports = read_ports(present.get("toPorts"), deny=deny, fields=fields)
    peers = read_peers(
        present.get(f"{side}Endpoints"),
        present.get(f"{side}Entities"),
        with_ports="toPorts" in present and bool(present["toPorts"].items),
        namespace=namespace,
        fields=fields,
    )
    return RuleEntry(path=node.path, direction=direction, deny=deny, peers=peers, ports=ports)


def _stored_form(one: _Object, present: dict[str, Node]) -> dict[str, Json]:
    metadata: dict[str, Json] = {"name": one.name, "namespace": one.namespace}
    if one.labels:
        metadata["labels"] = {**one.labels}
    stored: dict[str, Json] = {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata}
    for key in ("spec", "specs"):
        if key in present:
            stored[key] = present[key].plain()
    return stored
