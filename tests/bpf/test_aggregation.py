"""How many packets are reported: levels of the node and of an endpoint, and counters of an endpoint."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator

import pytest

from axoneme.lib.bpf.maps import split_cpus
from axoneme.lib.policy.model import Direction
from shim.flows import record
from shim.maps import layout
from tests.bpf import packets as p
from tests.bpf.harness import PEER, PEER_IDENTITY, POD, POD_ID, POD_IDENTITY, Datapath, allow

pytestmark = pytest.mark.root

family = pytest.mark.parametrize("v", [4, 6], ids=["ipv4", "ipv6"])
IN, OUT = Direction.INGRESS, Direction.EGRESS
NONE, LOW, MEDIUM, MAXIMUM = 1, 2, 3, 4
TRACE, VERDICT = record.TRACE, record.POLICY_VERDICT
SECOND = 10**9
MARK_IDENTITY = 0xA100_0000
CT_CARRIED = 128


def level(number: int) -> int:
    """Flags of an endpoint with this level."""
    return number << 1


def out(v: int, flags: int) -> bytes:
    return p.packet(POD[v], PEER[v], p.TCP, p.tcp(1000, 80, flags))


def back(v: int, flags: int) -> bytes:
    return p.packet(PEER[v], POD[v], p.TCP, p.tcp(80, 1000, flags))


def peers(datapath: Datapath) -> None:
    for v in (4, 6):
        datapath.identity(f"{PEER[v]}/{32 if v == 4 else 128}", PEER_IDENTITY)


def age(datapath: Datapath, seconds: float) -> None:
    """Makes all connections look as if their last packet had come so long ago."""
    seen = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - int(seconds * SECOND)
    for key, value in datapath.maps["axoneme_ct"].items():
        datapath.maps["axoneme_ct"].update(key, struct.pack("=Q", seen) + value[8:])


@pytest.fixture
def known(datapath: Datapath) -> Datapath:
    peers(datapath)
    datapath.policy(allow(OUT, PEER_IDENTITY))
    return datapath


@family
@pytest.mark.parametrize(
    ("number", "opening", "more_out", "more_in", "late"),
    [
        (NONE, [TRACE, VERDICT, TRACE], [TRACE, TRACE], [TRACE], [TRACE, TRACE]),
        (LOW, [VERDICT, TRACE], [], [TRACE], []),
        (MEDIUM, [VERDICT, TRACE], [], [], [TRACE]),
        (MAXIMUM, [VERDICT, TRACE], [], [], []),
    ],
)
def test_levels_of_an_endpoint(
    known: Datapath,
    v: int,
    number: int,
    opening: list[int],
    more_out: list[int],
    more_in: list[int],
    late: list[int],
) -> None:
    known.endpoint(flags=level(number))
    assert known.send(out(v, p.SYN)).types() == opening
    assert known.receive(back(v, p.SYN | p.ACK)).types() == [TRACE]
    for _ in range(3):
        assert known.send(out(v, p.ACK)).types() == more_out
        assert known.receive(back(v, p.ACK)).types() == more_in
    age(known, 6)
    assert known.send(out(v, p.ACK)).types() == late
    assert known.send(out(v, p.ACK)).types() == more_out
    assert known.send(out(v, p.FIN | p.ACK)).types()[-1:] == [TRACE]
    assert known.receive(back(v, p.RST)).types() == [TRACE]


@family
def test_level_none_shows_the_packet_as_it_came(known: Datapath, v: int) -> None:
    known.endpoint(flags=level(NONE))
    points = [int(e["sub_type"]) for e in known.send(out(v, p.SYN)).events if e["event_type"] == TRACE]
    assert points == [record.FROM_ENDPOINT, record.TO_STACK]


@pytest.fixture(scope="module")
def quiet(compiled: None) -> Iterator[Datapath]:
    one = Datapath(aggregation_level=MAXIMUM)
    yield one
    one.close()


@family
def test_level_of_the_node(quiet: Datapath, v: int) -> None:
    """Medium unless told otherwise; an endpoint's own level comes first."""
    quiet.reset()
    peers(quiet)
    quiet.policy(allow(OUT, PEER_IDENTITY))
    quiet.send(out(v, p.SYN))
    for flags, types in ((0, []), (level(MEDIUM), [TRACE])):
        quiet.endpoint(flags=flags)
        age(quiet, 6)
        assert quiet.send(out(v, p.ACK)).types() == types


