"""One small case for each rule that is easily got wrong: what the oracle and the engine have to say."""

from __future__ import annotations

from typing import Any

import pytest

from axoneme.lib.policy.model import Direction
from tests.model.oracle import Oracle
from tests.model.policycheck import ask, disagreements, text_of

Json = dict[str, Any]
TRIED = {"policy.axoneme.io/audit": "true"}
WEB = {"toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}]}]}
NAMED = {"toPorts": [{"ports": [{"port": "web", "protocol": "TCP"}]}]}
INIT = {"matchLabels": {"reserved:init": ""}}
POD: Json = {"kind": "pod", "namespace": "default", "labels": {"app": "a"}}
PEER: Json = {"kind": "pod", "namespace": "default", "labels": {"app": "b"}}
HOST: Json = {"kind": "host"}
ABROAD: Json = {**PEER, "cluster": "c2"}


def cnp(name: str = "p", *, kind: str = "CiliumNetworkPolicy", tried: bool = False, **spec: Any) -> Json:
    """A CiliumNetworkPolicy of the namespace default."""
    metadata: Json = {"name": name, "annotations": TRIED if tried else {}}
    if kind == "CiliumNetworkPolicy":
        metadata["namespace"] = "default"
    spec = {"endpointSelector": {}, **spec}
    return {"apiVersion": "cilium.io/v2", "kind": kind, "metadata": metadata, "spec": spec}


def ccnp(name: str = "p", **spec: Any) -> Json:
    """A CiliumClusterwideNetworkPolicy."""
    return cnp(name, kind="CiliumClusterwideNetworkPolicy", **spec)


def knp(**spec: Any) -> Json:
    """A NetworkPolicy of the namespace default."""
    metadata = {"name": "k", "namespace": "default"}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}


def tiered(name: str, tier: str, priority: int, *actions: str) -> Json:
    """A ClusterNetworkPolicy about ingress from all pods, one rule for each action."""
    rules = [{"action": action, "from": [{"namespaces": {}}]} for action in actions]
    spec = {"tier": tier, "priority": priority, "subject": {"namespaces": {}}, "ingress": rules}
    version = "policy.networking.k8s.io/v1alpha2"
    return {"apiVersion": version, "kind": "ClusterNetworkPolicy", "metadata": {"name": name}, "spec": spec}


def outside(ip: str = "192.0.2.1", kind: str = "world") -> Json:
    """An address outside the cluster."""
    return {"kind": kind, "ip": ip}


def case(*policies: Json, peer: Json = PEER, subject: Json = POD, **more: Any) -> Json:
    """A subject and a peer, who talk in both directions."""
    config = more.pop("config", {})
    endpoints = {"subject": subject, "peer": peer, **more.pop("others", {})}
    flows = [
        {"from": "peer", "to": "subject", "proto": "TCP", "port": 80},
        {"from": "subject", "to": "peer", "proto": "TCP", "port": 80},
    ]
    return {"config": config, "endpoints": endpoints, "policies": list(policies), "flows": flows, **more}


def name(text: str) -> Json:
    """An entry about a DNS name or a pattern of names."""
    return {"toFQDNs": [{"matchPattern" if "*" in text else "matchName": text}]}


def required(mode: str = "required", **entry: Any) -> Json:
    """An entry that states a mode of authentication."""
    return {**entry, "authentication": {"mode": mode}}


API_OUTSIDE = outside(kind="kube-apiserver-external")
NODE = outside(kind="remote-node")
ELSEWHERE: Json = {**PEER, "namespace": "other"}
TEAM = "k8s:io.cilium.k8s.namespace.labels.team"
OTHER = {"toPorts": [{"ports": [{"port": "81", "protocol": "TCP"}]}]}
PEERS = {"fromEndpoints": [{"matchLabels": {"app": "b"}}]}
SAME_NAMES = [
    {"name": "s", "namespace": "default", "selector": {"app": "c"}},
    {"name": "s", "namespace": "other", "selector": {"app": "b"}},
]
WEB_80, WEB_81 = ({"web": {"proto": "TCP", "port": number}} for number in (80, 81))
LOCAL = {"config": {"policyDefaultLocalCluster": True}}
HERE_AND_THERE = {"matchExpressions": [{"key": "io.cilium.k8s.policy.cluster", "operator": "Exists"}]}
SERVICE_OF_DEFAULT = {"k8sService": {"serviceName": "s", "namespace": "default"}}

