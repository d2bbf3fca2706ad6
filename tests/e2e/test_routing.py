"""Both routing modes on real packets: what arrives, under which identity, in which size, what does not."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from axoneme.api.clustermesh.v1 import clustermesh_pb2 as pb
from axoneme.lab import network
from tests.e2e import outside as machine
from tests.e2e import policies
from tests.e2e.outside import NETNS as OUTSIDE
from tests.e2e.running import Running
from tests.e2e.services import (
    BACKEND_PORT,
    PORT,
    address,
    ask,
    ask_from,
    eventually_answers,
    mirror,
    mirrors,
    node_ip,
    node_port,
    service,
    stopped,
    who,
)
from tests.waiting import eventually_sync

pytestmark = [pytest.mark.root, pytest.mark.etcd]

VERSIONS = pytest.mark.parametrize("version", [4, 6])
LINK_MTU = 1500
# A node with an IPv6 address leaves room for an underlay of IPv6.
VXLAN_BYTES = 70


@pytest.fixture(scope="module")
def tunnelled(laboratory_of_the_session: Running) -> Iterator[Running]:
    """The laboratory with VXLAN between its nodes; routed again afterwards."""
    lab = laboratory_of_the_session
    lab.reconfigure_nodes(routing_mode="tunnel")
    yield lab
    lab.reconfigure_nodes()


@pytest.fixture
def tunnel(tunnelled: Running) -> Running:
    tunnelled.delete_all_policies()
    return tunnelled


def ping(lab: Running, pod: str, ip: str, size: int = 56, *words: str) -> bool:
    """One echo with `size` bytes; `words` are further options of ping."""
    command = lab.inside(pod, "ping", "-c", "1", "-W", "1", "-s", str(size), *words, ip)
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


@VERSIONS
def test_direct_packets_are_whole_and_errors_come_back(lab: Running, version: int) -> None:
    there = lab.ip("backend", version)
    head = 28 if version == 4 else 48
    assert ping(lab, "frontend", there, LINK_MTU - head, "-M", "do")
    assert ping(lab, "frontend", there, 9000)  # in fragments
    assert not ping(lab, "frontend", there, LINK_MTU - head + 1, "-M", "do")


@VERSIONS
def test_a_pod_behind_another_address_is_unreachable_not_silent(lab: Running, version: int) -> None:
    """An ICMP error about a connection comes back to who opened it."""
    nobody = "10.1.250.250" if version == 4 else "fd00:10:1:fa::fa"
    command = lab.inside("frontend", "curl", "-sS", "--max-time", "3", f"http://{bracketed(nobody)}:8080/")
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 7, done.stderr  # refused or unreachable, not a timeout (28)


@VERSIONS
def test_masquerading_hides_pods_from_strangers_only(lab: Running, version: int) -> None:
    with machine.outside(lab), mirror(OUTSIDE, "stranger"), mirrors(lab, "backend"):
        outside_ip = machine.INSIDE.ips[version == 6]
        found = ask(lab, "frontend", outside_ip, BACKEND_PORT)
        assert {answer.client for answer in found} == {node_ip(lab, "node1", version)}
        found = ask(lab, "frontend", lab.ip("backend", version), BACKEND_PORT)
        assert {answer.client for answer in found} == {lab.ip("frontend", version)}
        # A stranger's own connection to a pod is answered under the pod's address.
        found = ask_from(OUTSIDE, lab.ip("backend", version), BACKEND_PORT)
        assert who(found) == {"backend"}
        assert {answer.peer for answer in found} == {lab.ip("backend", version)}


@VERSIONS
def test_a_tunnel_carries_identities(tunnel: Running, version: int) -> None:
    lab = tunnel
    lab.becomes_reachable("frontend", "backend", version)
    lab.apply(policies.ALLOW_FRONTEND)
    lab.becomes_unreachable("batch", "backend", version)
    assert lab.reaches("frontend", "backend", version=version)
    routes = subprocess.run(
        [*network.entering(lab.cluster.netns("node1")), "ip", f"-{version}", "route"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert "dev axo_vxlan" in routes


@VERSIONS
def test_a_tunnel_leaves_room_for_its_headers(tunnel: Running, version: int) -> None:
    lab = tunnel
    there = lab.ip("backend", version)
    head = 28 if version == 4 else 48
    lab.becomes_reachable("frontend", "backend", version)
    assert ping(lab, "frontend", there, LINK_MTU - VXLAN_BYTES - head, "-M", "do")
    assert not ping(lab, "frontend", there, LINK_MTU - VXLAN_BYTES - head + 1, "-M", "do")
    # These pods are older than the tunnel and have the MTU of then: their path tells them (RFC 8201).
    eventually_sync(lambda: ping(lab, "frontend", there, 9000), message="fragments of the right size arrive")


@VERSIONS
@pytest.mark.parametrize("sockets", [True, False], ids=["socket", "packet"])
def test_services_work_through_a_tunnel(tunnel: Running, version: int, sockets: bool) -> None:
    lab = tunnel
    with mirrors(lab, "backend"), service(lab, "web", pods=["backend"]) as web:
        vip = address(web, version)
        eventually_answers(lab, "frontend", vip, sockets=sockets)
        lab.in_force(policies.allow("backend", "frontend", BACKEND_PORT))
        assert who(ask(lab, "frontend", vip, PORT, sockets=sockets)) == {"backend"}
        assert stopped(lab, "batch", vip, PORT, sockets=sockets)


@VERSIONS
def test_a_stranger_stays_world_through_another_node(tunnel: Running, version: int) -> None:
    """Behind a node port of another node its packets bear the node's address and the world's number."""
    lab = tunnel
    world = "reserved:world-ipv4" if version == 4 else "reserved:world-ipv6"
    with (
        machine.outside(lab),
        mirrors(lab, "backend"),
        service(lab, "web", pods=["backend"], type=pb.SERVICE_TYPE_NODE_PORT) as web,
    ):
        host, port = node_ip(lab, "node1", version), node_port(web)
        eventually_sync(lambda: who(ask_from(OUTSIDE, host, port, count=1)) == {"backend"})
        found = lab.flows(
            "--last",
            "200",
            "--to-pod",
            "default/backend",
            "--node-name",
            "*node2",
            "--port",
            str(BACKEND_PORT),
        )
        strangers = [flow for flow in found if flow["IP"]["source"] == host]
        assert strangers
        assert {label for flow in strangers for label in flow["source"].get("labels", [])} >= {world}


def bracketed(ip: str) -> str:
    return f"[{ip}]" if ":" in ip else ip
