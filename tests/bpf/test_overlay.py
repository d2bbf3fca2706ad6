"""The tunnel device's programs in test runs. What needs real tunnel packets: test_netdev_packets.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.bpf import frames, packets
from tests.bpf.nodeharness import DROPPED, MARK_IDENTITY, Node

pytestmark = pytest.mark.root
HERE = {4: "10.1.0.5", 6: "fd00:10:1::5"}
THERE = {4: "10.1.9.9", 6: "fd00:10:1:9::9"}
THERE_NETWORK = {4: "10.1.9.0/24", 6: "fd00:10:1:9::/64"}
PEER_NODE = {4: "192.0.2.2", 6: "2001:db8::2"}
WORLD_PREFIX = {4: "0.0.0.0/0", 6: "::/0"}
IDENTITY, REMOTE = 5001, 6001
TRACE = 4
TO_OVERLAY = 4
families = pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])


@pytest.fixture(scope="module")
def loaded(compiled: None) -> Iterator[Node]:
    one = Node("overlay", ("overlay.o",))
    yield one
    one.close()


@pytest.fixture
def node(loaded: Node) -> Node:
    loaded.reset()
    return loaded


def syn(family: int, **extra: object) -> bytes:
    return frames.sealed(HERE[family], THERE[family], packets.TCP, packets.tcp(4000, 80), **extra)


@families
@pytest.mark.parametrize("underlay", [4, 6], ids=["over-ipv4", "over-ipv6"])
def test_a_packet_to_a_pod_elsewhere_travels_with_its_identity(
    node: Node, family: int, underlay: int
) -> None:
    node.identity(HERE[family], IDENTITY)
    node.identity(THERE[family], REMOTE, tunnel=PEER_NODE[underlay])
    ran = node.run("to_overlay", syn(family))
    assert ran.passed
    assert ran.data[12:] == syn(family)[12:], "the inner packet stays as it is"
    assert ran.data[6:12] == bytes.fromhex("0a61786f0002"), "not the address of every node's device"
    (event,) = ran.events
    assert (event["event_type"], event["sub_type"]) == (TRACE, TO_OVERLAY)
    assert (event["source_identity"], event["destination_identity"]) == (IDENTITY, REMOTE)


@families
def test_the_tunnel_of_the_pod_network_serves_an_address_without_one(node: Node, family: int) -> None:
    node.identity(HERE[family], IDENTITY)
    node.identity(THERE[family], REMOTE)
    node.identity(THERE_NETWORK[family], REMOTE, tunnel=PEER_NODE[family])
    assert node.run("to_overlay", syn(family)).passed


@families
def test_without_a_tunnel_endpoint_nothing_leaves(node: Node, family: int) -> None:
    node.identity(HERE[family], IDENTITY)
    node.identity(THERE[family], REMOTE)
    assert node.run("to_overlay", syn(family)).drop_reason == 160


@families
def test_the_event_names_the_identity_that_the_packet_carries(node: Node, family: int) -> None:
    node.identity(HERE[family], 1)
    node.identity(THERE[family], REMOTE, tunnel=PEER_NODE[family])
    ran = node.run("to_overlay", syn(family), mark=MARK_IDENTITY | 2)
    assert ran.events[0]["source_identity"] == 2


@families
def test_data_of_a_connection_leaves_no_event(node: Node, family: int) -> None:
    node.identity(THERE[family], REMOTE, tunnel=PEER_NODE[family])
    data = frames.sealed(HERE[family], THERE[family], packets.TCP, packets.tcp(4000, 80, packets.ACK))
    ran = node.run("to_overlay", data)
    assert ran.passed
    assert ran.events == []


@families
def test_malformed_packets_do_not_leave(node: Node, family: int) -> None:
    node.identity(THERE[family], REMOTE, tunnel=PEER_NODE[family])
    short = packets.packet(HERE[family], THERE[family], packets.TCP, packets.tcp(1, 2)[:12])
    assert node.run("to_overlay", short).drop_reason == 135


@families
def test_later_fragments_follow_the_first(node: Node, family: int) -> None:
    node.identity(THERE[family], REMOTE, tunnel=PEER_NODE[family])
    later = packets.packet(HERE[family], THERE[family], packets.TCP, bytes(16), fragment=1480)
    assert node.run("to_overlay", later).drop_reason == 175
    short = packets.packet(HERE[family], THERE[family], packets.TCP, packets.tcp(1, 2) + bytes(4), more=True)
    assert node.run("to_overlay", short).passed
    assert node.run("to_overlay", later).passed


def test_address_resolution_does_not_travel(node: Node) -> None:
    arp = packets.ethernet(bytes(28), ethertype=0x0806)
    ran = node.run("to_overlay", arp)
    assert ran.answer == DROPPED
    assert ran.events == []


def test_neighbour_discovery_does_not_travel(node: Node) -> None:
    solicit = packets.packet(
        "fe80::1", "ff02::1:ff00:9", packets.ICMP6, packets.icmp(135, payload=bytes(16)), hop_limit=255
    )
    ran = node.run("to_overlay", solicit)
    assert ran.answer == DROPPED
    assert ran.events == []


@families
def test_a_packet_that_came_through_no_tunnel_is_dropped(node: Node, family: int) -> None:
    assert node.run("from_overlay", syn(family)).drop_reason == 147
