"""Random cases about DNS rules: resolvers everywhere, policies that redirect to them, names to ask for.

One subject at least always is a pod that a policy selects; resolvers are pods behind a port name, addresses
outside, a node and the pods' own neighbours. All addresses are IPv4: `twin_of` gives the other family.
"""

from __future__ import annotations

import random
from typing import Any, Final

from tests.model.policycases_world import chance

Json = dict[str, Any]
NAMES: Final = ("www.example.com", "a.b.example.com", "example.com", "api7.example.org", "other.net", "")
_RULES: Final[tuple[Json, ...]] = (
    {"matchName": "www.example.com"},
    {"matchName": "Example.com."},
    {"matchPattern": "*.example.com"},
    {"matchPattern": "**.example.com"},
    {"matchPattern": "api*.example.org"},
    {"matchPattern": "*"},
    {"matchName": "other.net", "matchPattern": "*.example.org"},
)
_RESOLVERS: Final = {"matchLabels": {"k8s-app": "kube-dns", "k8s:io.kubernetes.pod.namespace": "kube-system"}}
_PEERS: Final[tuple[Json, ...]] = (
    {},
    {"toEndpoints": [_RESOLVERS]},
    {"toEndpoints": [_RESOLVERS]},
    {"toEndpoints": [{"matchLabels": {"k8s:io.kubernetes.pod.namespace": "kube-system"}}]},
    {"toEndpoints": [{}]},
    {"toEndpoints": []},
    {"toEntities": ["cluster"]},
    {"toEntities": ["world"]},
    {"toEntities": ["all"]},
    {"toEntities": ["remote-node", "host"]},
    {"toCIDR": ["8.8.8.8/32"]},
    {"toCIDR": ["8.8.0.0/16", "10.1.0.0/16"]},
    {"toCIDRSet": [{"cidr": "0.0.0.0/0", "except": ["8.8.8.0/24"]}]},
    {"toFQDNs": [{"matchPattern": "*.resolver.net"}]},
    {"toNodes": [{}]},
)
_PORTS: Final[tuple[Json, ...]] = (
    {"port": "53", "protocol": "UDP"},
    {"port": "53", "protocol": "TCP"},
    {"port": "53"},
    {"port": "5353", "protocol": "UDP"},
    {"port": "dns", "protocol": "UDP"},
    {"port": "dns-tcp", "protocol": "TCP"},
)
_PLAIN_PORTS: Final[tuple[Json, ...]] = (
    *_PORTS,
    {"port": "0", "protocol": "UDP"},
    {"port": "50", "endPort": 60, "protocol": "UDP"},
    {"port": "1", "endPort": 65535, "protocol": "TCP"},
    {"port": "443", "protocol": "TCP"},
)


def dns_case(rng: random.Random, *, flows: int) -> Json:
    """A case; its flows are those of pods to whatever may be a resolver."""
    case: Json = {
        "config": {"policyCIDRMatchMode": ["nodes"]} if chance(rng, 40) else {},
        "endpoints": _endpoints(rng),
        "fqdnCache": {"a.resolver.net": ["9.9.9.9"]},
        "policies": [_policy(rng, index) for index in range(rng.randint(1, 4))],
        "flows": [],
    }
    if chance(rng, 15):
        case["policies"].append(_tiered(rng))
    targets = [name for name in case["endpoints"] if name != "web"]
    for _ in range(flows):
        port = rng.choice((53, 53, 53, 5353, 54, 443))
        source, target = rng.choice(("web", "web", "job")), rng.choice(targets)
        case["flows"].append(
            {"from": source, "to": target, "proto": rng.choice(("UDP", "UDP", "TCP")), "port": port}
        )
    return case


