"""The short way through the program decides, reports and remembers what the long way does.

Two loaded copies see the same packets and the same changes: one takes the short way where it can, the other
(`short_way` = 0) never. What lies outside the linear part of a packet is tested on a veth: there a sender can
say where the linear part ends.
"""

from __future__ import annotations

import os
import random
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from axoneme.lib.bpf.links import Hook, TcxLink
from axoneme.lib.policy.model import Direction, MapEntry, MapKey, PortBlock, one_port
from shim.flows import record
from shim.maps import layout
from tests.bpf import packets as p
from tests.bpf.harness import PEER, PEER_IDENTITY, POD, Datapath, allow, deny
from tests.bpf.servicescene import FRONTEND, Services
from tests.conftest import scaled
from tests.waiting import eventually_sync

pytestmark = pytest.mark.root

IN, OUT = Direction.INGRESS, Direction.EGRESS
BACKEND = {4: "10.1.9.8", 6: "fd00:10:1:9::8"}
STRANGER = {4: "192.0.2.77", 6: "2001:db8::77"}
PORTS = (80, 81, 1000, 1001)
TCP_FLAGS = (p.SYN, p.SYN | p.ACK, p.ACK, p.ACK, p.ACK, p.ACK | p.FIN, p.RST, p.ACK | p.RST, 0, 0x18)
STEPS = 40
IP = 14


@pytest.fixture(scope="module")
def long_way(compiled: None) -> Iterator[Datapath]:
    one = Datapath(short_way=0)
    yield one
    one.close()


@pytest.fixture
def both(datapath: Datapath, long_way: Datapath) -> list[Datapath]:
    long_way.reset()
    pair = [datapath, long_way]
    for one in pair:
        one.generation = 1
        one.endpoint()
        for v in (4, 6):
            one.identity(f"{PEER[v]}/{32 if v == 4 else 128}", PEER_IDENTITY)
            one.identity(f"{BACKEND[v]}/{32 if v == 4 else 128}", PEER_IDENTITY)
            for protocol in (p.TCP, p.UDP):
                Services(one).add(FRONTEND[v], protocol, [(BACKEND[v], 80)])
    return pair


def random_rules(rng: random.Random) -> dict[MapKey, MapEntry]:
    rules: dict[MapKey, MapEntry] = {}
    for direction in (IN, OUT):
        for block in (PortBlock(0, 0, 0), one_port(p.TCP, 80), one_port(p.UDP, 80), PortBlock(p.TCP, 0, 0)):
            if rng.random() < 0.6:
                make = deny if rng.random() < 0.25 else allow
                rules |= make(direction, rng.choice((0, PEER_IDENTITY)), block)
    return rules


def random_body(rng: random.Random, v: int, ends: tuple[str, str]) -> tuple[int, bytes]:
    source, destination, payload = rng.choice(PORTS), rng.choice(PORTS), bytes(rng.choice((0, 4, 30)))
    kind = rng.random()
    if kind < 0.55:
        return p.TCP, p.tcp(source, destination, rng.choice(TCP_FLAGS), payload)
    if kind < 0.8:
        return p.UDP, p.udp(source, destination, payload)
    if kind < 0.85:
        return p.SCTP, p.sctp(source, destination)
    icmp = p.ICMP if v == 4 else p.ICMP6
    if kind < 0.92:
        return icmp, p.icmp(rng.choice((p.ECHO[v], p.ECHO_REPLY[v])), source, payload)
    quoted = p.ip(ends[1], ends[0], p.UDP, p.udp(source, destination))
    return icmp, p.icmp(p.UNREACHABLE[v], payload=quoted)


def random_extras(rng: random.Random, v: int, length: int) -> dict[str, Any]:
    """Options, extension headers and fragments, each now and then."""
    extras: dict[str, Any] = {}
    if rng.random() < 0.15:
        extension = p.extension(rng.choice((0, 43, 60)))
        extras["options"] = bytes([1]) * 4 * rng.randint(1, 10) if v == 4 else extension
    if rng.random() < 0.15:
        extras |= {"more": rng.random() < 0.7, "fragment": rng.choice((0, 0, 8, 16))}
        extras["fragment_id"] = rng.choice((1, 2))
    if length % 8:
        extras.pop("more", None)
    return extras


def damage(rng: random.Random, frame: bytes) -> bytes:
    """Mostly none; else wrong bytes in headers, wrong lengths, or an end too early or too late."""
    broken, kind = bytearray(frame), rng.random()
    if kind < 0.1:
        for _ in range(rng.randint(1, 3)):
            broken[rng.randrange(IP, len(broken))] = rng.randrange(256)
    elif kind < 0.16:
        place = rng.choice(
            (IP, IP + 2, IP + 4, IP + 6, IP + 12, IP + 20 + 4, IP + 20 + 12, IP + 40 + 4, IP + 40 + 12)
        )
        if place + 2 <= len(broken):
            (word,) = struct.unpack_from(">H", broken, place)
            struct.pack_into(">H", broken, place, (word + rng.choice((-8, -1, 1, 8, 16))) & 0xFFFF)
    elif kind < 0.22:
        broken = broken[: rng.randint(IP + 20, len(broken))]
    elif kind < 0.27:
        broken += bytes(rng.randint(1, 20))
    return bytes(broken)


