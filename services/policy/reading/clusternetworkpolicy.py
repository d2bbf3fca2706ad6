"""Tiered objects of policy.networking.k8s.io: ClusterNetworkPolicy, AdminNetworkPolicy and its baseline.

    ClusterNetworkPolicy (v1alpha2)        tier Admin or Baseline, Accept | Deny | Pass
    AdminNetworkPolicy (v1alpha1)          tier Admin, Allow | Deny | Pass
    BaselineAdminNetworkPolicy (v1alpha1)  tier Baseline, Allow | Deny, one object named `default`

Rules are ordered: the priority of the object, then their place in its section. They say what happens to the
traffic that they match and nothing about other traffic, so they never switch default deny on. Subjects and
peers are pods; `networks` are addresses outside the cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from axoneme.lib.policy.model import Action, Direction, NamedPort
from axoneme.lib.policy.precedence import Tier
from axoneme.lib.selectors import LabelSelector
from services.policy.reading.document import Node
from services.policy.reading.fields import Fields
from services.policy.reading.kubernetesfields import select_pods
from services.policy.reading.metadata import read_metadata, stored_form
from services.policy.reading.tieredpeers import (
    EGRESS_PEERS,
    POD_PEERS,
    read_namespaced_pods,
    read_tiered_peers,
)
from services.policy.reading.tieredports import Ports, read_admin_ports, read_protocols
from services.policy.rules import NO_RESTRICTION, ParsedPolicy, PolicyKey, PortRule, Rule, RuleEntry

GROUP: Final = "policy.networking.k8s.io"
MAX_PRIORITY: Final = 1_000
RULES_OF_A_PRIORITY: Final = 128
"""Room for the rules of one section between two priorities of objects."""
_MAX_NAME: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """How one of the kinds is written; `tier` None is read from the object."""

    api_version: str
    actions: Mapping[str, Action]
    ports: str
    read_ports: Callable[[Node, Fields], Ports]
    most: int
    destinations: tuple[str, ...] = (*POD_PEERS, *EGRESS_PEERS)
    tier: Tier | None = None
    singleton: bool = False


_ACCEPT: Final = {"Accept": Action.ALLOW, "Deny": Action.DENY, "Pass": Action.PASS}
_ALLOW: Final = {"Allow": Action.ALLOW, "Deny": Action.DENY, "Pass": Action.PASS}
_KINDS: Final = {
    "ClusterNetworkPolicy": _Kind(
        api_version=f"{GROUP}/v1alpha2",
        actions=_ACCEPT,
        ports="protocols",
        read_ports=read_protocols,
        most=25,
    ),
    "AdminNetworkPolicy": _Kind(
        api_version=f"{GROUP}/v1alpha1",
        actions=_ALLOW,
        ports="ports",
        read_ports=read_admin_ports,
        most=100,
        tier=Tier.ADMIN,
    ),
    "BaselineAdminNetworkPolicy": _Kind(
        api_version=f"{GROUP}/v1alpha1",
        actions={"Allow": Action.ALLOW, "Deny": Action.DENY},
        ports="ports",
        read_ports=read_admin_ports,
        most=100,
        destinations=(*POD_PEERS, "nodes", "networks"),
        tier=Tier.BASELINE,
        singleton=True,
    ),
}
KINDS: Final = {name: kind.api_version for name, kind in _KINDS.items()}
"""The kinds that this module reads, with their apiVersion."""
_TIERS: Final = {"Admin": Tier.ADMIN, "Baseline": Tier.BASELINE}


def read_tiered(node: Node, fields: Fields) -> ParsedPolicy | None:
    """The policy of an object of one of these kinds; None after faults."""
    before = len(fields.faults)
    present = fields.mapping(node, ("apiVersion", "kind", "metadata", "spec"), ignored=("status",))
    name = str(present["kind"].scalar)
    kind = _KINDS[name]
    meta = read_metadata(node, present.get("metadata"), fields, namespaced=False, default_namespace="")
    if kind.singleton and meta.name not in ("", "default"):
        fields.fault(_name_of(node), f"{meta.name!r} is not the name of a {name}", "name it default")
    if "spec" not in present:
        fields.fault(node, "the object has no spec", "give it `spec` with a subject and rules")
        return None
    rule = _rule(present["spec"], kind, fields)
    if len(fields.faults) > before:
        return None
    return ParsedPolicy(
        key=PolicyKey(name, "", meta.name),
        labels=meta.origin_labels,
        rules=(rule,),
        document=stored_form(kind.api_version, name, meta, present),
        audit=meta.audit,
    )


def _name_of(node: Node) -> Node:
    metadata = (node.mapping or {}).get("metadata", node)
    return (metadata.mapping or {}).get("name", metadata)


def _rule(node: Node, kind: _Kind, fields: Fields) -> Rule:
    own = () if kind.tier is not None else ("tier",)
    numbered = () if kind.singleton else ("priority",)
    present = fields.mapping(node, (*own, *numbered, "subject", "ingress", "egress"))
    for needed in (*own, *numbered, "subject"):
        if needed not in present:
            fields.fault(node, f"{node.path} has no {needed}", _NEEDED[needed])
    tier = kind.tier if kind.tier is not None else _tier(present.get("tier"), fields)
    level = 0
    if "priority" in present:
        level = fields.whole_number(present["priority"], 0, MAX_PRIORITY) or 0
    entries = [
        _entry(item, direction, kind, tier, level * RULES_OF_A_PRIORITY + index, fields)
        for direction in Direction
        for index, item in enumerate(_items(present.get(direction.name.lower()), kind.most, fields))
    ]
    return Rule(path=node.path, subject=_subject(present.get("subject"), fields), entries=tuple(entries))


_NEEDED: Final = {
    "tier": "write tier: Admin or tier: Baseline",
    "priority": f"write a number from 0 (the strongest) to {MAX_PRIORITY}",
    "subject": "`subject: {namespaces: {}}` is every pod",
}


def _items(node: Node | None, most: int, fields: Fields) -> list[Node]:
    if node is None:
        return []
    items = fields.items(node)
    if len(items) > most:
        fields.fault(node, f"{len(items)} rules; at most {most} are accepted", "write another object")
    return items[:most]


def _tier(node: Node | None, fields: Fields) -> Tier:
    text = None if node is None else fields.choice(node, "tier", _TIERS)
    return _TIERS.get(text or "", Tier.ADMIN)


def _subject(node: Node | None, fields: Fields) -> LabelSelector:
    if node is None:
        return LabelSelector()
    present = fields.mapping(node, POD_PEERS)
    if fields.only_one(node, present, POD_PEERS) == "namespaces":
        return select_pods(present["namespaces"], None, fields)
    return read_namespaced_pods(present["pods"], fields) if "pods" in present else LabelSelector()


def _entry(
    node: Node, direction: Direction, kind: _Kind, tier: Tier, priority: int, fields: Fields
) -> RuleEntry:
    side = "from" if direction is Direction.INGRESS else "to"
    present = fields.mapping(node, ("name", "action", side, kind.ports))
    _check_name(present.get("name"), fields)
    action = _action(node, present.get("action"), kind, fields)
    ports = _ports(present.get(kind.ports), kind, fields)
    named = any(isinstance(port, NamedPort) for rule in ports for port in rule.ports)
    if side not in present:
        fields.fault(
            node, f"{node.path} has no {side}", "name at least one peer; `namespaces: {}` is every pod"
        )
    peers = read_tiered_peers(
        present.get(side),
        accepted=POD_PEERS if direction is Direction.INGRESS else kind.destinations,
        action=action,
        named_ports=named,
        most=kind.most,
        fields=fields,
    )
    return RuleEntry(
        path=node.path,
        direction=direction,
        action=action,
        peers=peers,
        ports=ports,
        tier=tier,
        priority=priority,
    )


def _check_name(node: Node | None, fields: Fields) -> None:
    text = None if node is None else fields.text(node)
    if node is not None and text is not None and len(text) > _MAX_NAME:
        fields.fault(node, f"the name has {len(text)} characters", f"use at most {_MAX_NAME}")


def _action(rule: Node, node: Node | None, kind: _Kind, fields: Fields) -> Action:
    if node is None:
        fields.fault(rule, f"{rule.path} has no action", f"write one of {', '.join(kind.actions)}")
        return Action.DENY
    text = fields.choice(node, "action", kind.actions)
    return kind.actions.get(text or "", Action.DENY)


def _ports(node: Node | None, kind: _Kind, fields: Fields) -> tuple[PortRule, ...]:
    if node is None:
        return NO_RESTRICTION
    items = fields.items(node)
    if node.items == []:
        fields.fault(node, f"{node.path} is empty", "to match every port leave it out")
    if len(items) > kind.most:
        fields.fault(node, f"{len(items)} elements; at most {kind.most} are accepted", "split the rule")
    ports = {port for item in items for port in kind.read_ports(item, fields)}
    return (PortRule(ports=tuple(sorted(ports, key=repr))),)
