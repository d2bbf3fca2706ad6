"""Random worlds in the format of the conformance cases: endpoints, services, groups, learned names, settings.

Everything is drawn from one `random.Random`, so that a seed is a case and hypothesis can drive the same code
(`policycases.cases`). Addresses lie inside and beside the prefixes that policies name.
"""

from __future__ import annotations

import random
from typing import Any

NAMESPACES = ("default", "other", "third")
LABELS = {"app": ("a", "b", "c"), "role": ("front", "back"), "env": ("prod", "dev")}
TEAMS = ("red", "blue")
ADDRESSES = {
    4: (
        "10.1.2.3",
        "10.1.9.9",
        "10.9.9.9",
        "192.0.2.77",
        "192.0.2.100",
        "198.51.100.7",
        "198.51.100.8",
        "8.8.8.8",
    ),
    6: (
        "fd00:1:2::3",
        "fd00:1:9::9",
        "fd00:9::9",
        "2001:db8::77",
        "2001:db8::1:64",
        "2001:db8:5::7",
        "2600::8",
    ),
}
PREFIXES = {
    4: (
        "0.0.0.0/0",
        "10.0.0.0/8",
        "10.1.0.0/16",
        "10.1.2.3/32",
        "192.0.2.0/24",
        "192.0.2.64/26",
        "192.0.2.96/27",
        "198.51.100.0/28",
        "198.51.100.7/32",
        "172.18.0.0/16",
    ),
    6: (
        "::/0",
        "fd00::/16",
        "fd00:1::/32",
        "fd00:1:2::3/128",
        "2001:db8::/32",
        "2001:db8::/64",
        "2001:db8::1:0/112",
        "2001:db8:5::/64",
        "2001:db8:5::7/128",
    ),
}
NODES = {4: ("172.18.0.9", "10.1.200.1"), 6: ("fd00:1:200::1", "fd12::9")}
DNS_NAMES = ("www.example.com", "api.example.com", "a.b.example.org", "example.org")
REFERENCES = (
    '{"aws":{"securityGroupsNames":["front"]}}',
    '{"aws":{"labels":{"team":"x"},"region":"eu-1"}}',
)
World = dict[str, Any]


def chance(rng: random.Random, percent: int) -> bool:
    """True in so many of a hundred cases."""
    return rng.randrange(100) < percent


def some(rng: random.Random, choices: Any, most: int, least: int = 0) -> list[Any]:
    """Some of the choices, in any order, at most once each."""
    count = min(len(choices), rng.randint(least, most))
    return rng.sample(list(choices), count)


def home(rng: random.Random) -> str:
    """A namespace; most things live together."""
    return rng.choice(("default", "default", "default", "other", "third"))


def random_world(rng: random.Random, only: int = 0) -> World:
    """A case without policies and flows; with `only` its addresses are of one family."""
    config = random_settings(rng)
    if only:
        config = {key: value for key, value in config.items() if key not in ("ipv4", "ipv6")}
    case: World = {"config": config, "endpoints": {}}
    families = families_of(case, only)
    _pods(rng, case)
    _outside(rng, case, families)
    _nodes(rng, case, families)
    for kind in ("host", "health", "init", "ingress", "unmanaged"):
        if kind == "host" or chance(rng, 45):
            case["endpoints"][kind] = {"kind": kind}
    case["endpoints"]["host"]["labels"] = {"role": rng.choice(("worker", "cp"))}
    case["services"] = _services(rng, families)
    case["cidrGroups"] = _cidr_groups(rng, families)
    case["extGroups"] = {
        reference: some(rng, [p for v in families for p in PREFIXES[v][1:]], 3) for reference in REFERENCES
    }
    addresses = [a for v in families for a in ADDRESSES[v]]
    case["fqdnCache"] = {name: some(rng, addresses, 3) for name in DNS_NAMES}
    return case


def families_of(case: World, only: int = 0) -> list[int]:
    """The families of addresses that a case may have."""
    return [only] if only else [v for v in (4, 6) if case["config"].get(f"ipv{v}", True)]


def random_settings(rng: random.Random) -> World:
    """The configuration of a case; what has its default is mostly left out."""
    config: World = {}
    if chance(rng, 50):
        config["clusterName"] = "c1"
    if chance(rng, 15):
        config["policyEnforcement"] = rng.choice(("always", "always", "never"))
    if chance(rng, 25):
        config["allowLocalhost"] = "policy"
    if chance(rng, 20):
        config["policyCIDRMatchMode"] = ["nodes"]
    for key, percent in (("policyDefaultLocalCluster", 20), ("nodeSelectorLabels", 50), ("hostFirewall", 40)):
        if chance(rng, percent):
            config[key] = True
    if chance(rng, 15):
        config[rng.choice(("ipv4", "ipv6"))] = False
    return config


