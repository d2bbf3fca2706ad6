"""Advisories about paths: family, node and translation never change what a policy says about a peer."""

from __future__ import annotations

import random
from typing import Any, Final

import pytest

from axoneme.lib.labels import LabelSet
from axoneme.lib.policy.finish import finish
from axoneme.lib.policy.lookup import lookup
from axoneme.lib.policy.model import Direction
from services.policy.cases.testcase import Flow
from tests.conftest import scaled
from tests.model.advisorycases import (
    CLUSTERS,
    TCP80,
    Json,
    address,
    ccnp,
    cnp,
    enters,
    everywhere,
    leaves,
    outside,
    pod,
    scene,
    single,
)
from tests.model.policycases_random import random_case
from tests.model.policycases_twins import twin_of
from tests.model.policycheck import scene_of

# Rules of the host firewall in IPv4 words; `twin_of` says the same in IPv6.
HOST_RULES: Final[tuple[Json, ...]] = (
    {"ingress": [{"fromEndpoints": [{}], "toPorts": TCP80}]},
    {"ingress": [{"fromEntities": ["remote-node"]}], "egress": [{"toEntities": ["world-ipv4"]}]},
    {"ingressDeny": [{"fromCIDR": ["198.51.100.0/24"]}], "ingress": [{"fromEntities": ["all"]}]},
    {"ingress": [{"fromCIDRSet": [{"cidr": "198.51.100.0/24", "except": ["198.51.100.128/25"]}]}]},
    {"ingress": [{"icmps": [{"fields": [{"type": 8}]}]}], "egressDeny": [{"toEndpoints": [{}]}]},
    {"egress": [{"toCIDR": ["0.0.0.0/0"]}], "ingressDeny": [{"fromEntities": ["cluster"]}]},
)


@pytest.mark.parametrize("cluster", CLUSTERS)
@pytest.mark.parametrize("match_nodes", [False, True])
def test_ghsa_wc5v_r48v_g4vh_the_host_is_judged_alike_in_both_families(
    cluster: str, match_nodes: bool
) -> None:
    """Traffic of pods to their host skipped the host's policies when it was IPv6.

    Each policy of a host gives each kind of peer the same verdict in IPv4 and in its IPv6 twin, both ways.
    """
    endpoints = {
        "host": {"kind": "host", "labels": {"role": "edge"}, "ip": "198.51.100.2"},
        "node": {"kind": "remote-node", "labels": {"role": "edge"}, "ip": "198.51.100.3"},
        "pod": {**pod(), "ip": "198.51.100.4"},
        "in": outside("198.51.100.5"),
        "excepted": outside("198.51.100.200"),
        "out": outside("203.0.113.1"),
    }
    packets = [("TCP", 80), ("TCP", 22), ("UDP", 53), ("ICMP", 8), ("ICMP", 0)]
    flows = [
        {"from": one, "to": other, "proto": proto, "port": port}
        for name in endpoints
        for one, other in (("host", name), (name, "host"))
        for proto, port in packets
        if name != "host"
    ]
    config: Json = {"clusterName": cluster, "hostFirewall": True}
    if match_nodes:
        config["policyCIDRMatchMode"] = ["nodes"]
    for rules in HOST_RULES:
        policy = ccnp({"nodeSelector": {"matchLabels": {"role": "edge"}}, **rules})
        case = {"config": config, "endpoints": endpoints, "policies": [policy], "flows": flows}
        found = _verdicts(case)
        assert found == _verdicts(twin_of(case))
        assert {"allow", "deny"} <= set(found), "the rules tell peers apart"


def test_ghsa_wc5v_r48v_g4vh_random_policies_are_alike_in_both_families() -> None:
    """The same for random policies of every kind."""
    for seed in range(scaled(25, 2_000)):
        case = random_case(random.Random(5_000_000 + seed), flows=20, only=4)
        case = {**case, "config": {**case["config"], "hostFirewall": True}}
        assert _verdicts(case) == _verdicts(twin_of(case)), seed


def _verdicts(case: dict[str, Any]) -> list[str]:
    world = scene_of(case)
    flows: tuple[Flow, ...] = world.case.flows
    return [world.verdict(one, side).text for one in flows for side in Direction]


