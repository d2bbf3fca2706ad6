"""Random CiliumNetworkPolicy objects and clusterwide ones; all valid, and without contradictions (R-48).

A parser belongs to a port (53 is DNS, 8443 a listener, 9092 Kafka), a mode of authentication to a kind of
peers, so that no two rules of one case want different things for one group.
"""

from __future__ import annotations

import random
from typing import Any

from tests.model.policycases_world import (
    DNS_NAMES,
    LABELS,
    NAMESPACES,
    PREFIXES,
    REFERENCES,
    TEAMS,
    chance,
    home,
    some,
)

Json = dict[str, Any]
NAMESPACE = "io.kubernetes.pod.namespace"
TEAM = "io.cilium.k8s.namespace.labels.team"
CLUSTER = "io.cilium.k8s.policy.cluster"
PORTS = (1, 22, 53, 79, 80, 81, 443, 1024, 8080, 8443, 9092, 65535)
ENTITIES = (
    "all", "world", "world-ipv4", "world-ipv6", "host", "remote-node", "kube-apiserver", "health", "init",
    "unmanaged", "ingress", "cluster", "cluster-mesh", "none",
)  # fmt: skip
AUTH = {"Endpoints": "required", "Entities": "disabled", "CIDR": "test-always-fail", "": "required"}
RESERVED = ("host", "remote-node", "health", "world-ipv4", "world", "ingress", "kube-apiserver", "unmanaged")


def selector(rng: random.Random, extra: int = 40) -> Json:
    """A label selector of a CiliumNetworkPolicy about ordinary labels."""
    made: Json = {}
    if chance(rng, 60):
        made["matchLabels"] = {_key(rng, key): rng.choice(LABELS[key]) for key in some(rng, LABELS, 2)}
    if chance(rng, extra):
        made["matchExpressions"] = [expression(rng) for _ in range(rng.randint(1, 2))]
    return made


def _key(rng: random.Random, key: str) -> str:
    return rng.choice(("", "", "k8s:", "any:")) + key


def expression(rng: random.Random, plain: bool = False) -> Json:
    key = rng.choice((*LABELS, "nokey"))
    values = [*LABELS.get(key, ("q", "r")), "q"]
    operator = rng.choice(("In", "NotIn", "Exists", "DoesNotExist"))
    made: Json = {"key": key if plain else _key(rng, key), "operator": operator}
    if operator in ("In", "NotIn"):
        made["values"] = some(rng, values, 2, 1)
    return made


def _with(one: Json, labels: Json | None = None, expression: Json | None = None) -> Json:
    made = {**one}
    if labels:
        made["matchLabels"] = {**one.get("matchLabels", {}), **labels}
    if expression:
        made["matchExpressions"] = [*one.get("matchExpressions", []), expression]
    return made


def _place(rng: random.Random, one: Json) -> Json:
    """A selector that names a namespace, its labels, a cluster or something reserved."""
    key = rng.choice(("k8s:", "", "any:"))
    what = rng.randrange(7)
    if what == 0:
        return _with(one, {key + NAMESPACE: rng.choice(NAMESPACES)})
    if what == 1:
        values = some(rng, NAMESPACES, 2, 1)
        return _with(
            one, None, {"key": key + NAMESPACE, "operator": rng.choice(("In", "NotIn")), "values": values}
        )
    if what == 2:
        return _with(one, {key + TEAM: rng.choice(TEAMS)})
    if what == 3:
        return _with(one, {key + CLUSTER: rng.choice(("c1", "c2", "default"))})
    if what == 4:
        return _with(one, None, {"key": key + CLUSTER, "operator": "Exists"})
    name = rng.choice(("reserved:", "$")) + rng.choice(RESERVED)
    if what == 5:
        return {"matchLabels": {name: ""}}
    return {"matchExpressions": [{"key": name, "operator": rng.choice(("Exists", "DoesNotExist"))}]}


# --- CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy


def cilium_policy(rng: random.Random, families: list[int], index: int, *, clusterwide: bool) -> Json:
    metadata: Json = {"name": f"p{index}"}
    if not clusterwide:
        metadata["namespace"] = home(rng)
    audit = chance(rng, 12)
    if audit:
        metadata["annotations"] = {"policy.axoneme.io/audit": "true"}
    kind = "CiliumClusterwideNetworkPolicy" if clusterwide else "CiliumNetworkPolicy"
    made: Json = {"apiVersion": "cilium.io/v2", "kind": kind, "metadata": metadata}

    def rule() -> Json:
        return _rule(rng, families, clusterwide=clusterwide, narrows=not audit)

    if chance(rng, 12):
        made["specs"] = [rule() for _ in range(rng.randint(1, 2))]
    else:
        made["spec"] = rule()
    return made


