"""Advisories about scope: nothing reaches beyond its namespace, and pods, nodes and outsiders stay apart."""

from __future__ import annotations

from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from axoneme.lib.identities import CLUSTER_ID_SHIFT, RESERVED
from axoneme.lib.labels import (
    CLUSTER_KEY,
    K8S,
    NAMESPACE_KEY,
    NAMESPACE_LABEL_PREFIX,
    InvalidLabels,
    Label,
    LabelSet,
    workload_labels,
)
from services.policy.inputs import PolicySettings
from services.policy.reading.faults import InvalidPolicy
from services.policy.resolution.engine import PolicyEngine
from tests.conftest import SOAK, scaled
from tests.model.advisorycases import (
    CLUSTERS,
    TCP80,
    address,
    ccnp,
    cnp,
    enters,
    everything,
    everywhere,
    knp,
    leaves,
    outside,
    parsed,
    pod,
    scene,
)

KEYS: Final = (
    "reserved:init",
    "$host",
    "reserved:remote-node",
    "app",
    "k8s:app",
    NAMESPACE_KEY,
    f"k8s:{NAMESPACE_KEY}",
    f"any:{NAMESPACE_KEY}",
    NAMESPACE_LABEL_PREFIX + "team",
    CLUSTER_KEY,
)
VALUES: Final = ("shop", "victim", "web", "red")
expressions = st.one_of(
    st.fixed_dictionaries(
        {"key": st.sampled_from(KEYS), "operator": st.sampled_from(("Exists", "DoesNotExist"))}
    ),
    st.fixed_dictionaries(
        {
            "key": st.sampled_from(KEYS),
            "operator": st.sampled_from(("In", "NotIn")),
            "values": st.lists(st.sampled_from(VALUES), min_size=1, max_size=2),
        }
    ),
)
selectors = st.fixed_dictionaries(
    {},
    optional={
        "matchLabels": st.dictionaries(st.sampled_from(KEYS), st.sampled_from(("", *VALUES)), max_size=2),
        "matchExpressions": st.lists(expressions, max_size=3),
    },
)


def crowd(cluster: str) -> PolicyEngine:
    """Pods of several namespaces and clusters, beside the reserved identities."""
    engine = PolicyEngine(PolicySettings(cluster_name=cluster, host_firewall=True))
    number = 1000
    for home in (cluster, "elsewhere"):
        for namespace in ("shop", "victim", "kube-system"):
            for own in ([], ["app=web"], ["app=shop", "team=red"]):
                labels = workload_labels(
                    own, namespace=namespace, cluster=home, namespace_labels={"team": "red"}
                )
                engine.put_identity(number + ((home != cluster) << CLUSTER_ID_SHIFT), labels)
                number += 1
    return engine


CROWDS: Final = {cluster: crowd(cluster) for cluster in CLUSTERS}


@settings(max_examples=scaled(200, 10_000), derandomize=not SOAK)
@given(selector=selectors, cluster=st.sampled_from(CLUSTERS))
def test_cve_2023_41333_subjects_stay_in_their_namespace(selector: dict[str, Any], cluster: str) -> None:
    """A DoesNotExist on reserved:init took the namespace off the subject, so a policy ruled the cluster.

    Whatever the endpointSelector of a namespaced policy says, it selects pods of that namespace only.
    """
    engine = CROWDS[cluster]
    try:
        policy = parsed(cnp({"endpointSelector": selector, "ingress": [{}]}))
    except InvalidPolicy:
        return
    selected = engine.selected_subjects(policy)
    assert not selected & set(RESERVED)
    home = Label(K8S, NAMESPACE_KEY, "shop")
    assert all(home in (engine.labels(number) or ()) for number in selected)
    assert engine.selected_nodes(policy) == set()


@everywhere
def test_cve_2023_41333_the_written_case(family: int, cluster: str) -> None:
    """The selector of the advisory denies in its own namespace and nowhere else, in each family."""
    selector = {"matchExpressions": [{"key": "reserved:init", "operator": "DoesNotExist"}]}
    endpoints = {"own": pod(), "foreign": pod(namespace="victim"), "out": outside(address(family))}
    world = scene(
        cluster, endpoints, [cnp({"endpointSelector": selector, "egressDeny": [{"toEntities": ["all"]}]})]
    )
    assert leaves(world, "own", "out") == "deny"
    assert leaves(world, "foreign", "out") == "allow"


