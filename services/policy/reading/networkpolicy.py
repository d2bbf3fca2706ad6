"""NetworkPolicy objects (networking.k8s.io/v1) out of document trees.

Emptiness reads otherwise than in a CiliumNetworkPolicy: `from: []` and no `from` are anyone, `ingress: [{}]`
allows everything, no `ports` are all protocols. An ipBlock stands for addresses outside the cluster, it never
selects pods, whatever their addresses are (Kubernetes leaves that to the implementation).
"""

from __future__ import annotations

from typing import Final

from axoneme.lib.policy.model import Action, Direction, NamedPort, PortBlock, blocks_of_range
from axoneme.lib.selectors import LabelSelector
from services.policy.reading.cidrfields import read_excepts, read_prefix
from services.policy.reading.document import Node
from services.policy.reading.fields import Fields
from services.policy.reading.kubernetesfields import (
    MAX_PORT,
    every_port,
    read_label_selector,
    read_port_name,
    read_protocol,
    select_pods,
)
from services.policy.reading.metadata import read_metadata, stored_form
from services.policy.rules import (
    NO_RESTRICTION,
    CidrPeer,
    ParsedPolicy,
    Peers,
    PolicyKey,
    PortRule,
    Rule,
    RuleEntry,
)
from services.policy.scope import in_namespace

KIND: Final = "NetworkPolicy"
API_VERSION: Final = "networking.k8s.io/v1"
_TYPES: Final = {"Ingress": Direction.INGRESS, "Egress": Direction.EGRESS}
# Section -> direction, key of its peers.
_SECTIONS: Final = {"ingress": (Direction.INGRESS, "from"), "egress": (Direction.EGRESS, "to")}


def read_network_policy(node: Node, default_namespace: str, fields: Fields) -> ParsedPolicy | None:
    """The policy of an object of this kind; None after faults."""
    before = len(fields.faults)
    present = fields.mapping(node, ("apiVersion", "kind", "metadata", "spec"), ignored=("status",))
    meta = read_metadata(
        node, present.get("metadata"), fields, namespaced=True, default_namespace=default_namespace
    )
    if "spec" not in present:
        fields.fault(
            node, "the object has no spec", "give it `spec`; `spec: {podSelector: {}}` is every pod here"
        )
        return None
    rule = _rule(present["spec"], meta.namespace, fields)
    if len(fields.faults) > before:
        return None
    return ParsedPolicy(
        key=PolicyKey(KIND, meta.namespace, meta.name),
        labels=meta.origin_labels,
        rules=(rule,),
        document=stored_form(API_VERSION, KIND, meta, present),
        audit=meta.audit,
    )


def _rule(node: Node, namespace: str, fields: Fields) -> Rule:
    present = fields.mapping(node, ("podSelector", "policyTypes", *_SECTIONS))
    # An absent podSelector is an empty one for the API server, so it selects every pod here.
    subject = _in(namespace, present.get("podSelector"), fields)
    types = _types(present, fields)
    entries: list[RuleEntry] = []
    for section, (direction, _) in _SECTIONS.items():
        read = [_entry(item, section, namespace, fields) for item in _items(present.get(section), fields)]
        # The API text makes a section of a type that is not listed inert. Cilium enforces such an ingress
        # section; here the text holds.
        entries += read if direction in types else []
    return Rule(path=node.path, subject=subject, entries=tuple(entries), locks=types)


def _types(present: dict[str, Node], fields: Fields) -> frozenset[Direction]:
    listed = _items(present.get("policyTypes"), fields)
    if not listed:
        with_egress = "egress" in present and present["egress"].items != []
        return frozenset(_TYPES.values()) if with_egress else frozenset({Direction.INGRESS})
    texts = [fields.choice(item, "policy type", _TYPES) for item in listed]
    return frozenset(_TYPES[text] for text in texts if text is not None)


def _items(node: Node | None, fields: Fields) -> list[Node]:
    return [] if node is None else fields.items(node)


def _in(namespace: str, pods: Node | None, fields: Fields) -> LabelSelector:
    return LabelSelector.of(in_namespace(namespace), *read_label_selector(pods, fields))


def _entry(node: Node, section: str, namespace: str, fields: Fields) -> RuleEntry:
    direction, side = _SECTIONS[section]
    present = fields.mapping(node, (side, "ports"))
    peers = _items(present.get(side), fields)
    ports = [port for item in _items(present.get("ports"), fields) for port in _port(item, fields)]
    return RuleEntry(
        path=node.path,
        direction=direction,
        action=Action.ALLOW,
        peers=_peers(peers, namespace, fields) if peers else Peers(anyone=True),
        ports=(PortRule(ports=tuple(sorted(set(ports), key=repr))),) if ports else NO_RESTRICTION,
    )


def _peers(items: list[Node], namespace: str, fields: Fields) -> Peers:
    selectors: set[LabelSelector] = set()
    cidrs: set[CidrPeer] = set()
    for item in items:
        present = fields.mapping(item, ("podSelector", "namespaceSelector", "ipBlock"))
        block = present.pop("ipBlock", None)
        if block is not None:
            cidrs.update(_block(block, fields))
            if present:
                fix = "write two elements, one for each"
                fields.fault(item, "a peer has an ipBlock and a selector", fix)
        elif "namespaceSelector" in present:
            selectors.add(select_pods(present["namespaceSelector"], present.get("podSelector"), fields))
        elif "podSelector" in present:
            selectors.add(_in(namespace, present["podSelector"], fields))
        elif item.mapping is not None and all(child.null for child in item.mapping.values()):
            fix = "write podSelector, namespaceSelector or ipBlock; to allow anyone leave the list out"
            fields.fault(item, "a peer without content", fix)
    return Peers(selectors=tuple(sorted(selectors)), cidrs=tuple(sorted(cidrs)))


def _block(node: Node, fields: Fields) -> list[CidrPeer]:
    present = fields.mapping(node, ("cidr", "except"))
    if "cidr" not in present:
        fields.fault(node, "the ipBlock has no cidr", "write cidr: 192.0.2.0/24, or 2001:db8::/32")
        return []
    prefix = read_prefix(present["cidr"], fields)
    excepts = read_excepts(present["except"], prefix, fields) if "except" in present else ()
    return [] if prefix is None else [CidrPeer(cidr=prefix, excepts=excepts)]


def _port(node: Node, fields: Fields) -> tuple[PortBlock | NamedPort, ...]:
    present = fields.mapping(node, ("protocol", "port", "endPort"))
    protocol = read_protocol(present.get("protocol"), fields)
    port, end = present.get("port"), present.get("endPort")
    if port is None:
        if end is not None:
            fields.fault(end, "endPort without a port", "write the first port of the range as `port`")
        return () if protocol is None else every_port(protocol)
    if isinstance(port.scalar, str):
        name = read_port_name(port, fields, number_fix="write it without quotes")
        if end is not None:
            fields.fault(end, "endPort with a named port", "write the number as `port`")
        return () if protocol is None or name is None else (NamedPort(protocol, name),)
    first = fields.whole_number(port, 1, MAX_PORT)
    last = first if end is None or first is None else fields.whole_number(end, first, MAX_PORT)
    if protocol is None or first is None or last is None:
        return ()
    return blocks_of_range(protocol, first, last)
