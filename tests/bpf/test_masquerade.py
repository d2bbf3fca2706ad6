"""Pods' connections to the world leave with the node's address; everything else leaves as it came."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from shim.maps import layout
from shim.maps import node as nodemaps
from shim.maps.base import address_bytes
from tests.bpf import frames, packets
from tests.bpf.nodeharness import Node, Ran
from tests.bpf.nodescene import (
    CLIENT,
    FIRST_PORT,
    LAST_PORT,
    NODE,
    OTHER_NODE,
    POD,
    POD_ID,
    REMOTE_POD,
    ROUTER,
    age,
    connect,
    families,
    ports,
    set_scene,
)

pytestmark = pytest.mark.root
PORT, POD_PORT = 443, 5555
ECHO_ID = 1234
SITE = CLIENT
"""Somewhere in the world."""
transports = pytest.mark.parametrize("protocol", [packets.TCP, packets.UDP], ids=["tcp", "udp"])


@pytest.fixture(scope="module")
def loaded(compiled: None) -> Iterator[Node]:
    one = Node("masquerade", ("netdev.o",))
    yield one
    one.close()


@pytest.fixture
def node(loaded: Node, family: int) -> Node:
    set_scene(loaded, family)
    return loaded


def frame(
    source: str, destination: str, protocol: int, source_port: int, port: int, **extra: object
) -> bytes:
    return frames.sealed(source, destination, protocol, ports(source_port, port)[protocol], **extra)


def echo(family: int, source: str, destination: str, identifier: int, *, reply: bool = False) -> bytes:
    kind = (packets.ECHO_REPLY if reply else packets.ECHO)[family]
    protocol = packets.ICMP if family == 4 else packets.ICMP6
    return frames.sealed(source, destination, protocol, packets.icmp(kind, identifier))


def leave(
    node: Node, family: int, protocol: int = packets.TCP, port: int = POD_PORT
) -> tuple[Ran, frames.Frame]:
    ran = node.run("to_netdev", frame(POD[family], SITE[family], protocol, port, PORT))
    return ran, frames.read(ran.data)


@families
@transports
def test_a_connection_to_the_world_and_its_answer(node: Node, family: int, protocol: int) -> None:
    ran, became = leave(node, family, protocol)
    assert ran.passed
    assert became.checksums_right
    assert (became.source, became.destination, became.destination_port) == (NODE[family], SITE[family], PORT)
    assert FIRST_PORT <= became.source_port <= LAST_PORT
    assert leave(node, family, protocol)[1].source_port == became.source_port
    back = node.run("from_netdev", frame(SITE[family], NODE[family], protocol, PORT, became.source_port))
    assert back.passed, "the stack routes it to the pod"
    answered = frames.read(back.data)
    assert answered.ends == (SITE[family], PORT, POD[family], POD_PORT)
    assert answered.checksums_right
    assert back.mark == 0


@families
def test_ping(node: Node, family: int) -> None:
    ran = node.run("to_netdev", echo(family, POD[family], SITE[family], ECHO_ID))
    became = frames.read(ran.data)
    assert became.source == NODE[family]
    assert FIRST_PORT <= became.source_port <= LAST_PORT
    assert became.checksums_right
    back = node.run("from_netdev", echo(family, SITE[family], NODE[family], became.source_port, reply=True))
    answered = frames.read(back.data)
    assert answered.checksums_right
    assert (answered.source, answered.destination, answered.source_port) == (
        SITE[family],
        POD[family],
        ECHO_ID,
    )


@families
def test_two_pods_may_use_one_id(node: Node, family: int) -> None:
    node.local(REMOTE_POD[family], endpoint_id=78)
    seen = {
        frames.read(node.run("to_netdev", echo(family, pod, SITE[family], FIRST_PORT)).data).source_port
        for pod in (POD[family], REMOTE_POD[family])
    }
    assert len(seen) == 2


@families
def test_a_port_of_the_range_is_kept(node: Node, family: int) -> None:
    assert leave(node, family, port=FIRST_PORT + 9)[1].source_port == FIRST_PORT + 9


@families
def test_sctp_keeps_its_port(node: Node, family: int) -> None:
    ran, became = leave(node, family, packets.SCTP)
    assert ran.passed
    assert became.ends == (NODE[family], POD_PORT, SITE[family], PORT)
    node.local(REMOTE_POD[family], endpoint_id=78)
    other = frame(REMOTE_POD[family], SITE[family], packets.SCTP, POD_PORT, PORT)
    assert node.run("to_netdev", other).drop_reason == 168


@families
def test_never_masqueraded(node: Node, family: int) -> None:
    node.identity("192.168.7.0/24" if family == 4 else "fd77::/64", 0x0100_0007)
    excluded = "192.168.7.7" if family == 4 else "fd77::7"
    masqueraded = frame(POD[family], excluded, packets.TCP, POD_PORT, PORT)
    assert frames.read(node.run("to_netdev", masqueraded).data).source == NODE[family]
    node.clear("axoneme_nat")
    node.not_masqueraded("192.168.7.0/24" if family == 4 else "fd77::/64")
    for one in (
        masqueraded,
        frame(POD[family], REMOTE_POD[family], packets.TCP, POD_PORT, PORT),
        frame(POD[family], OTHER_NODE[family], packets.TCP, POD_PORT, PORT),
        frame(NODE[family], SITE[family], packets.TCP, POD_PORT, PORT),
        frame(ROUTER[family], SITE[family], packets.TCP, POD_PORT, PORT),
        packets.packet(POD[family], SITE[family], packets.TCP, bytes(9)),
    ):
        ran = node.run("to_netdev", one)
        assert (ran.passed, ran.data) == (True, one)
    assert node.translations() == {}


@families
def test_switched_off(node: Node, family: int) -> None:
    other = nodemaps.NODE_MASQUERADE6 if family == 4 else nodemaps.NODE_MASQUERADE4
    node.configure(flags=other)
    assert leave(node, family)[1].source == POD[family]


def inbound(family: int, protocol: int, source_port: int, port: int) -> layout.CtKey:
    return layout.CtKey(
        address_bytes(SITE[family]),
        address_bytes(POD[family]),
        source_port.to_bytes(2, "big"),
        port.to_bytes(2, "big"),
        protocol,
        1,
        POD_ID,
    )


@families
@transports
def test_an_answer_to_an_inbound_connection_keeps_its_address(node: Node, family: int, protocol: int) -> None:
    connect(node, inbound(family, protocol, PORT, POD_PORT), last_seen_ns=time.monotonic_ns())
    assert leave(node, family, protocol)[1].source == POD[family]
    node.clear("axoneme_ct")
    assert leave(node, family, protocol)[1].source == NODE[family]


@families
def test_an_answer_to_a_ping_keeps_its_address(node: Node, family: int) -> None:
    protocol = packets.ICMP if family == 4 else packets.ICMP6
    key = inbound(family, protocol, ECHO_ID, packets.ECHO[family])
    connect(node, key, last_seen_ns=time.monotonic_ns())
    ran = node.run("to_netdev", echo(family, POD[family], SITE[family], ECHO_ID, reply=True))
    assert frames.read(ran.data).source == POD[family]


@families
def test_an_error_about_an_inbound_connection_keeps_its_address(node: Node, family: int) -> None:
    connect(node, inbound(family, packets.UDP, PORT, POD_PORT), last_seen_ns=time.monotonic_ns())
    asked = frame(SITE[family], POD[family], packets.UDP, PORT, POD_PORT)
    error = frames.error_about(POD[family], asked)
    ran = node.run("to_netdev", error)
    assert (ran.passed, ran.data) == (True, error)


@families
def test_an_error_about_nothing_does_not_leave(node: Node, family: int) -> None:
    asked = frame(SITE[family], POD[family], packets.UDP, PORT, POD_PORT)
    assert node.run("to_netdev", frames.error_about(POD[family], asked)).drop_reason == 167


@families
def test_an_error_of_a_pod_about_an_answer_is_the_nodes(node: Node, family: int) -> None:
    _, became = leave(node, family, packets.UDP)
    answer = frame(SITE[family], NODE[family], packets.UDP, PORT, became.source_port)
    delivered = node.run("from_netdev", answer).data
    ran = node.run("to_netdev", frames.error_about(POD[family], delivered))
    told = frames.read(ran.data)
    assert told.checksums_right
    assert (told.source, told.destination) == (NODE[family], SITE[family])
    assert told.quote is not None
    assert told.quote.ends == (SITE[family], PORT, NODE[family], became.source_port)


@families
@pytest.mark.parametrize("protocol", [packets.TCP, packets.UDP, packets.ICMP], ids=["tcp", "udp", "icmp"])
def test_an_error_from_the_world_reaches_the_pod(node: Node, family: int, protocol: int) -> None:
    if protocol == packets.ICMP:
        left = node.run("to_netdev", echo(family, POD[family], SITE[family], ECHO_ID)).data
        ends = (POD[family], ECHO_ID, SITE[family], packets.ECHO[family])
    else:
        left = leave(node, family, protocol)[0].data
        ends = (POD[family], POD_PORT, SITE[family], PORT)
    kind, code = (3, 4) if family == 4 else (2, 0)
    error = node.run("from_netdev", frames.error_about(ROUTER[family], left, kind=kind, code=code))
    assert error.passed
    told = frames.read(error.data)
    assert told.checksums_right
    assert (told.source, told.destination) == (ROUTER[family], POD[family])
    assert told.quote is not None
    assert told.quote.ends == ends


@families
def test_later_fragments_follow(node: Node, family: int) -> None:
    udp = packets.udp(POD_PORT, PORT, bytes(2000))
    first = frames.sealed(POD[family], SITE[family], packets.UDP, udp[:1480], more=True)
    later = frames.sealed(POD[family], SITE[family], packets.UDP, udp[1480:], fragment=1480)
    assert frames.read(node.run("to_netdev", first).data).source == NODE[family]
    became = frames.read(node.run("to_netdev", later).data)
    assert became.source == NODE[family]
    assert became.checksums_right


@families
def test_ports_run_out_and_come_back(node: Node, family: int) -> None:
    node.configure(nat_port_min=FIRST_PORT, nat_port_max=FIRST_PORT)
    assert leave(node, family, packets.UDP, 1)[0].passed
    assert leave(node, family, packets.UDP, 2)[0].drop_reason == 167
    other = frame(POD[family], ROUTER[family], packets.UDP, 2, PORT)
    assert node.run("to_netdev", other).passed, "towards somebody else the port is free"
    age(node, 61)
    assert leave(node, family, packets.UDP, 2)[0].passed


@families
def test_no_answer_takes_the_way_of_another_remote(node: Node, family: int) -> None:
    _, became = leave(node, family)
    stranger = frame(ROUTER[family], NODE[family], packets.TCP, PORT, became.source_port)
    ran = node.run("from_netdev", stranger)
    assert (ran.passed, ran.data) == (True, stranger)