def random_packet(rng: random.Random) -> tuple[Direction, bytes]:
    v, direction = rng.choice((4, 6)), rng.choice((IN, OUT))
    far = rng.choices((PEER[v], STRANGER[v], FRONTEND[v], BACKEND[v]), weights=(80, 3, 9, 8))[0]
    if far == BACKEND[v] and direction is OUT:
        far = PEER[v]  # a direct connection on the ports of one to the service would move that, at random
    if rng.random() < 0.02 and v == 6:
        far = "::ffff:10.1.9.9"
    ends = (POD[v], far) if direction is OUT else (far, POD[v])
    if rng.random() < 0.03:
        ends = ends[::-1]
    protocol, body = random_body(rng, v, ends)
    inner = p.ip(*ends, protocol, body, **random_extras(rng, v, len(body)))
    frame = p.ethernet(inner, ethertype=0x0800 if v == 4 else 0x86DD)
    return direction, damage(rng, frame)


def change(rng: random.Random, both: list[Datapath]) -> None:
    """What a shim does between packets, to both copies."""
    kind = rng.random()
    if kind < 0.1:
        rules = random_rules(rng)
        for one in both:
            one.change_policy(rules)
    elif kind < 0.14:
        flags = rng.choice((0, layout.ENDPOINT_AUDIT))
        for one in both:
            one.endpoint(flags=flags)
    elif kind < 0.15:
        for one in both:
            one.lock()


def seen(outcome_passed: bool, events: list[Any]) -> tuple[bool, list[tuple[Any, ...]]]:
    """A verdict with its events, without their time."""
    names = [name for name in events[0].dtype.names if name != "time_ns"] if events else []
    return outcome_passed, [tuple(bytes(event[name].tobytes()) for name in names) for event in events]


def remembered(datapath: Datapath) -> dict[str, Any]:
    """Conntrack, translations and fragments, without times."""
    entries = {key.pack(): value.pack()[8:] for key, value in datapath.connections().items()}
    fragments = {key: value[8:] for key, value in datapath.maps["axoneme_frag"].items()}
    translations = {key: value[:-8] for key, value in datapath.maps["axoneme_nat"].items()}
    return {"connections": entries, "fragments": fragments, "translations": translations}


def counters(datapath: Datapath) -> list[tuple[int, int]]:
    return [datapath.metric(struct.pack("=I", slot)) for slot in range(512)]


def play(both: list[Datapath], rng: random.Random, run: Callable[[Datapath, Direction, bytes], Any]) -> int:
    """One random story. Returns how many packets passed."""
    passed = 0
    rules = random_rules(rng)
    for one in both:
        one.change_policy(rules)
    for _ in range(STEPS):
        change(rng, both)
        direction, frame = random_packet(rng)
        short, long = (run(one, direction, frame) for one in both)
        assert short == long, f"{direction.name} {frame.hex()}"
        passed += short[0]
    assert remembered(both[0]) == remembered(both[1])
    return passed


def whole(one: Datapath, direction: Direction, frame: bytes) -> tuple[Any, ...]:
    outcome = one.receive(frame) if direction is IN else one.send(frame)
    return *seen(outcome.passed, outcome.events), outcome.frame


@pytest.mark.parametrize("seed", range(scaled(40, 1_000)))
def test_random_stories(both: list[Datapath], seed: int) -> None:
    rng = random.Random(seed)
    before = [counters(one) for one in both]
    play(both, rng, whole)
    after = [counters(one) for one in both]
    grown = [
        [(b[0] - a[0], b[1] - a[1]) for a, b in zip(old, new, strict=True)]
        for old, new in zip(before, after, strict=True)
    ]
    assert grown[0] == grown[1]


def test_the_stories_pass_and_drop(both: list[Datapath]) -> None:
    """The comparison means something: about half of the packets pass."""
    rng = random.Random(5)
    passed = sum(play(both, rng, whole) for _ in range(10))
    assert 0.2 * 10 * STEPS < passed < 0.8 * 10 * STEPS


