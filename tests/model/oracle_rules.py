"""What policies of every kind say about one subject, as plain dictionaries for the oracle to try one by one.

A rule is {"policy", "audit", "locks": set of directions, "entries": [...]}; an entry is {"direction",
"action", "level": (tier, priority, index), "anyone", "peer": function of a party, "ports": [...], "auth",
"policy", "audit", "group"}; `group` tells entries with the same peers apart from others (conflicts).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tests.model import oracle_peers as peers
from tests.model.oracle_ports import cilium_ports, kubernetes_ports, tiered_ports
from tests.model.oracle_selectors import NAMESPACE, matches, mentions, split
from tests.model.oracle_world import Party

ADMIN, NORMAL, BASELINE = 0, 1, 2
AUDIT = "policy.axoneme.io/audit"
Rule = dict[str, Any]
World = Mapping[str, Any]


def rules_for(world: World, subject: Party) -> list[Rule]:
    """The rules that select a subject; `world` has `case`, `settings` and `parties`."""
    found = []
    for policy in world["case"]["policies"]:
        for rule in _rules(world, policy, subject):
            rule["policy"] = policy["metadata"]["name"]
            rule["audit"] = (policy["metadata"].get("annotations") or {}).get(AUDIT) == "true"
            for entry in rule["entries"]:
                entry |= {"policy": rule["policy"], "audit": rule["audit"]}
            found.append(rule)
    _narrow(found)
    return found


def _rules(world: World, policy: Mapping[str, Any], subject: Party) -> Iterator[Rule]:
    kind, metadata = policy["kind"], policy["metadata"]
    if kind in ("CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy"):
        namespace = metadata.get("namespace", "default") if kind == "CiliumNetworkPolicy" else None
        single = [policy["spec"]] if policy.get("spec") else []
        for spec in single + list(policy.get("specs") or []):
            if _cilium_subject(spec, namespace, subject):
                yield _cilium_rule(world, spec, namespace, subject)
    elif kind == "NetworkPolicy":
        yield from _kubernetes_rule(world, policy, subject)
    else:
        yield from _tiered_rule(world, policy, subject)


def _narrow(rules: list[Rule]) -> None:
    """fromRequires and toRequires narrow what fromEndpoints and toEndpoints of all rules allow."""
    for direction in ("ingress", "egress"):
        entries = [e for rule in rules for e in rule["entries"] if e["direction"] == direction]
        extra = [one for entry in entries for one in entry["requires"]]
        for entry in entries:
            if entry["level"][0] == NORMAL and entry["action"] == "allow" and entry["selective"] and extra:
                entry["peer"] = _both(entry["peer"], extra)


def _both(peer: Any, extra: list[Any]) -> Any:
    return lambda party: peer(party) and all(one(party) for one in extra)


def _cilium_subject(spec: Mapping[str, Any], namespace: str | None, subject: Party) -> bool:
    if "nodeSelector" in spec:
        return subject["kind"] == "host" and matches(spec["nodeSelector"], subject["node"])
    selector = spec.get("endpointSelector") or {}
    if subject["kind"] == "host":
        return False
    if namespace is None:
        return matches(selector, subject["labels"])
    replaced = {
        key: value
        for key, value in (selector.get("matchLabels") or {}).items()
        if split(key) not in (("any", NAMESPACE), ("k8s", NAMESPACE))
    }
    there = ("k8s", NAMESPACE, namespace) in subject["labels"]
    return there and matches({**selector, "matchLabels": replaced}, subject["labels"])


def _cilium_rule(world: World, spec: Mapping[str, Any], namespace: str | None, subject: Party) -> Rule:
    about_init = mentions(spec.get("endpointSelector"), "reserved", "init")
    entries, locks = [], set()
    for direction in ("ingress", "egress"):
        for section, action in ((direction, "allow"), (direction + "Deny", "deny")):
            for one in spec.get(section) or []:
                scope = (namespace, about_init)
                entries.append(_cilium_entry(world, one, direction, action, scope, subject))
        there = spec.get(direction) or spec.get(direction + "Deny")
        if there and (spec.get("enableDefaultDeny") or {}).get(direction) is not False:
            locks.add(direction)
    return {"locks": locks, "entries": entries}


def _cilium_entry(
    world: World,
    one: Mapping[str, Any],
    direction: str,
    action: str,
    scope: tuple[str | None, bool],
    subject: Party,
) -> Rule:
    side = "from" if direction == "ingress" else "to"
    fields = {key: value for key, value in one.items() if key in peers.fields(side) and value is not None}
    ported = bool(one.get("toPorts") or one.get("icmps"))
    anyone = (not fields and ported) or "all" in (fields.get(side + "Entities") or [])
    requires = one.get(side + "Requires") or []
    return {
        "direction": direction,
        "action": action,
        "level": (NORMAL, 0, 0),
        "anyone": anyone,
        "peer": (lambda party: True) if anyone else peers.cilium_peer(world, fields, side, scope),
        "selective": bool(fields.get(side + "Endpoints")),
        "requires": [peers.endpoint_peer(world, selector, scope) for selector in requires],
        "ports": cilium_ports(one),
        "auth": (one.get("authentication") or {}).get("mode"),
        "group": "anyone" if anyone else json.dumps([scope, fields], sort_keys=True),
    }


def _kubernetes_rule(world: World, policy: Mapping[str, Any], subject: Party) -> Iterator[Rule]:
    spec, namespace = policy["spec"], policy["metadata"].get("namespace", "default")
    there = ("k8s", NAMESPACE, namespace) in subject["labels"]
    if not there or not matches(spec.get("podSelector"), subject["labels"], "k8s"):
        return
    types = spec.get("policyTypes") or ["Ingress"] + ["Egress"] * bool(spec.get("egress"))
    locks = {name.lower() for name in types}
    entries = []
    for direction, side in (("ingress", "from"), ("egress", "to")):
        # An entry that allows nothing stands for a listed direction without rules.
        listed = [None] * (direction in locks)
        for one in [*listed, *(spec.get(direction) or [])]:
            if direction in locks or world["unlisted"]:
                locks.add(direction)
                entries.append(_kubernetes_entry(world, one, direction, side, namespace))
    yield {"locks": locks, "entries": entries}


def _kubernetes_entry(
    world: World, one: Mapping[str, Any] | None, direction: str, side: str, namespace: str
) -> Rule:
    written = [] if one is None else one.get(side) or []
    anyone = one is not None and not written
    everyone = [peers.kubernetes_peer(world, peer, namespace) for peer in written]
    return {
        "direction": direction,
        "action": "allow",
        "level": (NORMAL, 0, 0),
        "anyone": anyone,
        "peer": (lambda party: True) if anyone else (lambda party: any(peer(party) for peer in everyone)),
        "selective": any("ipBlock" not in peer for peer in written),
        "requires": [],
        "ports": kubernetes_ports((one or {}).get("ports") or []),
        "auth": None,
        "group": "anyone" if anyone else json.dumps([namespace, written], sort_keys=True),
    }


def _tiered_rule(world: World, policy: Mapping[str, Any], subject: Party) -> Iterator[Rule]:
    spec, kind = policy["spec"], policy["kind"]
    if subject["kind"] != "pod" or not peers.tiered_pods(spec["subject"], subject):
        return
    baseline = kind == "BaselineAdminNetworkPolicy" or spec.get("tier") == "Baseline"
    tier = BASELINE if baseline else ADMIN
    entries = []
    for direction, side in (("ingress", "from"), ("egress", "to")):
        for index, one in enumerate(spec.get(direction) or []):
            everyone = [peers.tiered_peer(world, peer) for peer in one[side]]
            entries.append(
                {
                    "direction": direction,
                    "action": {"Accept": "allow", "Allow": "allow"}.get(one["action"], one["action"].lower()),
                    "level": (tier, spec.get("priority", 0), index),
                    "anyone": False,
                    "peer": lambda party, everyone=everyone: any(peer(party) for peer in everyone),
                    "selective": False,
                    "requires": [],
                    "ports": tiered_ports(one),
                    "auth": None,
                    "group": "",
                }
            )
    yield {"locks": set(), "entries": entries}
