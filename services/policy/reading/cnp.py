"""CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy objects (cilium.io/v2) out of document trees.

    node -> metadata, rules -> sections -> entries (peers x ports) -> ParsedPolicy, or every fault at once

Nothing is skipped: dropping a part of a policy silently changes what it allows. Absent, [] and [{}] mean
different things here (a field that resolves to nothing selects nobody), so every reader works on nodes, not
on defaults. What the rules refer to (services, groups, names, named ports) is resolved later, by `bind`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from axoneme.lib.labels import RESERVED
from axoneme.lib.policy.model import Action, AuthMode, Direction
from axoneme.lib.selectors import LabelSelector
from services.policy.reading import ruleinfo
from services.policy.reading.context import Reading
from services.policy.reading.document import Node
from services.policy.reading.fields import Fields
from services.policy.reading.icmpfields import read_icmps
from services.policy.reading.metadata import AUDIT, ObjectMeta, read_metadata, stored_form
from services.policy.reading.peers import peer_keys, read_peers, read_requires
from services.policy.reading.ports import MAX_PORTS, read_ports
from services.policy.reading.selectorfields import read_node_selector, read_selector
from services.policy.rules import NO_RESTRICTION, ParsedPolicy, PolicyKey, PortRule, Rule, RuleEntry
from services.policy.scope import scope_subject

KIND: Final = "CiliumNetworkPolicy"
CLUSTERWIDE_KIND: Final = "CiliumClusterwideNetworkPolicy"
KINDS: Final = frozenset({KIND, CLUSTERWIDE_KIND})
API_VERSION: Final = "cilium.io/v2"

# Section -> direction, deny.
_SECTIONS: Final = {
    "ingress": (Direction.INGRESS, False),
    "egress": (Direction.EGRESS, False),
    "ingressDeny": (Direction.INGRESS, True),
    "egressDeny": (Direction.EGRESS, True),
}
_DEFAULT_DENY: Final = {"ingress": Direction.INGRESS, "egress": Direction.EGRESS}
_AUTH_MODES: Final = {
    "disabled": AuthMode.DISABLED,
    "required": AuthMode.REQUIRED,
    "test-always-fail": AuthMode.ALWAYS_FAIL,
}
_NOT_IN_DENY: Final = {
    "toFQDNs": ("a deny of names", "names resolve too late to deny; deny prefixes or entities"),
    "fromRequires": ("a deny with fromRequires", "it narrows allows only; write it under ingress"),
    "toRequires": ("a deny with toRequires", "it narrows allows only; write it under egress"),
    "authentication": ("a deny with authentication", "what is denied cannot authenticate; remove it"),
}


def read_cilium(node: Node, default_namespace: str, fields: Fields) -> ParsedPolicy | None:
    """The policy of one object whose kind is one of KINDS; None if it has faults."""
    before = len(fields.faults)
    present = fields.mapping(
        node,
        ("apiVersion", "kind", "metadata", "spec", "specs"),
        refused={"description": ("description beside spec", "move it into spec")},
        ignored=("status",),
    )
    kind = CLUSTERWIDE_KIND if "kind" in present and present["kind"].scalar == CLUSTERWIDE_KIND else KIND
    meta = read_metadata(
        node,
        present.get("metadata"),
        fields,
        namespaced=kind == KIND,
        default_namespace=default_namespace,
    )
    rules = [_rule(rule, meta, fields) for rule in _rule_nodes(node, present, fields)]
    if len(fields.faults) > before:
        return None
    return ParsedPolicy(
        key=PolicyKey(kind, meta.namespace, meta.name),
        labels=meta.origin_labels,
        rules=tuple(rules),
        document=stored_form(API_VERSION, kind, meta, present),
        audit=meta.audit,
    )


def _rule_nodes(node: Node, present: dict[str, Node], fields: Fields) -> list[Node]:
    rules = [present["spec"]] if "spec" in present else []
    if "specs" in present:
        rules += fields.items(present["specs"])
    if not rules and node.mapping is not None:
        fix = "give it `spec`, or `specs` with at least one element"
        fields.fault(node, "the object has no rule", fix)
    return rules


def _rule(node: Node, meta: ObjectMeta, fields: Fields) -> Rule:
    present = fields.mapping(
        node, ("endpointSelector", "nodeSelector", *_SECTIONS, "enableDefaultDeny", *ruleinfo.KEYS)
    )
    ruleinfo.check_info(present, fields)
    subject = _subject(node, present, meta.namespace, fields)
    reading = Reading(
        fields=fields,
        namespace=meta.namespace,
        about_init=_about_init(subject),
        of_nodes="nodeSelector" in present,
        audit=meta.audit,
    )
    sections = {key: fields.items(present[key]) for key in _SECTIONS if key in present}
    entries = [_entry(item, key, reading) for key, items in sections.items() for item in items]
    _check_proxied_ports(node, entries, fields)
    if node.mapping is not None and not any(present[key].items != [] for key in sections):
        fix = "to deny by default write `ingress: [{}]` or `egress: [{}]`"
        fields.fault(node, f"{node.path} has no rules", fix)
    return Rule(
        path=node.path,
        subject=subject,
        entries=tuple(entries),
        of_nodes=reading.of_nodes,
        locks=_locks(present, sections, fields),
    )


def _check_proxied_ports(node: Node, entries: Iterable[RuleEntry], fields: Fields) -> None:
    """An endpoint has so many ports with rules for a proxy at most, over all of its entries."""
    proxied = {
        getattr(ports, "name", None) or getattr(ports, "port", 0)
        for entry in entries
        for rule in entry.ports
        if rule.l7 is not None
        for ports in rule.ports
    }
    if len(proxied) > MAX_PORTS:
        reason = (
            f"{node.path} has {len(proxied)} ports with rules for a proxy, at most {MAX_PORTS} are possible"
        )
        fields.fault(node, reason, "give the others no rules in their toPorts")


def _subject(node: Node, present: dict[str, Node], namespace: str, fields: Fields) -> LabelSelector:
    """What the rule selects; a namespaced policy stays in its namespace whatever it says."""
    written = [key for key in ("endpointSelector", "nodeSelector") if key in present]
    if not written:
        if node.mapping is not None:
            fix = "`endpointSelector: {}` is every pod " + ("of the namespace" if namespace else "there is")
            fields.fault(node, f"{node.path} has no endpointSelector", fix)
        return LabelSelector()
    if len(written) > 1:
        fix = "write two rules, one for pods and one for nodes"
        fields.fault(present["nodeSelector"], "endpointSelector and nodeSelector in one rule", fix)
    if "nodeSelector" in present:
        if namespace:
            reason = "a nodeSelector in a namespace: nodes belong to none"
            fields.fault(present["nodeSelector"], reason, f"use kind: {CLUSTERWIDE_KIND}")
        return read_node_selector(present["nodeSelector"], fields)
    selector = read_selector(present["endpointSelector"], fields, subject=bool(namespace))
    return scope_subject(selector, namespace) if namespace else selector


def _about_init(subject: LabelSelector) -> bool:
    return any(one.source == RESERVED and one.key == "init" for one in subject.requirements)


def _locks(present: dict[str, Node], sections: dict[str, list[Node]], fields: Fields) -> frozenset[Direction]:
    """Directions with a section, unless enableDefaultDeny takes one out."""
    locks = {_SECTIONS[key][0] for key, items in sections.items() if items}
    if "enableDefaultDeny" in present:
        written = fields.mapping(present["enableDefaultDeny"], tuple(_DEFAULT_DENY))
        locks -= {_DEFAULT_DENY[key] for key, child in written.items() if fields.boolean(child) is False}
    return frozenset(locks)


def _entry(node: Node, section: str, of_rule: Reading) -> RuleEntry:
    direction, deny = _SECTIONS[section]
    reading = replace(of_rule, direction=direction, deny=deny)
    fields = reading.fields
    requires, keys = f"{reading.side}Requires", (*peer_keys(reading), "toPorts", "icmps")
    if deny:
        keys = tuple(key for key in keys if key not in _NOT_IN_DENY)
        present = fields.mapping(node, keys, refused=_refused(reading))
    else:
        present = fields.mapping(node, (*keys, requires, "authentication"))
    _refuse_null_peers(node, peer_keys(reading), fields)
    if reading.audit and requires in present:
        # It narrows what enforced rules allow, so that the trial would drop traffic.
        reason = f"{requires} in a policy that is only tried out"
        fields.fault(present[requires], reason, f"take the annotation {AUDIT} away, or {requires}")
    ports = _ports(present, reading)
    needed = read_requires(present.get(requires), reading)
    peers = read_peers(present, reading, with_ports=ports is not None)
    if needed and peers.anyone:
        # The narrowing is about named peers only, so that this would let in anyone.
        fields.fault(present[requires], f"{requires} with ports but without peers", "name the peers")
    return RuleEntry(
        path=node.path,
        direction=direction,
        action=Action.DENY if deny else Action.ALLOW,
        peers=peers,
        ports=NO_RESTRICTION if ports is None else ports,
        auth=_auth(present["authentication"], fields) if "authentication" in present else None,
        requires=needed,
    )


def _refuse_null_peers(node: Node, keys: Iterable[str], fields: Fields) -> None:
    """A peer field without a value would read as absent, which with ports is anyone."""
    for key in keys:
        child = (node.mapping or {}).get(key)
        if child is not None and child.null:
            fix = f"write `{key}: []` for nobody, or leave the field out for anyone"
            fields.fault(child, f"{key} has no value", fix)


def _refused(reading: Reading) -> dict[str, tuple[str, str]]:
    here = ("fromRequires",) if reading.side == "from" else ("toRequires", "toFQDNs")
    return {key: _NOT_IN_DENY[key] for key in (*here, "authentication")}


def _ports(present: dict[str, Node], reading: Reading) -> tuple[PortRule, ...] | None:
    """The rules of toPorts or icmps; None if there is no element, which is no restriction."""
    both = [key for key in ("toPorts", "icmps") if key in present and present[key].items != []]
    if len(both) > 1:
        reading.fields.fault(present["icmps"], "toPorts and icmps in one entry", "write two entries")
    read = [
        read_ports(present[key], reading) if key == "toPorts" else read_icmps(present[key], reading)
        for key in both
    ]
    return None if not read else tuple(rule for rules in read for rule in rules)


def _auth(node: Node, fields: Fields) -> AuthMode | None:
    present = fields.mapping(node, ("mode",))
    if "mode" not in present:
        if node.mapping is not None:
            fields.fault(node, "authentication has no mode", f"write mode: {' or '.join(_AUTH_MODES)}")
        return None
    mode = fields.choice(present["mode"], "mode", tuple(_AUTH_MODES))
    return None if mode is None else _AUTH_MODES[mode]
