"""The network of a laboratory, with real namespaces; skipped while a lab of that name is up."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from axoneme.lab import network, topology
from axoneme.lab.errors import LabError
from axoneme.lab.topology import Topology

pytestmark = pytest.mark.root


@pytest.fixture
def built() -> Iterator[Topology]:
    if network.existing_namespaces():
        pytest.skip("a lab is up")
    wanted = topology.from_flags(clusters=2, nodes=1)
    try:
        network.build(wanted)
        yield wanted
    finally:
        network.remove()


def ping(netns: str | None, address: str) -> bool:
    command = [*(network.entering(netns) if netns else []), "ping", "-c1", "-W2", address]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def test_nodes_reach_control_and_other_clusters_over_both_families(built: Topology) -> None:
    east, west = built.clusters
    node = east.netns("node1")
    for address in (east.address(10), east.address6(10), west.address(101), west.address6(101)):
        assert ping(node, address), address


def test_the_host_reaches_the_control_namespace(built: Topology) -> None:
    assert ping(None, built.clusters[1].address(network.CONTROL_HOST))


def test_pods_have_no_interface_of_the_labs_making(built: Topology) -> None:
    netns = built.clusters[0].netns("frontend")
    shown = subprocess.run(
        ["ip", "-n", netns, "-o", "link"], check=True, capture_output=True, text=True
    ).stdout
    assert [line.split(":")[1].strip() for line in shown.splitlines()] == ["lo"]


def test_removal_leaves_nothing_and_may_be_repeated(built: Topology) -> None:
    assert network.remove()
    assert network.existing_namespaces() == []
    assert subprocess.run(
        ["ip", "link", "show", network.HOST_LINK], check=False, capture_output=True
    ).returncode
    assert network.remove() == []


def test_a_name_in_use_fails_with_the_words_of_ip(built: Topology) -> None:
    with pytest.raises(LabError, match=r"namespace of the host: .*File exists"):
        network.build(built)