@everywhere
@pytest.mark.parametrize("told_apart", [False, True])
@pytest.mark.parametrize("deny", [False, True])
def test_cve_2025_30163_nodes_are_not_pods(family: int, cluster: str, told_apart: bool, deny: bool) -> None:
    """fromNodes and toNodes matched pods that have the labels of the nodes. What a peer is belongs to it."""
    labels = {"role": "db", "node-role.kubernetes.io/worker": ""}
    endpoints = {
        "web": pod(),
        "twin": {**pod(namespace="evil"), "labels": labels, "ip": address(family, 7)},
        "node": {"kind": "remote-node", "labels": labels, "ip": address(family, 8)},
        "out": outside(address(family)),
    }
    peers = [{"matchLabels": {"role": "db"}}]
    sections = {
        "ingressDeny" if deny else "ingress": [{"fromNodes": peers}],
        "egressDeny" if deny else "egress": [{"toNodes": peers}],
        "enableDefaultDeny": {"ingress": not deny, "egress": not deny},
    }
    world = scene(cluster, endpoints, [cnp(sections)], config={"nodeSelectorLabels": told_apart})
    others, nodes = ("allow", "deny") if deny else ("deny", "allow")
    for name in ("twin", "out"):
        assert (enters(world, name, "web"), leaves(world, "web", name)) == (others, others)
    expected = nodes if told_apart else others  # without own numbers a node's labels are not known
    assert (enters(world, "node", "web"), leaves(world, "web", "node")) == (expected, expected)


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_cve_2025_30163_a_label_of_the_source_node_makes_no_node(cluster: str) -> None:
    """Even a label with the source of node labels leaves a pod a pod. IPv4 and IPv6 play no part here."""
    engine = PolicyEngine(PolicySettings(cluster_name=cluster, node_labels=True))
    try:
        labels = workload_labels(["node:role=db"], namespace="shop", cluster=cluster)
    except InvalidLabels:
        labels = LabelSet.of(
            [*workload_labels([], namespace="shop", cluster=cluster), Label("node", "role", "db")]
        )
    engine.put_identity(1000, labels)
    engine.put_policy(parsed(cnp({"ingress": [{"fromNodes": [{"matchLabels": {"role": "db"}}]}]})))
    engine.drain(1)
    policy = engine.subject(1000)
    assert policy is not None
    assert not any(getattr(one.peer, "number", 0) == 1000 for one in policy.contributions)


@everywhere
@pytest.mark.parametrize("mode", [{}, {"policyDefaultLocalCluster": True}])
def test_cve_2026_56743_an_ip_block_selects_no_pods(family: int, cluster: str, mode: dict[str, Any]) -> None:
    """With a cluster name of one's own, peers of ipBlocks alone also let in every pod of every namespace."""
    block = [{"ipBlock": {"cidr": everything(family)}}]
    spec = {"policyTypes": ["Ingress", "Egress"], "ingress": [{"from": block}], "egress": [{"to": block}]}
    endpoints = {
        "web": pod(),
        "same": {**pod(app="same"), "ip": address(family, 5)},
        "other": pod(namespace="evil"),
        "mesh": pod(cluster="west"),
        "out": outside(address(family)),
    }
    for policy in (
        knp(spec),
        cnp({"ingress": [{"fromCIDR": [block[0]["ipBlock"]["cidr"]], "toPorts": TCP80}]}),
    ):
        world = scene(cluster, endpoints, [policy], config=mode)
        assert enters(world, "out", "web") == "allow"
        assert [enters(world, name, "web") for name in ("same", "other", "mesh")] == ["deny"] * 3
    world = scene(cluster, endpoints, [knp(spec)], config=mode)
    assert leaves(world, "web", "out") == "allow"
    assert [leaves(world, "web", name) for name in ("same", "other", "mesh")] == ["deny"] * 3


@everywhere
def test_cve_2023_27594_outsiders_are_not_the_host(family: int, cluster: str) -> None:
    """An address outside that came in through a NodePort was taken for the node itself, which may enter all.

    That the local host gets in is about its one number: no outside address, other node or pod shares it.
    """
    endpoints = {
        "web": pod(),
        "host": {"kind": "host", "ip": address(family, 2)},
        "node": {"kind": "remote-node", "ip": address(family, 3)},
        "api": {"kind": "kube-apiserver", "ip": address(family, 4)},
        "out": outside(address(family)),
        "other": pod(namespace="evil"),
        "unknown": {"kind": "unmanaged"},
    }
    closed = cnp({"ingress": [{"fromEntities": ["none"]}]})
    entity = ccnp({"ingress": [{"fromEntities": ["host"]}]})
    for policy, config in ((closed, {}), (entity, {"allowLocalhost": "policy"})):
        world = scene(cluster, endpoints, [policy], config=config)
        found = {name: enters(world, name, "web") for name in endpoints if name != "web"}
        assert found == {name: "allow" if name == "host" else "deny" for name in found}
