"""Real packets between nodes through the tunnel: who sent them travels in the VNI; strangers stay outside."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from shim.maps.base import address_bytes
from tests.bpf import frames, packets
from tests.bpf.conversation import MEGABYTE, EchoServer, exchange
from tests.bpf.nodeharness import Backend
from tests.bpf.nodenetwork import (
    ENDS,
    FAMILY,
    HOPS,
    NODES,
    POD_IDS,
    TUNNEL_MAC,
    TUNNEL_MTU,
    TUNNEL_PORT,
    Network,
)
from tests.bpf.nodescene import NODE, POD, REMOTE_POD, ROUTER, families
from tests.waiting import eventually_sync

pytestmark = pytest.mark.root
NODE_PORT, TARGET = 30_080, 8080
FROM_OVERLAY, TO_OVERLAY = 9, 4
kinds = pytest.mark.parametrize("datagrams", [False, True], ids=["tcp", "udp"])
underlays = pytest.mark.parametrize(
    "shared",
    [(4, ()), (6, ()), (4, ENDS), (4, HOPS), (6, HOPS)],
    ids=["over-ipv4", "over-ipv6", "over-ipv4-ends", "over-ipv4-hops", "over-ipv6-hops"],
    indirect=True,
)


@contextmanager
def tunnelled(underlay: int, *software: tuple[str, str]) -> Iterator[Network]:
    """Tunnels; `underlay`: family of the outer packets, `software`: who fills in checksums."""
    one = Network()
    try:
        one.tunnel()
        one.start(tunnel=True, underlay=underlay)
        one.checksums_by_software(*software)
        yield one
    finally:
        one.close()


@pytest.fixture(scope="module")
def shared(compiled: None, request: pytest.FixtureRequest) -> Iterator[Network]:
    underlay, software = getattr(request, "param", (4, ()))
    with tunnelled(underlay, *software) as one:
        yield one


@pytest.fixture
def network(shared: Network) -> Network:
    shared.forget()
    return shared


@pytest.fixture
def fresh(compiled: None) -> Iterator[Network]:
    """One that nobody has learned the ways of."""
    with tunnelled(4) as one:
        yield one


def seen(network: Network, letter: str, point: int) -> set[int]:
    """Identities of the sources of what a node reported at an observation point."""
    events: list[Any] = network.nodes[letter].drain()
    return {int(e["source_identity"]) for e in events if (e["event_type"], e["sub_type"]) == (4, point)}


@families
@kinds
@underlays
def test_a_pods_identity_travels(network: Network, family: int, datagrams: bool) -> None:
    with EchoServer(network, "pb", family, TARGET, datagrams=datagrams) as echo:
        _, answer = exchange(network, "pa", family, REMOTE_POD[family], TARGET, datagrams=datagrams)
    assert answer == (MEGABYTE[:1200] if datagrams else MEGABYTE)
    assert echo.peers[0][0] == POD[family]
    if not datagrams:
        assert seen(network, "a", TO_OVERLAY) == {POD_IDS["a"][1]}
        assert seen(network, "b", FROM_OVERLAY) == {POD_IDS["a"][1]}


@families
@kinds
@underlays
def test_a_client_of_the_world_travels_as_the_world(network: Network, family: int, datagrams: bool) -> None:
    protocol = packets.UDP if datagrams else packets.TCP
    network.nodes["a"].service(NODE[family], NODE_PORT, protocol, Backend(REMOTE_POD[family], TARGET))
    with EchoServer(network, "pb", family, TARGET, datagrams=datagrams) as echo:
        peer, answer = exchange(network, "client", family, NODE[family], NODE_PORT, datagrams=datagrams)
    assert peer == (NODE[family], NODE_PORT)
    assert answer == (MEGABYTE[:1200] if datagrams else MEGABYTE)
    assert echo.peers[0][0] == NODE[family]
    if not datagrams:
        assert seen(network, "b", FROM_OVERLAY) == {9 if family == 4 else 10}


@families
def test_the_nodes_own_packets_travel_as_those_of_a_remote_node(network: Network, family: int) -> None:
    with EchoServer(network, "pb", family, TARGET, datagrams=False):
        _, answer = exchange(network, "a", family, REMOTE_POD[family], TARGET)
    assert answer == MEGABYTE
    assert seen(network, "b", FROM_OVERLAY) == {6}


@families
def test_a_client_learns_how_narrow_the_tunnel_is(fresh: Network, family: int) -> None:
    fresh.nodes["a"].service(NODE[family], NODE_PORT, packets.UDP, Backend(REMOTE_POD[family], TARGET))
    data = MEGABYTE[:1440]
    one = fresh.inside("client", lambda: socket.socket(FAMILY[family], socket.SOCK_DGRAM))
    with EchoServer(fresh, "pb", family, TARGET, datagrams=True), one:
        one.settimeout(5)
        never_cut(one, family)
        one.connect((NODE[family], NODE_PORT))
        one.send(data)
        eventually_sync(lambda: path_mtu(one, family) == TUNNEL_MTU)
        one.send(data[:1300])
        assert one.recv(65_535) == data[:1300]


def never_cut(one: socket.socket, family: int) -> None:
    """IP_MTU_DISCOVER, IPV6_MTU_DISCOVER: DO."""
    level, option = (socket.IPPROTO_IP, 10) if family == 4 else (socket.IPPROTO_IPV6, 23)
    one.setsockopt(level, option, 2)


def path_mtu(one: socket.socket, family: int) -> int:
    """IP_MTU, IPV6_MTU of a connected socket."""
    level, option = (socket.IPPROTO_IP, 14) if family == 4 else (socket.IPPROTO_IPV6, 24)
    with contextlib.suppress(OSError):
        one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return one.getsockopt(level, option)


def tunnel_packet(identity: int, inner: bytes) -> bytes:
    """A VXLAN payload of UDP (RFC 7348)."""
    mac = bytes.fromhex(TUNNEL_MAC.replace(":", ""))
    return struct.pack(">II", 0x0800_0000, identity << 8) + mac + inner[6:]


def send_tunnel(network: Network, machine: str, family: int, payload: bytes) -> None:
    def send() -> None:
        with socket.socket(FAMILY[family], socket.SOCK_DGRAM) as one:
            one.sendto(payload, (NODES["b"][family], TUNNEL_PORT))

    network.inside(machine, send)


def drop_reasons(network: Network, family: int) -> set[int]:
    """Of packets that pretend to come from the pod on node A."""
    source = address_bytes(POD[family])
    events = network.nodes["b"].drain()
    return {
        int(e["drop_reason"]) for e in events if e["event_type"] == 1 and e["source_ip"].tobytes() == source
    }


def forged(family: int) -> bytes:
    return frames.sealed(POD[family], REMOTE_POD[family], packets.UDP, packets.udp(999, TARGET))


@families
@pytest.mark.parametrize(
    ("machine", "identity", "reason"),
    [("client", 5001, 170), ("a", 0, 183), ("a", 1, 183)],
    ids=["stranger", "no-identity", "host"],
)
def test_forged_tunnel_packets(
    network: Network, family: int, machine: str, identity: int, reason: int
) -> None:
    network.nodes["b"].drain()
    send_tunnel(network, machine, family, tunnel_packet(identity, forged(family)))
    eventually_sync(lambda: drop_reasons(network, family) == {reason})


@families
def test_a_malformed_packet_in_a_tunnel(network: Network, family: int) -> None:
    network.nodes["b"].drain()
    inner = packets.packet(POD[family], REMOTE_POD[family], packets.TCP, bytes(9))
    send_tunnel(network, "a", family, tunnel_packet(5001, inner))
    eventually_sync(lambda: drop_reasons(network, family) == {135})


def test_address_resolution_in_a_tunnel(network: Network) -> None:
    network.nodes["b"].drain()
    send_tunnel(network, "a", 4, tunnel_packet(5001, packets.ethernet(bytes(28), ethertype=0x0806)))
    eventually_sync(
        lambda: {int(e["drop_reason"]) for e in network.nodes["b"].drain() if e["event_type"] == 1} == {139}
    )


@families
def test_datagrams_that_need_fragments(fresh: Network, family: int) -> None:
    """A datagram in fragments from the client: translated, tunnelled and put together by the pod."""
    fresh.nodes["a"].service(NODE[family], NODE_PORT, packets.UDP, Backend(REMOTE_POD[family], TARGET))
    gateway = ("default", "via", ROUTER[family], "mtu", "1400")
    fresh.ip("client", f"-{family}", "route", "replace", *gateway)
    data = MEGABYTE[:9000]
    with EchoServer(fresh, "pb", family, TARGET, datagrams=True):
        sock = fresh.inside("client", lambda: socket.socket(FAMILY[family], socket.SOCK_DGRAM))
        with sock:
            sock.settimeout(10)
            sock.connect((NODE[family], NODE_PORT))
            sock.send(data)
            assert sock.recv(65_535) == data