@everywhere
@pytest.mark.parametrize("told_apart", [False, True])
def test_cve_2026_26963_pods_are_not_the_node_they_run_on(
    told_apart: bool, family: int, cluster: str
) -> None:
    """With native routing and encryption between nodes, pods of other nodes passed as those nodes.

    A host policy that lets nodes in lets in no pod, on this node or another, and none that has a node's
    labels or an address of a node's prefix.
    """
    endpoints = {
        "host": {"kind": "host", "labels": {"role": "edge"}, "ip": address(family, 2)},
        "node": {"kind": "remote-node", "labels": {"role": "edge"}, "ip": address(family, 3)},
        "pod": {**pod(role="edge"), "ip": address(family, 4)},
        "mesh": {**pod(cluster="west", role="edge"), "ip": address(family, 5)},
        "out": outside(address(family, 6)),
    }
    config = {"hostFirewall": True, "nodeSelectorLabels": told_apart, "policyCIDRMatchMode": ["nodes"]}
    host = {"nodeSelector": {"matchLabels": {"role": "edge"}}}
    nodes = [{"matchLabels": {"role": "edge"}}]
    ways: list[tuple[Json, bool]] = [
        ({"fromEntities": ["remote-node"]}, True),
        ({"fromNodes": nodes}, told_apart),
        ({"fromCIDR": [single(address(family, host)) for host in (3, 4, 5)]}, True),
    ]
    for entry, expected in ways:
        world = scene(cluster, endpoints, [ccnp({**host, "ingress": [entry]})], config=config)
        assert enters(world, "node", "host") == ("allow" if expected else "deny")
        assert [enters(world, name, "host") for name in ("pod", "mesh", "out")] == ["deny"] * 3


@everywhere
def test_cve_2025_30162_the_way_to_a_backend_changes_no_verdict(family: int, cluster: str) -> None:
    """Egress policy was not asked for traffic that went through a load balancer's address.

    Judged is the backend behind every translation: neither its own address in a prefix, nor the address of a
    service, nor a DNS name that resolved to it opens the way to a pod that no rule about pods lets through.
    """
    backend = address(family, 40)
    endpoints = {"web": pod(app="web"), "db": {**pod(namespace="data", app="db"), "ip": backend}}
    services = [{"name": "db", "namespace": "data", "backends": [backend, address(family, 41)]}]
    ways: list[Json] = [
        {"toCIDR": [single(backend), single(address(family, 41))]},
        {"toServices": [{"k8sService": {"serviceName": "db", "namespace": "data"}}]},
        {"toFQDNs": [{"matchName": "db.data.svc"}]},
        {"toEntities": ["world"]},
        {"toEntities": ["host", "remote-node", "ingress"]},
    ]
    learned = {"db.data.svc": [backend]}
    for entry in ways:
        world = scene(cluster, endpoints, [cnp({"egress": [entry]})], services=services, fqdnCache=learned)
        assert leaves(world, "web", "db") == "deny", entry
    open_to = {"toEndpoints": [{"matchLabels": {"k8s:io.kubernetes.pod.namespace": "data"}}]}
    deny = cnp({"egressDeny": [open_to], "egress": ways, "enableDefaultDeny": {"egress": False}})
    world = scene(cluster, endpoints, [deny], services=services, fqdnCache=learned)
    assert leaves(world, "web", "db") == "deny"


@everywhere
def test_cve_2026_33726_the_node_of_a_peer_changes_no_verdict(family: int, cluster: str) -> None:
    """Ingress policy was skipped for a backend on the sender's own node that was reached through a proxy.

    The same policy finished on nodes with different local identities judges each pod alike, and the sender's
    redirect leaves the receiver's own policy in place.
    """
    proxied = [{"ports": [{"port": "80", "protocol": "TCP"}], "rules": {"http": [{}]}}]
    web, db = ({"endpointSelector": {"matchLabels": {"app": app}}} for app in ("web", "db"))
    jobs = {"fromEndpoints": [{"matchLabels": {"app": "job"}}]}
    policies = [
        cnp({**web, "egress": [{"toPorts": proxied}]}, name="out"),
        cnp({**db, "ingress": [jobs]}, name="in"),
    ]
    endpoints = {"web": pod(app="web"), "db": pod(app="db"), "job": {**pod(app="job"), "ip": address(family)}}
    found = scene(cluster, endpoints, policies)
    assert enters(found, "web", "db") == "deny"
    assert enters(found, "job", "db") == "allow"
    assert leaves(found, "web", "db") == "redirect:http"
    view = found.view("db")
    assert view is not None
    others: list[dict[int, LabelSet]] = [{}, {1 << 24: LabelSet.parse([f"reserved:world-ipv{family}"])}]
    for local in others:
        entries = finish(view.policy, local_identities=local, named_ports={})
        for name, number in found.world.numbers.items():
            here = lookup(entries, Direction.INGRESS, number, 6, 80).forwarded
            assert here == (name == "job")
