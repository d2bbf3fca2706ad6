"""Topologies from flags and files: defaults, placement, addresses, exact errors."""

from __future__ import annotations

import pytest

from axoneme.lab import topology
from axoneme.lab.topology import Pod, TopologyError


def test_the_default_is_one_cluster_with_two_nodes_and_four_pods() -> None:
    (east,) = topology.from_flags().clusters
    assert east.name == "east"
    assert {node.name: [pod.name for pod in node.pods] for node in east.nodes} == {
        "node1": ["frontend", "batch"],
        "node2": ["backend", "dns"],
    }


def test_a_bare_name_means_an_app_label_and_backends_serve() -> None:
    pods = {pod.name: pod for _, pod in topology.from_flags().clusters[0].pods()}
    assert pods["backend"] == Pod(name="backend", labels=("app=backend",), http_port=8080)
    assert pods["frontend"] == Pod(name="frontend", labels=("app=frontend",))


def test_with_one_node_everything_lives_there() -> None:
    (node,) = topology.from_flags(nodes=1).clusters[0].nodes
    assert [pod.name for pod in node.pods] == ["frontend", "batch", "backend", "dns"]


def test_pods_without_a_node_go_to_the_nodes_in_turn() -> None:
    cluster = topology.from_flags(pods=["a", "b", "c", "d@node1"]).clusters[0]
    assert [(node.name, pod.name) for node, pod in cluster.pods()] == [
        ("node1", "a"),
        ("node1", "c"),
        ("node1", "d"),
        ("node2", "b"),
    ]


def test_clusters_get_names_and_disjoint_addresses() -> None:
    clusters = topology.from_flags(clusters=6).clusters
    assert [cluster.name for cluster in clusters] == [
        "east",
        "west",
        "north",
        "south",
        "cluster5",
        "cluster6",
    ]
    assert clusters[1].node_address(clusters[1].nodes[0]) == "198.18.2.101"
    assert clusters[1].node_address6(clusters[1].nodes[0]) == "fd00:198:18:2::101"
    assert clusters[1].pod_cidr_pools == ("10.2.0.0/16/24", "fd00:10:2::/48/64")


def test_a_document_survives_the_state_file() -> None:
    document = {
        "clusters": [
            {
                "name": "home",
                "settings": {"identity": {"node_lease_seconds": 5}},
                "nodes": [
                    {
                        "name": "n1",
                        "pods": ["web", {"name": "db", "namespace": "data", "labels": {"tier": "x"}}],
                    }
                ],
            }
        ]
    }
    built = topology.from_document(document, where="file")
    assert topology.from_document(topology.to_document(built), where="again") == built
    (_, pod) = built.clusters[0].nodes[0].pods
    assert pod == Pod(name="db", namespace="data", labels=("tier=x",))


def node(**fields: object) -> dict[str, object]:
    return {"clusters": [{"name": "c", "nodes": [{"name": "n", **fields}]}]}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (None, "f: must be a mapping, is empty"),
        ({}, "f.clusters: is missing"),
        ({"clusters": []}, "f: clusters: has 0 entries; 1 to 20 are possible"),
        ({"cluster": []}, "f.cluster: unknown field; known are clusters"),
        ({"clusters": [{"name": "c"}]}, "f: clusters[0].nodes: is missing"),
        ({"clusters": [{"name": "C", "nodes": [{"name": "n"}]}]}, "f: clusters[0].name: 'C' is not a name"),
        (node(name="control"), "f: clusters[0].nodes[0].name: control is a namespace of the lab's own"),
        (
            node(pods=["p", "p"]),
            "f: clusters[0].nodes: the node or pod name p is used twice",
        ),
        (node(pods=["n"]), "f: clusters[0].nodes: the node or pod name n is used twice"),
        (node(pods={"p": 1}), "f: clusters[0].nodes[0].pods: must be a list, is a dict"),
        (
            node(pods=[{"name": "p", "http_port": 70000}]),
            "pods[0].http_port: 70000 is not a port",
        ),
        (node(pods=[{"name": "p", "http_port": True}]), "pods[0].http_port: True is not a port"),
        (node(pods=[{"name": "p", "labels": {"a b": 1}}]), "pods[0].labels: 'a b=1' is not a label"),
        (
            node(pods=[{"name": "p", "port": 1}]),
            "pods[0].port: unknown field; known are name",
        ),
    ],
)
def test_a_wrong_document_is_refused_with_field_and_fix(document: object, message: str) -> None:
    with pytest.raises(TopologyError) as caught:
        topology.from_document(document, where="f")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"clusters": 0}, "--clusters 0: say 1 to 20"),
        ({"nodes": 100}, "--nodes 100: say 1 to 99"),
        ({"pods": ["a@node7"]}, "--pods a@node7: there is no node node7; say one of node1, node2"),
        ({"pods": ["a", "a"]}, "the node or pod name a is used twice"),
    ],
)
def test_wrong_flags_are_refused_with_the_fix(flags: dict[str, object], message: str) -> None:
    with pytest.raises(TopologyError) as caught:
        topology.from_flags(**flags)  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_a_pod_is_found_by_name_and_by_cluster_where_there_are_several() -> None:
    one, two = topology.from_flags(), topology.from_flags(clusters=2)
    assert one.find_pod("batch")[2].name == "batch"
    assert two.find_pod("west/batch")[0].name == "west"
    with pytest.raises(TopologyError, match="is in several clusters; say east/batch or west/batch"):
        two.find_pod("batch")
    with pytest.raises(TopologyError, match="there is none; the lab has frontend, batch, backend"):
        one.find_pod("nobody")