def counted(datapath: Datapath, direction: Direction, *, dropped: bool) -> tuple[int, int]:
    value = datapath.maps["axoneme_epstats"].lookup(
        layout.endpoint_stats_key(POD_ID, direction, dropped=dropped)
    )
    assert value is not None
    slots = [layout.MetricEntry.unpack(one) for one in split_cpus(value, layout.MetricEntry.FORMAT.size)]
    return sum(one.packets for one in slots), sum(one.octets for one in slots)


@family
def test_counters_of_an_endpoint(known: Datapath, v: int) -> None:
    before = [counted(known, OUT, dropped=dropped) for dropped in (False, True)]
    passed, dropped = (
        out(v, p.SYN),
        p.packet(POD[v], "192.0.2.9" if v == 4 else "2001:db8::9", p.UDP, p.udp(1, 2)),
    )
    for _ in range(3):
        known.send(passed)
        known.send(dropped)
    after = [counted(known, OUT, dropped=dropped) for dropped in (False, True)]
    grown = [(b[0] - a[0], b[1] - a[1]) for a, b in zip(before, after, strict=True)]
    assert grown == [(3, 3 * len(passed)), (3, 3 * len(dropped))]
    key = layout.EndpointDropKey(POD_ID, int(OUT), 171).pack()
    value = known.maps["axoneme_epdrops"].lookup(key)
    assert value is not None
    slots = [layout.MetricEntry.unpack(one) for one in split_cpus(value, layout.MetricEntry.FORMAT.size)]
    assert sum(one.packets for one in slots) == 3
    assert sum(one.octets for one in slots) == 3 * len(dropped)


@family
def test_a_carried_identity_beats_the_address(datapath: Datapath, v: int) -> None:
    """What came through the tunnel has its identity with it; packets without one keep it."""
    peers(datapath)
    datapath.policy(allow(IN, 777))
    frame = p.packet(PEER[v], POD[v], p.TCP, p.tcp(9, 80))
    assert datapath.receive(frame).drop_reason == 133
    came = datapath.receive(frame, mark=MARK_IDENTITY | 777)
    assert came.passed
    assert came.mark == 0
    assert came.event(VERDICT)["source_identity"] == 777
    [entry] = datapath.connections().values()
    assert (entry.peer_identity, entry.flags & CT_CARRIED) == (777, CT_CARRIED)
    datapath.change_policy(allow(IN, 777))
    assert datapath.receive(p.packet(PEER[v], POD[v], p.TCP, p.tcp(9, 80, p.ACK))).passed
    datapath.change_policy(allow(IN, 778))
    ack = p.packet(PEER[v], POD[v], p.TCP, p.tcp(9, 80, p.ACK))
    assert datapath.receive(ack).drop_reason == 133
    assert datapath.receive(frame, mark=MARK_IDENTITY | 778).passed


@family
def test_a_carried_identity_changes_with_the_packet(datapath: Datapath, v: int) -> None:
    peers(datapath)
    datapath.policy(allow(IN, 777))
    assert datapath.receive(p.packet(PEER[v], POD[v], p.UDP, p.udp(9, 80)), mark=MARK_IDENTITY | 777).passed
    datapath.change_policy(allow(IN, 778))
    again = p.packet(PEER[v], POD[v], p.UDP, p.udp(9, 80))
    assert datapath.receive(again, mark=MARK_IDENTITY | 778).passed
    [entry] = datapath.connections().values()
    assert entry.peer_identity == 778


@family
def test_a_reply_needs_no_identity(datapath: Datapath, v: int) -> None:
    peers(datapath)
    datapath.policy(allow(OUT, PEER_IDENTITY))
    datapath.send(out(v, p.SYN))
    came = datapath.receive(back(v, p.SYN | p.ACK), mark=MARK_IDENTITY | 999)
    assert came.passed
    trace = came.event(TRACE)
    assert (trace["source_identity"], trace["destination_identity"]) == (PEER_IDENTITY, POD_IDENTITY)