# name: case, verdict of the subject's ingress, of its egress
VERDICTS: dict[str, tuple[Json, str, str]] = {
    "R-14 a label called host is not the host": (
        case(ccnp(ingress=[{"fromEndpoints": [{"matchLabels": {"reserved:host": ""}}]}]),
             peer={**PEER, "labels": {"host": ""}}), "deny", "allow"),
    "R-16 labels of namespaces": (
        case(cnp(ingress=[{"fromEndpoints": [{"matchLabels": {TEAM: "red"}}]}]),
             peer={**ELSEWHERE, "namespaceLabels": {"team": "red"}}), "allow", "allow"),
    "R-15 another namespace is no subject": (
        case(cnp(ingress=[{}]), subject={**POD, "namespace": "other"}), "allow", "allow"),
    "R-17 peers of init are anyone": (
        case(ccnp(endpointSelector=INIT, ingress=[{"fromEndpoints": [{}]}]), subject={"kind": "init"},
             peer={"kind": "health"}), "allow", "deny"),
    "R-17 peers of others are pods": (
        case(ccnp(ingress=[{"fromEndpoints": [{}]}]), peer={"kind": "health"}), "deny", "allow"),
    "R-19 peers of other meshes": (case(cnp(ingress=[PEERS]), peer=ABROAD), "allow", "allow"),
    "R-19 peers of this mesh only": (case(cnp(ingress=[PEERS]), peer=ABROAD, **LOCAL), "deny", "allow"),
    "R-19 an explicit cluster lifts that": (
        case(cnp(ingress=[{"fromEndpoints": [HERE_AND_THERE]}]), peer=ABROAD, **LOCAL), "allow", "allow"),
    "R-19 what is required is in this mesh too": (
        case(cnp(ingress=[{"fromEndpoints": [HERE_AND_THERE], "fromRequires": [{}]}]), peer=ABROAD, **LOCAL),
        "deny", "allow"),
    "R-20 [] selects nobody": (case(cnp(ingress=[{"fromEndpoints": [], **WEB}])), "deny", "allow"),
    "R-20 absent peers are anyone": (case(cnp(ingress=[WEB]), peer=outside()), "allow", "allow"),
    "R-20 [{}] is everyone here": (case(cnp(ingress=[{"fromEndpoints": [{}]}])), "allow", "allow"),
    "R-22 an unknown service is nobody": (
        case(cnp(egress=[{"toServices": [SERVICE_OF_DEFAULT], **WEB}])), "allow", "deny"),
    "R-22 an unknown service denies nobody": (
        case(cnp(egressDeny=[{"toServices": [SERVICE_OF_DEFAULT], **WEB}],
                 enableDefaultDeny={"egress": False})), "allow", "allow"),
    "R-24 remote nodes with the API server": (
        case(cnp(ingress=[{"fromEntities": ["remote-node"]}]), peer={"kind": "kube-apiserver"}),
        "allow", "allow"),
    "R-24 the API server on a node": (
        case(cnp(ingress=[{"fromEntities": ["kube-apiserver"]}]), peer={"kind": "kube-apiserver"}),
        "allow", "allow"),
    "R-24 the API server outside": (
        case(cnp(ingress=[{"fromEntities": ["kube-apiserver"]}]), peer=API_OUTSIDE), "allow", "allow"),
    "R-24 the API server outside is of the world": (
        case(cnp(ingress=[{"fromEntities": ["world"]}]), peer=API_OUTSIDE), "allow", "allow"),
    "R-24 the API server outside is of the cluster": (
        case(cnp(ingress=[{"fromEntities": ["cluster"]}]), peer=API_OUTSIDE), "allow", "allow"),
    "R-24 other nodes are not the API server": (
        case(cnp(ingress=[{"fromEntities": ["kube-apiserver"]}]), peer={"kind": "remote-node"}),
        "deny", "allow"),
    "R-27 nodes are not in prefixes": (
        case(cnp(ingress=[{"fromCIDR": ["192.0.2.0/24"]}]), peer=NODE), "deny", "allow"),
    "R-27 nodes are in prefixes if so set": (
        case(cnp(ingress=[{"fromCIDR": ["192.0.2.0/24"]}]), peer=NODE,
             config={"policyCIDRMatchMode": ["nodes"]}), "allow", "allow"),
    "R-27 nodes are not in the widest prefix": (
        case(cnp(ingress=[{"fromCIDR": ["0.0.0.0/0"]}]), peer=NODE,
             config={"policyCIDRMatchMode": ["nodes"]}), "deny", "allow"),
    "R-28 a wider prefix of another rule": (
        case(cnp("a", egress=[{"toCIDR": ["10.0.0.0/16"]}]),
             cnp("b", egress=[{"toCIDR": ["10.0.0.0/8"], **OTHER}]), peer=outside("10.9.9.9")),
        "allow", "deny"),
    "R-30 another name": (
        case(cnp(egress=[name("a.example"), {**name("b.example"), **OTHER}]), peer=outside(),
             fqdnCache={"b.example": ["192.0.2.1"]}), "allow", "deny"),
    "R-30 a name": (
        case(cnp(egress=[name("B.Example.")]), peer=outside(), fqdnCache={"b.example": ["192.0.2.1"]}),
        "allow", "allow"),
    "R-30 stars stay in their label": (
        case(cnp(egress=[name("*.example")]), peer=outside(), fqdnCache={"a.b.example": ["192.0.2.1"]}),
        "allow", "deny"),
    "R-30 whole labels": (
        case(cnp(egress=[name("**.example")]), peer=outside(), fqdnCache={"a.b.example": ["192.0.2.1"]}),
        "allow", "allow"),
    "R-30 whole labels are at least one": (
        case(cnp(egress=[name("**.b.example")]), peer=outside(), fqdnCache={"b.example": ["192.0.2.1"]}),
        "allow", "deny"),
    "R-28 a family that is not there": (
        case(cnp(egress=[{"toCIDR": ["::/0"]}]), peer=outside(), config={"ipv6": False}), "allow", "deny"),
    "R-28 a family that is not there, in IPv6": (
        case(cnp(egress=[{"toCIDR": ["0.0.0.0/0"]}]), peer=outside("2001:db8::1"), config={"ipv4": False}),
        "allow", "deny"),
    "R-36 a port of another name's owner": (
        case(cnp(egress=[NAMED]), others={"other": {**PEER, "labels": {}, "namedPorts": WEB_80}}),
        "allow", "deny"),
    "R-36 a port by name": (
        case(cnp(egress=[NAMED], ingress=[NAMED]), peer={**PEER, "namedPorts": WEB_80},
             subject={**POD, "namedPorts": WEB_81}), "deny", "allow"),
    "R-36 a port by name of each its own": (
        case(cnp(egress=[{"toEndpoints": [{}], **NAMED}]), peer={**PEER, "namedPorts": WEB_81},
             others={"other": {**PEER, "labels": {}, "namedPorts": WEB_80}}), "allow", "deny"),
    "R-36 names have no case": (
        case(cnp(ingress=[{"toPorts": [{"ports": [{"port": "WEB", "protocol": "TCP"}]}]}]),
             subject={**POD, "namedPorts": WEB_80}), "allow", "allow"),
    "R-36 pods that disagree": (
        case(cnp(egress=[NAMED]), peer={**PEER, "namedPorts": WEB_80},
             others={"other": {**PEER, "namedPorts": WEB_81}}), "allow", "deny"),
    "R-40 a deny locks": (case(cnp(ingressDeny=[{"fromEntities": ["none"]}])), "deny", "allow"),
    "R-41 unless it says not to": (
        case(cnp(ingressDeny=[{"fromEntities": ["none"]}], enableDefaultDeny={"ingress": False})),
        "allow", "allow"),
    "R-42 always": (case(config={"policyEnforcement": "always"}), "deny", "deny"),
    "R-42 never": (
        case(cnp(ingressDeny=[{"fromEntities": ["all"]}]), config={"policyEnforcement": "never"}),
        "allow", "allow"),
    "R-43 the local host": (case(cnp(ingress=[{}]), peer=HOST), "allow", "allow"),
    "R-43 the local host, denied": (
        case(cnp(ingressDeny=[{"fromEntities": ["host"]}]), peer=HOST), "deny", "allow"),
    "R-43 the local host, by policy": (
        case(cnp(ingress=[{}]), peer=HOST, config={"allowLocalhost": "policy"}), "deny", "allow"),
    "R-43 the local host without any rule": (
        case(peer=HOST, config={"policyEnforcement": "always"}), "deny", "deny"),
    "R-43 the local host and a rule that is tried out": (
        case(cnp(ingress=[{}], tried=True), peer=HOST, config={"policyEnforcement": "always"}),
        "deny", "deny"),
    "R-43 probes under a NetworkPolicy that allows nothing": (
        case(knp(podSelector={}, policyTypes=["Ingress"]), peer=HOST), "allow", "allow"),
    "R-50 a broad deny over a narrow allow": (
        case(cnp(ingress=[{**PEERS, **WEB}], ingressDeny=[{"fromEntities": ["all"]}])), "deny", "allow"),
    "what is required narrows allows": (
        case(cnp(ingress=[{"fromEndpoints": [{}], "fromRequires": [{"matchLabels": {"app": "c"}}]}])),
        "deny", "allow"),
    "what is required narrows no denies": (
        case(cnp(ingress=[{"fromEntities": ["all"]}, {"fromRequires": [{"matchLabels": {"app": "c"}}]}],
                 ingressDeny=[PEERS])), "deny", "allow"),
    "R-55 the smaller priority first": (
        case(tiered("a", "Admin", 2, "Deny"), tiered("b", "Admin", 1, "Accept")), "allow", "allow"),
    "R-55 the earlier rule first": (case(tiered("a", "Admin", 1, "Deny", "Accept")), "deny", "allow"),
    "R-55 Admin before a deny": (
        case(tiered("a", "Admin", 1, "Accept"), cnp(ingressDeny=[{"fromEntities": ["all"]}])),
        "allow", "allow"),
    "R-55 Pass leaves it to others": (
        case(tiered("a", "Admin", 1, "Pass", "Accept"), cnp(ingressDeny=[{"fromEntities": ["all"]}])),
        "deny", "allow"),
    "R-55 Pass skips its tier": (
        case(tiered("a", "Admin", 1, "Pass"), tiered("b", "Admin", 2, "Deny")), "allow", "allow"),
    "R-55 Baseline before the default": (
        case(tiered("a", "Baseline", 1, "Accept"), cnp(ingress=[{}])), "allow", "allow"),
    "R-55 Baseline after rules": (
        case(tiered("a", "Baseline", 1, "Deny"), cnp(ingress=[PEERS])), "allow", "allow"),
    "R-56 pods only": (case(tiered("a", "Admin", 1, "Deny"), peer=outside()), "allow", "allow"),
    "R-61 other namespaces": (
        case(knp(podSelector={}, ingress=[{"from": [{"podSelector": {}}]}]), peer=ELSEWHERE),
        "deny", "allow"),
    "R-61 negative expressions": (
        case(knp(podSelector={}, ingress=[{"from": [
            {"namespaceSelector": {"matchExpressions": [{"key": "x", "operator": "DoesNotExist"}]}}]}]),
            peer=outside()), "deny", "allow"),
    "a service of another namespace": (
        case(cnp(egress=[{"toServices": [SERVICE_OF_DEFAULT]}]), services=SAME_NAMES,
             peer=ELSEWHERE), "allow", "deny"),
    "audit: a deny is reported": (
        case(cnp(ingressDeny=[{"fromEntities": ["all"]}], tried=True)), "audit", "allow"),
    "audit: a lock is reported": (case(cnp(egress=[{}], tried=True)), "allow", "audit"),
    "audit: an allow opens nothing": (
        case(cnp("a", ingress=[{}]), cnp("b", ingress=[PEERS], tried=True)), "deny", "allow"),
    "audit: an allow spares the report": (case(cnp("b", ingress=[PEERS], tried=True)), "allow", "allow"),
    "audit: Baseline spares the report": (
        case(tiered("a", "Baseline", 1, "Accept"), cnp(ingress=[{}], tried=True)), "allow", "allow"),
}  # fmt: skip