def random_labels(rng: random.Random) -> dict[str, str]:
    """The labels of a pod."""
    return {key: rng.choice(values) for key, values in LABELS.items() if chance(rng, 70)}


def _pods(rng: random.Random, case: World) -> None:
    teams = {namespace: rng.choice(TEAMS) for namespace in NAMESPACES}
    endpoints = case["endpoints"]
    for index in range(rng.randint(3, 5)):
        namespace = home(rng)
        labels = random_labels(rng)
        if chance(rng, 5):
            labels["io.cilium.k8s.policy.cluster"] = "c1"
        if chance(rng, 5):
            labels["io.kubernetes.pod.namespace"] = "default"
        if chance(rng, 5):
            labels["host"] = ""
        pod: World = {"kind": "pod", "namespace": namespace, "labels": labels}
        if chance(rng, 80):
            pod["namespaceLabels"] = {"team": teams[namespace]}
        if chance(rng, 60):
            pod["namedPorts"] = random_named_ports(rng)
        if chance(rng, 15):
            pod["serviceAccount"] = "builder"
        endpoints[f"p{index}"] = pod
    # The same identity with other container ports, and the same pod in another cluster.
    twin = {**endpoints["p0"], "namedPorts": random_named_ports(rng)}
    if chance(rng, 40):
        endpoints["twin"] = twin
    if chance(rng, 50):
        endpoints["abroad"] = {**rng.choice(list(endpoints.values())), "cluster": "c2"}


def random_named_ports(rng: random.Random) -> World:
    """Container ports with names."""
    ports = {"web": {"proto": rng.choice(("TCP", "TCP", "UDP")), "port": rng.choice((80, 8080))}}
    if chance(rng, 30):
        ports["metrics"] = {"proto": "TCP", "port": 9090}
    return ports


def _outside(rng: random.Random, case: World, families: list[int]) -> None:
    for v in families:
        for index, address in enumerate(some(rng, ADDRESSES[v], 4, 2)):
            case["endpoints"][f"x{v}{index}"] = {"kind": "world", "ip": address}
    if chance(rng, 25):
        address = rng.choice(ADDRESSES[rng.choice(families)])
        if all(one.get("ip") != address for one in case["endpoints"].values()):
            case["endpoints"]["api-outside"] = {"kind": "kube-apiserver-external", "ip": address}


def _nodes(rng: random.Random, case: World, families: list[int]) -> None:
    for index, address in enumerate(some(rng, NODES[rng.choice(families)], 2)):
        kind = "kube-apiserver" if chance(rng, 20) else "remote-node"
        labels = {"role": rng.choice(("worker", "cp"))} if chance(rng, 80) else {}
        case["endpoints"][f"n{index}"] = {"kind": kind, "labels": labels, "ip": address}


def _services(rng: random.Random, families: list[int]) -> list[World]:
    outside = rng.choice(ADDRESSES[rng.choice(families)])
    services: list[World] = [
        {"name": "s1", "namespace": "default", "labels": {"svc": "1"}, "selector": {"app": "b"}},
        {"name": "s2", "namespace": "other", "labels": {"svc": "2"}, "backends": [outside]},
        {"name": "s3", "namespace": "third", "labels": {"svc": "1"}, "selector": {"app": "a", "env": "prod"}},
        {"name": "s4", "namespace": "other", "labels": {"svc": "4"}, "backends": []},
        {"name": "s1", "namespace": "other", "labels": {"svc": "2"}, "selector": {"app": "c"}},
    ]
    return some(rng, services, 5)


def _cidr_groups(rng: random.Random, families: list[int]) -> list[World]:
    prefixes = [prefix for v in families for prefix in PREFIXES[v][1:]]
    groups: list[World] = [
        {"name": "g1", "externalCIDRs": some(rng, prefixes, 3), "labels": {"kind": "x"}},
        {"name": "g2", "externalCIDRs": some(rng, prefixes, 2), "labels": {"kind": "y"}},
        {"name": "g3", "externalCIDRs": []},
    ]
    return some(rng, groups, 3)
