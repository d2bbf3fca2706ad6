"""What runs where, and that its settings are readable TOML."""

from __future__ import annotations

import tomllib
from itertools import chain
from pathlib import Path

from axoneme.lab import topology
from axoneme.lab.files import ClusterFiles, toml
from axoneme.lab.plan import ClusterPlan, PlannedProcess


def plans(*, clusters: int = 1, simulated: bool = False) -> list[ClusterPlan]:
    built = topology.from_flags(clusters=clusters, simulated=simulated)
    return [ClusterPlan(c, ClusterFiles(Path("/lab"), c.name), simulated) for c in built.clusters]


def processes(plan: ClusterPlan) -> list[PlannedProcess]:
    return [plan.etcd(), *plan.services(), plan.relay(), *(plan.node(node) for node in plan.cluster.nodes)]


def test_every_process_enters_its_namespace() -> None:
    (plan,) = plans()
    entered = {process.name: process.command[1] for process in processes(plan)}
    assert entered["node2"] == "--net=/run/netns/axolab-east-node2"
    assert {entered[name] for name in ("etcd", "identity", "policy", "relay")} == {
        "--net=/run/netns/axolab-east-control"
    }


def test_a_simulated_cluster_enters_none_and_says_so() -> None:
    (plan,) = plans(simulated=True)
    assert not any("nsenter" in process.command for process in processes(plan))
    assert plan.node(plan.cluster.nodes[0]).settings["datapath"] == "memory"
    assert plan.context()["simulated"] is True


def test_simulated_listeners_are_distinct_and_on_loopback() -> None:
    addresses = list(chain.from_iterable(listeners(plan) for plan in plans(clusters=20, simulated=True)))
    assert len(set(addresses)) == len(addresses)
    assert all(address.startswith("127.0.0.1:") for address in addresses)
    assert max(int(address.rpartition(":")[2]) for address in addresses) < 2**16


def listeners(plan: ClusterPlan) -> list[str]:
    a, nodes = plan.addresses, plan.cluster.nodes
    services = [a.etcd, a.etcd_peer, a.identity, a.policy, a.relay]
    metrics = [a.metrics(name) for name in ("identity", "policy", "relay")]
    return (
        services + metrics + [f(n) for n in nodes for f in (a.observer, lambda node: a.metrics("node", node))]
    )


def test_listeners_follow_the_table_of_ports() -> None:
    (plan,) = plans()
    a, node = plan.addresses, plan.cluster.nodes[0]
    assert (a.identity, a.policy, a.relay) == ("198.18.1.10:4301", "198.18.1.10:4302", "198.18.1.10:4245")
    assert (a.clustermesh, a.metrics("clustermesh")) == ("198.18.1.10:4303", "127.0.0.1:9964")
    assert a.observer(node) == "198.18.1.101:4244"
    assert (a.etcd, a.metrics("node", node)) == ("127.0.0.1:2379", "127.0.0.1:9966")


def test_settings_are_toml_that_reads_back() -> None:
    for process in processes(plans()[0]):
        assert tomllib.loads(toml(process.settings)) == dict(process.settings)


def test_only_services_know_etcd() -> None:
    (plan,) = plans()
    knowing = {process.name for process in processes(plan) if "etcd_endpoints" in process.settings}
    assert knowing == {"identity", "policy", "clustermesh"}


def test_settings_of_the_topology_win() -> None:
    document = {
        "clusters": [
            {"name": "c", "nodes": [{"name": "n"}], "settings": {"identity": {"node_lease_seconds": 7}}},
        ]
    }
    cluster = topology.from_document(document, where="f").clusters[0]
    plan = ClusterPlan(cluster, ClusterFiles(Path("/lab"), "c"), simulated=False)
    assert plan.services()[0].settings["node_lease_seconds"] == 7