@pytest.mark.parametrize("name", VERDICTS)
def test_verdict(name: str) -> None:
    """What the receiver's and the sender's side of the subject say."""
    world, *expected = VERDICTS[name]
    oracle = Oracle(world)
    answers = [ask(oracle, flow, side) for flow, side in zip(world["flows"], Direction, strict=True)]
    assert list(map(text_of, answers)) == expected
    assert list(disagreements(world)) == []


# name: entries of ingress, the mode of the connection
MODES: dict[str, tuple[list[Json], str]] = {
    "its own": ([required(**PEERS)], "spire"),
    "of a wider port": ([required(**PEERS), {**PEERS, **WEB}], "spire"),
    "of every peer": ([required(fromEntities=["all"]), {**PEERS, **WEB}], "spire"),
    "of every peer, the same port": ([required(**WEB), {**PEERS, **WEB}], "spire"),
    "not of a narrower port": ([{**PEERS, **WEB}, required(**PEERS)], "spire"),
    "disabled stops inheritance": ([required(**PEERS), required("disabled", **PEERS, **WEB)], "disabled"),
    "disabled is inherited": ([required("disabled", **PEERS), {**PEERS, **WEB}], "disabled"),
    "the strictest": (
        [required(fromEntities=["all"]), required("test-always-fail", **PEERS), {**PEERS, **WEB}],
        "test-always-fail",
    ),
    "none": ([PEERS], ""),
}


@pytest.mark.parametrize("name", MODES)
def test_authentication(name: str) -> None:
    """R-52: whose mode holds for a connection."""
    entries, expected = MODES[name]
    world = case(*(cnp(f"p{i}", ingress=[entry]) for i, entry in enumerate(entries)))
    assert ask(Oracle(world), world["flows"][0], Direction.INGRESS).auth == expected
    assert list(disagreements(world)) == []


@pytest.mark.parametrize(("written", "passing"), [(0, 0), ("EchoReply", 0), (8, 8), ("EchoRequest", 8)])
def test_icmp_types_are_exact(written: int | str, passing: int) -> None:
    """R-37, R-90: no type stands for all."""
    icmps = [{"fields": [{"type": written}]}]
    world = case(cnp(ingress=[{"icmps": icmps}]), peer=outside())
    world["flows"] = [
        {"from": "peer", "to": "subject", "proto": "ICMP", "port": number} for number in (0, 8, 13)
    ]
    answers = [ask(Oracle(world), flow, Direction.INGRESS).verdict for flow in world["flows"]]
    assert answers == ["allow" if flow["port"] == passing else "deny" for flow in world["flows"]]
    assert list(disagreements(world)) == []
