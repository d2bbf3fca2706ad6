"""Advisories about time: inputs that come late, in another order, or go away again."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from typing import Final

import pytest

from axoneme.lib.identities import UNKNOWN, UNMANAGED, WORLD_IPV4, WORLD_IPV6
from axoneme.lib.labels import RESERVED, Label, LabelSet, workload_labels
from axoneme.lib.policy.finish import finish
from axoneme.lib.policy.lookup import lookup
from axoneme.lib.policy.model import Direction, SubjectPolicy
from axoneme.lib.policycodec import host_key, subject_key
from services.policy.inputs import CidrGroup, Node, PolicySettings, Service
from services.policy.reading.faults import InvalidPolicy
from services.policy.reading.objects import parse_objects
from services.policy.resolution.engine import PlainInputs, PolicyEngine, resolve_all
from services.policy.rules import ParsedPolicy, PolicyKey
from tests.conftest import scaled
from tests.model.advisorycases import (
    TCP80,
    Json,
    address,
    ccnp,
    cnp,
    everywhere,
    parsed,
    single,
)

Step = Callable[[PolicyEngine], None]
GROUP: Final = PolicyKey("CiliumCIDRGroup", "", "office")
NODE: Final = "node1"


def _node(*labels: Label) -> Node:
    found = sorted((Label(RESERVED, "host", ""), *labels), key=lambda label: label.key)
    return Node(name=NODE, labels=LabelSet(tuple(found)))


def _policies(cluster: str) -> list[ParsedPolicy]:
    named = [{"ports": [{"port": "web", "protocol": "TCP"}]}]
    host = {
        "nodeSelector": {"matchLabels": {"role": "edge"}},
        "ingress": [{"fromEndpoints": [{"matchLabels": {"app": "client"}}], "toPorts": TCP80}],
        "ingressDeny": [{"fromCIDRSet": [{"cidrGroupRef": "office"}]}],
    }
    egress = [
        {"toEndpoints": [{"matchLabels": {"app": "server"}}], "toPorts": named},
        {"toServices": [{"k8sService": {"serviceName": "db"}}]},
        {"toCIDRSet": [{"cidrGroupRef": "office"}]},
        {"toEndpoints": [{"matchLabels": {"io.cilium.k8s.policy.cluster": cluster, "app": "db"}}]},
    ]
    return [parsed(ccnp(host, name="host")), parsed(cnp({"egress": egress}, name="pods"))]


def _inputs(cluster: str, family: int) -> list[Step]:
    """Five inputs of different kinds; each may come at any time."""
    policies = _policies(cluster)

    def identities(engine: PolicyEngine) -> None:
        for number, app in ((1000, "client"), (1001, "server"), (1002, "db")):
            engine.put_identity(number, workload_labels([f"app={app}"], namespace="shop", cluster=cluster))

    def objects(engine: PolicyEngine) -> None:
        for policy in policies:
            engine.put_policy(policy)

    def references(engine: PolicyEngine) -> None:
        engine.put_service(Service(namespace="shop", name="db", selector={"app": "db"}))
        engine.put_cidr_group(CidrGroup(key=GROUP, labels={}, cidrs=(single(address(family)),)))

    return [
        identities,
        objects,
        references,
        lambda engine: engine.put_named_ports(1001, address(family, 9), {(6, "web"): 8080}),
        lambda engine: engine.put_node(_node(Label("node", "role", "edge"))),
    ]


def _state(engine: PolicyEngine) -> dict[str, SubjectPolicy]:
    found: dict[str, SubjectPolicy | None] = {subject_key(n): engine.subject(n) for n in engine.identities}
    found |= {host_key(name): engine.host(name) for name in engine.nodes}
    return {key: policy for key, policy in found.items() if policy is not None}


@everywhere
def test_cve_2024_42488_every_order_of_arrival_gives_the_same_policies(family: int, cluster: str) -> None:
    """Labels of a node that came after its policies were ignored, and the host firewall never selected it.

    In each of the 120 orders of {identities, policies, services and groups, named ports, node labels}, with
    and without a resolution between any two, every subject ends with what a resolution from scratch says.
    """
    rng = random.Random(42488)
    config = PolicySettings(cluster_name=cluster, host_firewall=True)
    expected = None
    for order in itertools.permutations(_inputs(cluster, family)):
        engine = PolicyEngine(config)
        for step in order:
            if rng.random() < 0.3:
                engine.put_node(_node())  # known, but without its labels
            step(engine)
            if rng.random() < 0.7:
                engine.drain(1)
        engine.put_node(_node(Label("node", "role", "edge")))
        engine.drain(2)
        state = _state(engine)
        if expected is None:
            expected = resolve_all(
                _policies(cluster),
                {number: labels for number, labels in engine.identities.items() if number >= 1000},
                config,
                PlainInputs(
                    services=[Service(namespace="shop", name="db", selector={"app": "db"})],
                    cidr_groups=[CidrGroup(key=GROUP, labels={}, cidrs=(single(address(family)),))],
                    nodes=[_node(Label("node", "role", "edge"))],
                    named_ports={(1001, address(family, 9)): {(6, "web"): 8080}},
                ),
            )
        assert state == expected


@everywhere
def test_cve_2024_42488_late_node_labels_close_the_host(family: int, cluster: str) -> None:
    """The host is judged by the policy as soon as its labels are known, and no longer when they go."""
    engine = PolicyEngine(PolicySettings(cluster_name=cluster, host_firewall=True))
    spec = {
        "nodeSelector": {"matchLabels": {"role": "edge"}},
        "ingress": [{"fromCIDR": [single(address(family))]}],
    }
    engine.put_policy(parsed(ccnp(spec)))
    for labels, closed in (((), False), ((Label("node", "role", "edge"),), True), ((), False)):
        engine.put_node(_node(*labels))
        engine.drain(1)
        policy = engine.host(NODE)
        assert policy is not None
        entries = finish(policy, local_identities={}, named_ports={})
        assert lookup(entries, Direction.INGRESS, 1000, 6, 22).forwarded is not closed


@everywhere
def test_cve_2025_32793_a_peer_that_goes_is_nobody(family: int, cluster: str) -> None:
    """Packets of an endpoint that was going away were treated as someone else's.

    Once its identity is gone the number is let in by no rule about labels, nor is what it may read as then:
    an unknown or unmanaged peer or the world. A number that comes back is judged by its new labels.
    """
    engine = PolicyEngine(PolicySettings(cluster_name=cluster))
    engine.put_identity(1000, workload_labels(["app=web"], namespace="shop", cluster=cluster))
    peers: list[Json] = [{"fromEndpoints": [{"matchLabels": {"app": "peer"}}]}, {"fromEntities": ["cluster"]}]
    for name, entry in enumerate([*peers, {"fromCIDR": [single(address(family))]}]):
        engine.put_policy(parsed(cnp({"ingress": [entry]}, name=f"policy-{name}")))
    world = {
        number: LabelSet.parse([f"reserved:world-ipv{v}"]) for v, number in ((4, WORLD_IPV4), (6, WORLD_IPV6))
    }

    def lets_in(number: int) -> bool:
        engine.drain(1)
        policy = engine.subject(1000)
        assert policy is not None
        entries = finish(policy, local_identities=world, named_ports={})
        return lookup(entries, Direction.INGRESS, number, 6, 80).forwarded

    engine.put_identity(2000, workload_labels(["app=peer"], namespace="shop", cluster=cluster))
    assert lets_in(2000)
    engine.remove_identity(2000)
    assert not any(lets_in(number) for number in (2000, UNKNOWN, UNMANAGED, WORLD_IPV4, WORLD_IPV6))
    engine.put_identity(2000, workload_labels(["app=peer"], namespace="evil", cluster="elsewhere"))
    assert not lets_in(2000)


def test_cve_2026_53935_redirect_objects_are_refused_by_name() -> None:
    """An object that redirects services took over another namespace's address: none is taken here.

    The answer says so; it is never read as something else, nor left out of a list silently.
    """
    other = cnp({"ingress": [{}]})
    for ip in ("10.96.0.10", "fd00::a"):
        redirect = {
            "apiVersion": "cilium.io/v2",
            "kind": "CiliumLocalRedirectPolicy",
            "metadata": {"name": "steal", "namespace": "evil"},
            "spec": {"redirectFrontend": {"addressMatcher": {"ip": ip, "toPorts": [{"port": "53"}]}}},
        }
        with pytest.raises(InvalidPolicy, match="CiliumLocalRedirectPolicy is not supported"):
            parse_objects(json.dumps(redirect))
        with pytest.raises(InvalidPolicy, match="CiliumLocalRedirectPolicy is not supported"):
            parse_objects(json.dumps({"apiVersion": "v1", "kind": "List", "items": [other, redirect]}))


@everywhere
def test_cve_2026_53935_removal_restores_what_was(family: int, cluster: str) -> None:
    """Removing the object left the service it had taken broken.

    Whatever came and went again, in any order, leaves every subject's policy as it was; and a service of
    another namespace never stands for the one of the same name here.
    """
    engine = PolicyEngine(PolicySettings(cluster_name=cluster, host_firewall=True))
    for step in _inputs(cluster, family):
        step(engine)
    engine.drain(1)
    before = _state(engine)
    rng = random.Random(53935)
    steal = Service(namespace="evil", name="db", backends=(address(family, 66),))
    wide = [parsed(ccnp({"egressDeny": [{"toEntities": ["all"]}]}, name=name)) for name in ("a", "b")]
    pairs: list[tuple[Step, Step]] = [
        (lambda one: one.put_service(steal), lambda one: one.remove_service("evil", "db")),
        (lambda one: one.put_policy(wide[0]), lambda one: one.remove_policy(wide[0].key)),
        (lambda one: one.put_policy(wide[1]), lambda one: one.remove_policy(wide[1].key)),
        (
            lambda one: one.put_identity(
                3000, workload_labels(["app=db"], namespace="shop", cluster=cluster)
            ),
            lambda one: one.remove_identity(3000),
        ),
        (
            lambda one: one.put_named_ports(1001, address(family, 10), {(6, "web"): 9090}),
            lambda one: one.remove_named_ports(1001, address(family, 10)),
        ),
    ]
    pairs[0][0](engine)
    engine.drain(2)
    assert _state(engine) == before, "a service of another namespace is another service"
    for _ in range(scaled(20, 500)):
        for put, _ in rng.sample(pairs, len(pairs)):
            put(engine)
            engine.drain(3)
        assert _state(engine) != before
        for _, remove in rng.sample(pairs, len(pairs)):
            remove(engine)
            engine.drain(4)
        assert _state(engine) == before