def _rule(rng: random.Random, families: list[int], *, clusterwide: bool, narrows: bool) -> Json:
    of_nodes = clusterwide and chance(rng, 25)
    if of_nodes:
        role = rng.choice(("worker", "cp"))
        made: Json = {"nodeSelector": rng.choice(({}, {"matchLabels": {"role": role}}))}
    else:
        made = {"endpointSelector": _subject(rng)}
    sections = ("ingress", "egress", "ingressDeny", "egressDeny")
    for section in some(rng, sections, 3, 1):
        entries = [_entry(rng, families, section, of_nodes, narrows) for _ in range(rng.randint(1, 2))]
        made[section] = entries
    if chance(rng, 20):
        keys = some(rng, ("ingress", "egress"), 2)
        made["enableDefaultDeny"] = {key: chance(rng, 25) for key in keys}
    return made


def _subject(rng: random.Random) -> Json:
    if chance(rng, 45):
        return {}
    one = selector(rng, 30)
    what = rng.randrange(100)
    if what < 8:
        return _with(one, {rng.choice(("k8s:", "")) + NAMESPACE: rng.choice(NAMESPACES)})
    if what < 14:
        operator = rng.choice(("Exists", "DoesNotExist"))
        return {"matchExpressions": [{"key": "reserved:init", "operator": operator}]}
    if what < 18:
        return {"matchLabels": {f"reserved:{rng.choice(('health', 'ingress', 'init', 'host'))}": ""}}
    return one


def _entry(rng: random.Random, families: list[int], section: str, of_nodes: bool, narrows: bool) -> Json:
    deny, direction = section.endswith("Deny"), section.removesuffix("Deny")
    side = "from" if direction == "ingress" else "to"
    entry: Json = {}
    what = _peers(rng, families, entry, side, deny)
    if chance(rng, 4) and narrows and not deny:
        entry[side + "Requires"] = [selector(rng)]
        if not what:
            return entry
    if chance(rng, 12):
        entry["icmps"] = _icmps(rng, families)
    elif chance(rng, 60):
        # Deny elements name a port, and nothing for a proxy.
        least = 1 if deny or chance(rng, 95) else 0
        entry["toPorts"] = [_ports(rng, direction, deny or of_nodes, least) for _ in range(rng.randint(1, 2))]
    if not deny and chance(rng, 15):
        kind = "" if "all" in entry.get(side + "Entities", []) else what
        entry["authentication"] = {"mode": AUTH.get(kind, "required")}
    return entry


def _peers(rng: random.Random, families: list[int], entry: Json, side: str, deny: bool) -> str:
    """Write one field of peers into an entry; its name, or nothing."""
    fields = [
        "",
        "",
        *["Endpoints"] * 6,
        *["Entities"] * 4,
        "CIDR",
        "CIDR",
        "CIDRSet",
        "CIDRSet",
        "Nodes",
        "Groups",
    ]
    if side == "to":
        fields += ["Services", *["FQDNs"] * (0 if deny else 2)]
    what = rng.choice(fields)
    if not what:
        return what
    least = 1 if chance(rng, 93) else 0
    count = rng.randint(least, 2)
    makers: dict[str, Any] = {
        "Endpoints": lambda: _endpoints(rng),
        "Entities": lambda: rng.choice(ENTITIES),
        "CIDR": lambda: rng.choice(PREFIXES[rng.choice(families)]),
        "CIDRSet": lambda: cidr_set(rng, families),
        "Nodes": lambda: _nodes(rng),
        "Groups": lambda: _group(rng),
        "Services": lambda: _service(rng),
        "FQDNs": lambda: _name(rng),
    }
    entry[side + what] = [makers[what]() for _ in range(count)]
    return what


def _endpoints(rng: random.Random) -> Json:
    if chance(rng, 20):
        return {}
    one = selector(rng)
    return _place(rng, one) if chance(rng, 45) else one


def _nodes(rng: random.Random) -> Json:
    operator = rng.choice(("In", "NotIn"))
    return rng.choice(
        (
            {},
            {"matchLabels": {"role": rng.choice(("worker", "cp"))}},
            {"matchExpressions": [{"key": "role", "operator": operator, "values": ["cp"]}]},
            {"matchExpressions": [{"key": "role", "operator": rng.choice(("Exists", "DoesNotExist"))}]},
        )
    )