@pytest.mark.parametrize("v", [4, 6], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("protocol", [p.TCP, p.UDP], ids=["tcp", "udp"])
def test_every_header_byte(both: list[Datapath], v: int, protocol: int) -> None:
    """Each byte of the headers wrong in several ways, in a new connection and within one."""
    for one in both:
        one.change_policy(
            allow(OUT, PEER_IDENTITY, one_port(protocol, 80)) | allow(OUT, 0, one_port(p.TCP, 81))
        )
    body = p.tcp(5, 80, p.ACK, b"data") if protocol == p.TCP else p.udp(5, 80)
    frame = p.packet(POD[v], PEER[v], protocol, body)
    for place in range(IP, len(frame) - 4):
        for value in {0, 1, 7, 8, 0x7F, 0xFF, frame[place] ^ 1, frame[place] ^ 0x10, frame[place] + 1 & 0xFF}:
            broken = frame[:place] + bytes([value]) + frame[place + 1 :]
            short, long = (whole(one, OUT, broken) for one in both)
            assert short == long, (place - IP, value)
    assert remembered(both[0]) == remembered(both[1])


def test_generation_of_a_cut_connection(both: list[Datapath]) -> None:
    """Audit switched off, policy changed back, a cut connection: the short way takes none of them."""
    for one in both:
        one.change_policy({}, flags=layout.ENDPOINT_AUDIT)
    opening, more = (p.packet(POD[4], PEER[4], p.TCP, p.tcp(5, 80, f)) for f in (p.SYN, p.ACK))
    for one in both:
        assert one.send(opening).passed
        assert one.send(more).types() == []
        one.endpoint()
        assert not one.send(more).passed
        assert not one.send(more).passed
    assert remembered(both[0]) == remembered(both[1])


LINK = f"axt{os.getpid() % 100_000}s"
VNET_HEADER = struct.Struct("=BBHHHH")  # struct virtio_net_hdr
SOL_PACKET, PACKET_VNET_HDR = 263, 15
LARGE = bytes(5_000)  # smaller packets of a packet socket are always linear
LINEAR_ENDS = (14, 20, 34, 38, 42, 46, 50, 54, 58, 62, 70, 74, 90)


def shell(*words: str) -> None:
    subprocess.run(words, check=True)


@pytest.fixture
def wire(datapath: Datapath) -> Iterator[socket.socket]:
    """A packet socket on the endpoint's side of a veth with the program on its other end."""
    shell("ip", "link", "add", LINK, "mtu", "9000", "type", "veth", "peer", "name", f"{LINK}p", "mtu", "9000")
    try:
        for name in (LINK, f"{LINK}p"):
            shell("ip", "link", "set", name, "addrgenmode", "none", "up")
        index = socket.if_nametoindex(LINK)
        entry = datapath.maps["axoneme_ep"].lookup(layout.endpoint_key(1))
        assert entry is not None
        datapath.maps["axoneme_ep"].update(layout.endpoint_key(index), entry)
        link = TcxLink.create(datapath.programs["axoneme_from_ep"], ifindex=index, hook=Hook.TCX_INGRESS)
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
            sender.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
            sender.bind((f"{LINK}p", 0))
            yield sender
        link.close()
    finally:
        shell("ip", "link", "del", LINK)


def sent(wire: socket.socket, datapath: Datapath, frame: bytes, linear: int) -> Any:
    """The events of a packet of which `linear` bytes (0: all) are in the linear part."""
    datapath.forget_connections()
    datapath.drain()
    wire.send(VNET_HEADER.pack(0, 0, linear, 0, 0, 0) + frame)
    found: list[Any] = []

    def judged() -> bool:
        found.extend(datapath.drain())
        return bool(found) and int(found[-1]["event_type"]) in (record.DROP, record.TRACE)

    eventually_sync(judged, message="the packet was judged")
    return seen(True, found)[1]


def large_frames(rng: random.Random) -> Iterator[bytes]:
    for v in (4, 6):
        options = bytes([1]) * 8 if v == 4 else p.extension(60)
        for protocol, body in ((p.TCP, p.tcp(1, 80, p.SYN, LARGE)), (p.UDP, p.udp(1, 80, LARGE))):
            yield p.packet(POD[v], PEER[v], protocol, body)
            yield p.packet(POD[v], PEER[v], protocol, body, options=options)
            yield p.packet(POD[v], PEER[v], protocol, body, more=True)
            yield p.packet(POD[v], PEER[v], protocol, body, fragment=64)
            for _ in range(4):
                broken = bytearray(p.packet(POD[v], PEER[v], protocol, body))
                broken[rng.randrange(IP, IP + (34 if v == 4 else 54))] = rng.randrange(256)
                yield bytes(broken)


def test_the_linear_part_makes_no_difference(datapath: Datapath, wire: socket.socket) -> None:
    for v in (4, 6):
        datapath.identity(f"{PEER[v]}/{32 if v == 4 else 128}", PEER_IDENTITY)
    datapath.policy(allow(OUT, PEER_IDENTITY, one_port(p.TCP, 80)) | allow(OUT, 0, one_port(p.UDP, 80)))
    for frame in large_frames(random.Random(3)):
        whole_packet = sent(wire, datapath, frame, 0)
        for linear in LINEAR_ENDS:
            assert sent(wire, datapath, frame, linear) == whole_packet, (linear, frame[:80].hex())