def _endpoints(rng: random.Random) -> Json:
    names = {"dns": {"proto": "UDP", "port": 53}, "dns-tcp": {"proto": "TCP", "port": 53}}
    other = {"dns": {"proto": "UDP", "port": rng.choice((53, 5353))}}
    resolver = {"kind": "pod", "namespace": "kube-system", "labels": {"k8s-app": "kube-dns"}}
    return {
        "web": {"kind": "pod", "namespace": "default", "labels": {"app": "web"}},
        "job": {"kind": "pod", "namespace": "default", "labels": {"app": "job"}},
        "dns1": {**resolver, "namedPorts": names if chance(rng, 60) else other},
        "dns2": {**resolver, "labels": {"k8s-app": "kube-dns", "v": "2"}, "namedPorts": other},
        "local": {"kind": "pod", "namespace": "default", "labels": {"app": "cache"}, "namedPorts": names},
        "google": {"kind": "world", "ip": "8.8.8.8"},
        "near": {"kind": "world", "ip": "10.1.2.3"},
        "quad9": {"kind": "world", "ip": "9.9.9.9"},
        "node": {"kind": "remote-node", "labels": {"role": "cp"}, "ip": "10.1.200.1"},
        "host": {"kind": "host", "labels": {"role": "worker"}},
    }


def _policy(rng: random.Random, index: int) -> Json:
    clusterwide = chance(rng, 30)
    metadata: Json = {"name": f"p{index}"}
    if not clusterwide:
        metadata["namespace"] = "default"
    audit = chance(rng, 12)
    if audit:
        metadata["annotations"] = {"policy.axoneme.io/audit": "true"}
    spec: Json = {
        "endpointSelector": rng.choice(({}, {"matchLabels": {"app": "web"}})),
        "egress": [_entry(rng) for _ in range(rng.randint(1, 3))],
    }
    if chance(rng, 20):
        spec["egressDeny"] = [_deny(rng)]
    if chance(rng, 25):
        spec["enableDefaultDeny"] = {"egress": False}
    kind = "CiliumClusterwideNetworkPolicy" if clusterwide else "CiliumNetworkPolicy"
    return {"apiVersion": "cilium.io/v2", "kind": kind, "metadata": metadata, "spec": spec}


def _entry(rng: random.Random) -> Json:
    entry = dict(rng.choice(_PEERS))
    if entry and chance(rng, 15):
        return entry
    return {**entry, "toPorts": [_element(rng) for _ in range(rng.randint(1, 2))]}


def _element(rng: random.Random) -> Json:
    what = rng.choice(("dns", "dns", "dns", "plain", "plain", "crd"))
    if what == "dns":
        ports = rng.sample(_PORTS, rng.randint(1, 2))
        return {"ports": ports, "rules": {"dns": rng.sample(_RULES, rng.randint(1, 2))}}
    if what == "plain":
        return {"ports": [rng.choice(_PLAIN_PORTS)]}
    listener = {
        "envoyConfig": {"kind": "CiliumClusterwideEnvoyConfig", "name": "e"},
        "name": "l",
        **({"priority": 7} if chance(rng, 50) else {}),
    }
    return {"ports": [{"port": rng.choice(("53", "443")), "protocol": "TCP"}], "listener": listener}


def _deny(rng: random.Random) -> Json:
    peers = [one for one in _PEERS if one and "toFQDNs" not in one]
    return {
        **rng.choice(peers),
        **({"toPorts": [{"ports": [rng.choice(_PORTS)]}]} if chance(rng, 70) else {}),
    }


def _tiered(rng: random.Random) -> Json:
    """A rule above all others: what it accepts or denies never comes to the proxy, what it passes does."""
    return {
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": "admin"},
        "spec": {
            "subject": {"namespaces": {}},
            "tier": rng.choice(("Admin", "Baseline")),
            "priority": 5,
            "egress": [
                {
                    "action": rng.choice(("Accept", "Deny", "Pass")),
                    "to": [
                        {"namespaces": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}},
                    ],
                    "protocols": [{"udp": {"destinationPort": {"number": 53}}}],
                }
            ],
        },
    }