def cidr_set(rng: random.Random, families: list[int]) -> Json:
    what = rng.randrange(4)
    if what < 2:
        v = rng.choice(families)
        cidr = rng.choice(PREFIXES[v])
        excepts = [one for one in PREFIXES[v] if one != cidr and _inside(one, cidr)]
        made: Json = {"cidr": cidr}
    else:
        excepts = [one for v in families for one in PREFIXES[v][1:]]
        made = {"cidrGroupRef": rng.choice(("g1", "g2", "g3", "missing"))}
        if what == 3:
            operator = rng.choice(("Exists", "DoesNotExist"))
            made = {
                "cidrGroupSelector": rng.choice(
                    (
                        {"matchLabels": {"kind": "x"}},
                        {"matchExpressions": [{"key": "kind", "operator": operator}]},
                        {},
                    )
                )
            }
    if excepts and chance(rng, 50):
        made["except"] = some(rng, excepts, 2, 1)
    return made


def _inside(one: str, whole: str) -> bool:
    import ipaddress

    inner, outer = ipaddress.ip_network(one), ipaddress.ip_network(whole)
    return inner.subnet_of(outer)  # type: ignore[arg-type]


def _group(rng: random.Random) -> Json:
    import json

    unknown = '{"aws":{"securityGroupsNames":["unknown"]}}'
    found: Json = json.loads(rng.choice((*REFERENCES, unknown)))
    return found


def _service(rng: random.Random) -> Json:
    if chance(rng, 50):
        name, namespace = rng.choice((("s1", "default"), ("s2", "other"), ("s3", "third"), ("s4", "other")))
        return {"k8sService": {"serviceName": name, "namespace": namespace}}
    made: Json = {"selector": rng.choice(({"matchLabels": {"svc": rng.choice("124")}}, {}))}
    if chance(rng, 50):
        made["namespace"] = rng.choice(NAMESPACES)
    return {"k8sServiceSelector": made}


def _name(rng: random.Random) -> Json:
    if chance(rng, 50):
        name = rng.choice((*DNS_NAMES, "WWW.Example.com.", "never.seen"))
        return {"matchName": name}
    patterns = (
        "*",
        "*.example.com",
        "w*.example.com",
        "*.example.org",
        "**.example.org",
        "*.*.example.org",
        "*a*.com",
    )
    return {"matchPattern": rng.choice(patterns)}


# --- ports


def _icmps(rng: random.Random, families: list[int]) -> list[Json]:
    fields = []
    for _ in range(rng.randint(1, 2)):
        six = rng.choice(families) == 6
        one: Json = {"type": rng.choice((128, 129, "EchoRequest", 0) if six else (8, 0, 13, "EchoReply"))}
        if six or chance(rng, 50):
            one["family"] = "IPv6" if six else "IPv4"
        fields.append(one)
    return [{"fields": fields}]


def _ports(rng: random.Random, direction: str, plain: bool, least: int) -> Json:
    """An element of toPorts, perhaps with something for a proxy."""
    if not plain and least and chance(rng, 45):
        return _proxied(rng, direction)
    return {"ports": [_port(rng) for _ in range(rng.randint(least, 2))]}


def _port(rng: random.Random) -> Json:
    port: Json = {"port": str(rng.choice((0, *PORTS)))}
    if chance(rng, 20):
        port["port"] = rng.choice(("web", "web", "metrics", "WEB", "nobody"))
    elif chance(rng, 30):
        port["endPort"] = rng.choice(PORTS)
    if chance(rng, 75):
        port["protocol"] = rng.choice(("TCP", "TCP", "UDP", "SCTP", "ANY"))
    return port


def _proxied(rng: random.Random, direction: str) -> Json:
    what = rng.choice(
        ("http", "http", "tls", "kafka", *(("dns", "dns", "crd") if direction == "egress" else ()))
    )
    if what == "dns":
        port = {"port": "53", "protocol": rng.choice(("UDP", "ANY"))}
        return {"ports": [port], "rules": {"dns": [_name(rng) for _ in range(rng.randint(1, 2))]}}
    if what == "crd":
        listener = {
            "envoyConfig": {"kind": "CiliumClusterwideEnvoyConfig", "name": "e"},
            "name": "l",
            "priority": 7,
        }
        return {"ports": [{"port": "8443", "protocol": "TCP"}], "listener": listener}
    if what == "kafka":
        return {"ports": [{"port": "9092", "protocol": "TCP"}], "rules": {"kafka": [{"topic": "t"}]}}
    port = {"port": rng.choice(("80", "81", "443", "web")), "protocol": "TCP"}
    if port["port"] != "web" and chance(rng, 25):
        port["endPort"] = rng.choice((443, 8080))
    if what == "tls":
        return {"ports": [port], "serverNames": ["a.example"]}
    http = [{}, {"method": "GET"}, {"path": "/y"}, {"method": "GET", "path": "/x.*"}]
    return {"ports": [port], "rules": {"http": some(rng, http, 2, 1)}}
