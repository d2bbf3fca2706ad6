"""RC-ATTRIB (CVE-2023-27594): whoever sends, directly or through a service, is seen as who it is."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial

import pytest

from axoneme.api.clustermesh.v1 import clustermesh_pb2 as pb
from axoneme.lab import cgroups, network
from tests.e2e import outside as machine
from tests.e2e.outside import NETNS as OUTSIDE
from tests.e2e.running import TRAFFIC, Running
from tests.e2e.services import (
    BACKEND_PORT,
    PORT,
    address,
    answers,
    ask,
    ask_from,
    mirrors,
    node_ip,
    node_port,
    service,
    who,
)
from tests.waiting import eventually_sync

pytestmark = [pytest.mark.root, pytest.mark.etcd]

VERSIONS = pytest.mark.parametrize("version", [4, 6])
TARGET = "backend-near"  # on node1
WORLD = {4: "reserved:world-ipv4", 6: "reserved:world-ipv6"}


@pytest.fixture(scope="module")
def mirrored(laboratory_of_the_session: Running) -> Iterator[tuple[Running, pb.Service]]:
    lab = laboratory_of_the_session
    lab.delete_all_policies()
    with (
        machine.outside(lab),
        mirrors(lab, TARGET),
        service(lab, "near", pods=[TARGET], type=pb.SERVICE_TYPE_NODE_PORT) as near,
    ):
        eventually_sync(lambda: who(ask(lab, "frontend", address(near, 4), count=1)) == {TARGET})
        yield lab, near


def from_node(lab: Running, node: str, host: str, port: int) -> set[str]:
    """Who answers a process of a node, in its namespace and its cgroup."""
    folder = cgroups.node_folder(lab.cluster, node, cgroups.hierarchy())
    words = [sys.executable, TRAFFIC, "ask", "tcp", host, str(port), "1", "1.0"]
    inside = network.entering(lab.cluster.netns(node))
    return who(answers([*inside, *cgroups.joining(folder / "host" if folder else None), *words]))


def seen_as(lab: Running, version: int, since: int) -> list[str]:
    """Labels of the source of the newest connection to the target, of those after the first `since`."""

    def newest() -> list[str]:
        words = ("--to-pod", f"default/{TARGET}", "--port", str(BACKEND_PORT), "--ip-version", f"v{version}")
        found = lab.flows(
            "--last", "200", "--type", "policy-verdict", "--traffic-direction", "ingress", *words
        )
        assert len(found) > since
        return list(found[-1]["source"]["labels"])

    return eventually_sync(newest)


def connections(lab: Running, version: int) -> int:
    words = ("--to-pod", f"default/{TARGET}", "--port", str(BACKEND_PORT), "--ip-version", f"v{version}")
    return len(
        lab.flows("--last", "200", "--type", "policy-verdict", "--traffic-direction", "ingress", *words)
    )


@VERSIONS
@pytest.mark.parametrize("way", ["direct", "service", "packet"])
@pytest.mark.parametrize("source", ["frontend", "backend"], ids=["local-pod", "remote-pod"])
def test_pods(mirrored: tuple[Running, pb.Service], version: int, way: str, source: str) -> None:
    lab, near = mirrored
    direct = (lab.ip(TARGET, version), BACKEND_PORT)
    host, port = direct if way == "direct" else (address(near, version), PORT)
    before = connections(lab, version)
    assert who(ask(lab, source, host, port, sockets=way != "packet", count=1)) == {TARGET}
    assert f"k8s:app={source}" in seen_as(lab, version, before)


@VERSIONS
@pytest.mark.parametrize("way", ["direct", "service"])
@pytest.mark.parametrize(("node", "label"), [("node1", "reserved:host"), ("node2", "reserved:remote-node")])
def test_nodes(mirrored: tuple[Running, pb.Service], version: int, way: str, node: str, label: str) -> None:
    lab, near = mirrored
    direct = (lab.ip(TARGET, version), BACKEND_PORT)
    host, port = direct if way == "direct" else (address(near, version), PORT)
    before = connections(lab, version)
    assert from_node(lab, node, host, port) == {TARGET}
    assert label in seen_as(lab, version, before)


@VERSIONS
@pytest.mark.parametrize("way", ["direct", "node-port"])
def test_strangers(mirrored: tuple[Running, pb.Service], version: int, way: str) -> None:
    lab, near = mirrored
    direct = (lab.ip(TARGET, version), BACKEND_PORT)
    host, port = direct if way == "direct" else (node_ip(lab, "node1", version), node_port(near))
    before = connections(lab, version)
    asked = partial(ask_from, OUTSIDE, host, port, count=1)
    eventually_sync(lambda: who(asked()) == {TARGET})
    assert WORLD[version] in seen_as(lab, version, before)
