"""Random objects of Kubernetes itself: NetworkPolicy and the tiered kinds; all valid."""

from __future__ import annotations

import random
from typing import Any

from tests.model.policycases_rules import PORTS, cidr_set, expression
from tests.model.policycases_world import LABELS, NAMESPACES, PREFIXES, TEAMS, chance, home, some

Json = dict[str, Any]


def _kubernetes_selector(rng: random.Random) -> Json:
    made: Json = {}
    if chance(rng, 40):
        made["matchLabels"] = {key: rng.choice(LABELS[key]) for key in some(rng, LABELS, 1)}
    if chance(rng, 50):
        made["matchExpressions"] = [expression(rng, plain=True)]
    return made


def _namespaces(rng: random.Random) -> Json:
    operator = rng.choice(("Exists", "DoesNotExist"))
    return rng.choice(
        (
            {},
            {"matchLabels": {"team": rng.choice(TEAMS)}},
            {"matchLabels": {"kubernetes.io/metadata.name": rng.choice(NAMESPACES)}},
            {"matchExpressions": [{"key": "team", "operator": operator}]},
            {"matchExpressions": [{"key": "team", "operator": "NotIn", "values": [rng.choice(TEAMS)]}]},
        )
    )


# --- NetworkPolicy


def network_policy(rng: random.Random, families: list[int], index: int) -> Json:
    spec: Json = {"podSelector": _kubernetes_selector(rng)}
    for section, side in (("ingress", "from"), ("egress", "to")):
        if chance(rng, 55):
            spec[section] = [_kubernetes_rule(rng, families, side) for _ in range(rng.randint(0, 2))]
    if chance(rng, 60):
        spec["policyTypes"] = some(rng, ("Ingress", "Egress"), 2, 1)
    metadata: Json = {"name": f"p{index}", "namespace": home(rng)}
    if chance(rng, 10):
        metadata["annotations"] = {"policy.axoneme.io/audit": "true"}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}


def _kubernetes_rule(rng: random.Random, families: list[int], side: str) -> Json:
    made: Json = {}
    if chance(rng, 75):
        made[side] = [_kubernetes_peer(rng, families) for _ in range(rng.randint(0, 2))]
    if chance(rng, 50):
        made["ports"] = [_kubernetes_port(rng) for _ in range(rng.randint(0, 2))]
    return made


def _kubernetes_peer(rng: random.Random, families: list[int]) -> Json:
    if chance(rng, 25):
        block = cidr_set(random.Random(rng.randrange(1 << 20)), families)
        if "cidr" in block:
            return {"ipBlock": block}
    peer: Json = {}
    if chance(rng, 60):
        peer["podSelector"] = _kubernetes_selector(rng)
    if not peer or chance(rng, 50):
        peer["namespaceSelector"] = _namespaces(rng)
    return peer


def _kubernetes_port(rng: random.Random) -> Json:
    made: Json = {}
    if chance(rng, 60):
        made["protocol"] = rng.choice(("TCP", "UDP", "SCTP"))
    if chance(rng, 85):
        made["port"] = rng.choice((*PORTS, "web", "nobody"))
    if isinstance(made.get("port"), int) and chance(rng, 25):
        made["endPort"] = rng.choice([port for port in PORTS if port >= made["port"]])
    return made


# --- tiered objects


def tiered_policy(rng: random.Random, families: list[int], index: int) -> Json:
    kind = rng.choice(("ClusterNetworkPolicy",) * 4 + ("AdminNetworkPolicy", "BaselineAdminNetworkPolicy"))
    new, baseline = kind == "ClusterNetworkPolicy", kind.startswith("Baseline")
    spec: Json = {"subject": _pods(rng)}
    if new:
        spec["tier"] = rng.choice(("Admin", "Baseline"))
    if not baseline:
        # Small numbers, so that objects of one priority meet.
        spec["priority"] = rng.choice((0, 1, 1, 5, 1000))
    actions = ["Accept" if new else "Allow", "Deny"] + ["Pass"] * (not baseline)
    for section, side in (("ingress", "from"), ("egress", "to")):
        if chance(rng, 60):
            rules = [
                _tiered_rule(rng, families, side, rng.choice(actions), new, not baseline)
                for _ in range(rng.randint(1, 3))
            ]
            spec[section] = rules
    version = "v1alpha2" if new else "v1alpha1"
    metadata: Json = {"name": "default" if baseline else f"p{index}"}
    if chance(rng, 10):
        metadata["annotations"] = {"policy.axoneme.io/audit": "true"}
    return {
        "apiVersion": f"policy.networking.k8s.io/{version}",
        "kind": kind,
        "metadata": metadata,
        "spec": spec,
    }


def _pods(rng: random.Random) -> Json:
    if chance(rng, 50):
        return {"namespaces": _namespaces(rng)}
    return {"pods": {"namespaceSelector": _namespaces(rng), "podSelector": _kubernetes_selector(rng)}}


def _tiered_rule(
    rng: random.Random, families: list[int], side: str, action: str, new: bool, named: bool
) -> Json:
    plain = side == "to" and chance(rng, 30)
    peers: list[Json]
    if plain:
        prefixes = [prefix for v in families for prefix in PREFIXES[v]]
        peers = [{"networks": some(rng, prefixes, 2, 1)}]
        if chance(rng, 25):
            peers = [{"nodes": {}}]
        elif action in ("Accept", "Allow") and named and chance(rng, 30):
            peers = [{"domainNames": [rng.choice(("www.example.com", "*.example.org", "*.example.com"))]}]
    else:
        peers = [_pods(rng) for _ in range(rng.randint(1, 2))]
    made: Json = {"action": action, side: peers}
    if chance(rng, 45):
        made["protocols" if new else "ports"] = [
            _tiered_port(rng, new, plain) for _ in range(rng.randint(1, 2))
        ]
    return made


def _tiered_port(rng: random.Random, new: bool, plain: bool) -> Json:
    number, end = rng.choice(PORTS[:-1]), 65535
    if not plain and chance(rng, 15):
        return {"destinationNamedPort" if new else "namedPort": "web"}
    protocol = rng.choice(("TCP", "UDP", "SCTP"))
    span = {"start": number, "end": rng.choice([one for one in PORTS if one > number] or [end])}
    if new:
        where = {"range": span} if chance(rng, 40) else {"number": number}
        return {protocol.lower(): {"destinationPort": where}}
    if chance(rng, 40):
        return {"portRange": {"protocol": protocol, **span}}
    return {"portNumber": {"protocol": protocol, "port": number}}
