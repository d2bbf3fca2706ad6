"""Peers and subjects of tiered rules: pods by namespace and labels, nodes, networks and names."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from axoneme.lib.policy.model import Action
from axoneme.lib.selectors import LabelSelector
from services.policy.reading.cidrfields import read_prefix
from services.policy.reading.document import Node
from services.policy.reading.fields import Fields
from services.policy.reading.fqdnfields import canonical_pattern
from services.policy.reading.kubernetesfields import select_pods
from services.policy.rules import CidrPeer, EntityName, FqdnPeer, Peers

MAX_NETWORKS: Final = 25
POD_PEERS: Final = ("namespaces", "pods")
EGRESS_PEERS: Final = ("nodes", "networks", "domainNames")
_LABEL: Final = r"[a-zA-Z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?"
_DOMAIN: Final = re.compile(rf"(\*\.)?({_LABEL}\.)+{_LABEL}\.?")
_MAX_DOMAIN: Final = 255


@dataclass(slots=True)
class _Found:
    """What the elements of one `from` or `to` name."""

    selectors: set[LabelSelector] = field(default_factory=set)
    cidrs: set[CidrPeer] = field(default_factory=set)
    fqdns: set[FqdnPeer] = field(default_factory=set)
    entities: set[EntityName] = field(default_factory=set)

    def peers(self) -> Peers:
        """Their union."""
        return Peers(
            selectors=tuple(sorted(self.selectors)),
            entities=tuple(sorted(self.entities)),
            cidrs=tuple(sorted(self.cidrs)),
            fqdns=tuple(sorted(self.fqdns)),
        )


def read_namespaced_pods(node: Node, fields: Fields) -> LabelSelector:
    """The value of a `pods` key. The API text: no namespaceSelector is every namespace."""
    present = fields.mapping(node, ("namespaceSelector", "podSelector"))
    if "podSelector" not in present:
        fields.fault(node, f"{node.path} has no podSelector", "`podSelector: {}` is every pod there")
    return select_pods(present.get("namespaceSelector"), present.get("podSelector"), fields)


def read_tiered_peers(
    node: Node | None,
    *,
    accepted: tuple[str, ...],
    action: Action,
    named_ports: bool,
    most: int,
    fields: Fields,
) -> Peers:
    """The peers of one rule, elements with one of the keys `accepted`.

    What is no pod has no named ports, so both together are refused.
    """
    found = _Found()
    if node is None:
        return found.peers()
    items = fields.items(node)
    if node.items == []:
        fields.fault(node, "a rule without peers", "name at least one; `namespaces: {}` is every pod")
    if len(items) > most:
        fields.fault(node, f"{len(items)} peers; at most {most} are accepted", "split the rule")
    for item in items:
        kind = _read_peer(item, accepted, action, found, fields)
        if kind in EGRESS_PEERS and named_ports:
            fields.fault(item, f"{kind} have no named ports", "write numbers, or a rule of its own")
    return found.peers()


def _read_peer(
    node: Node, accepted: tuple[str, ...], action: Action, found: _Found, fields: Fields
) -> str | None:
    before = len(fields.faults)
    elsewhere = {key: _not_here(key) for key in EGRESS_PEERS if key not in accepted}
    present = fields.mapping(node, accepted, refused=elsewhere)
    if not present and len(fields.faults) > before:
        return None
    kind = fields.only_one(node, present, accepted)
    if kind == "namespaces":
        found.selectors.add(select_pods(present[kind], None, fields))
    elif kind == "pods":
        found.selectors.add(read_namespaced_pods(present[kind], fields))
    elif kind == "nodes":
        found.entities.update(_nodes(present[kind], fields))
    elif kind == "networks":
        prefixes = [read_prefix(item, fields) for item in _few(present[kind], fields)]
        found.cidrs.update(CidrPeer(cidr=prefix) for prefix in prefixes if prefix is not None)
    elif kind == "domainNames":
        found.fqdns.update(_domains(present[kind], action, fields))
    return kind


def _not_here(key: str) -> tuple[str, str]:
    return f"{key} are not accepted in this rule", "name pods here, or write a CiliumNetworkPolicy"


def _nodes(node: Node, fields: Fields) -> list[EntityName]:
    """All nodes, the own one too. What a pod's own node is labelled is not part of its policy, so a selector
    by labels could miss that node, and a deny would fail open.
    """
    present = fields.mapping(node, ("matchLabels", "matchExpressions"))
    if any(child.mapping or child.items or child.scalar is not None for child in present.values()):
        reason = "not supported: nodes by their labels in a tiered rule"
        fields.fault(node, reason, "write `nodes: {}` for all nodes, or toNodes in a CiliumNetworkPolicy")
    return [EntityName.HOST, EntityName.REMOTE_NODE]


def _few(node: Node, fields: Fields) -> list[Node]:
    items = fields.items(node)
    if node.items == []:
        fields.fault(node, f"{node.path} is empty", "name at least one, or leave the element out")
    if len(items) > MAX_NETWORKS:
        fields.fault(node, f"{len(items)} elements; at most {MAX_NETWORKS} are accepted", "split the list")
    return items


def _domains(node: Node, action: Action, fields: Fields) -> list[FqdnPeer]:
    if action is not Action.ALLOW:
        fix = "accept the names in a stronger rule and deny networks in a weaker one"
        fields.fault(node, "domainNames only belong into rules that accept", fix)
    names = [_domain(item, fields) for item in _few(node, fields)]
    return [name for name in names if name is not None]


def _domain(node: Node, fields: Fields) -> FqdnPeer | None:
    text = fields.text(node)
    if text is None:
        return None
    if len(text) > _MAX_DOMAIN or not _DOMAIN.fullmatch(text):
        fields.fault(node, f"{text[:60]!r} is not a domain name", "write example.org or *.example.org")
        return None
    # Here `*.` is one or more whole labels, which a pattern of a CiliumNetworkPolicy writes as `**.`.
    wild = text.startswith("*")
    return FqdnPeer(text=canonical_pattern(f"*{text}" if wild else text), pattern=wild)
