"""The XDP program: what it forwards, byte for byte, and what it leaves to the tc programs."""

from __future__ import annotations

import contextlib
import functools
import random
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace

import pytest

from axoneme.lib.bpf import BpfError, KernelMap
from axoneme.lib.bpf.features import is_bpffs
from axoneme.lib.bpf.links import TcxLink
from axoneme.lib.bpf.maps import split_cpus
from axoneme.lib.bpf.object import BpfObject
from axoneme.lib.bpf.program import BpfProgram
from axoneme.lib.bpf.xdplinks import XdpLink, XdpMode
from shim.bpf.manifest import object_path
from shim.maps import base, layout, lb, node
from tests.bpf import packets as p
from tests.bpf.attachment import attach
from tests.bpf.namespaces import TX_CHECKSUMS, ifindex_in, inside, mac_in, set_feature, set_sysctl
from tests.bpf.socketlab import BPFFS, Balancer, Worker, network, run, unique
from tests.bpf.xdprun import IP, XDP_PASS, XDP_REDIRECT, XDP_TX, XdpRun, sealed, seen, xdp_run
from tests.conftest import scaled

pytestmark = pytest.mark.root
family = pytest.mark.parametrize("v", [4, 6], ids=["ipv4", "ipv6"])
protocols = pytest.mark.parametrize("protocol", [p.TCP, p.UDP], ids=["tcp", "udp"])

CLIENT = {4: "203.0.113.9", 6: "2001:db8:9::9"}
GATEWAY = {4: "192.0.2.254", 6: "2001:db8::254"}
VIP = {4: "198.51.100.10", 6: "2001:db8:96::10"}
NODE = {4: "192.0.2.1", 6: "2001:db8::1"}
BACKEND = {4: "192.0.2.20", 6: "2001:db8::20"}
AWAY = {4: "192.168.7.7", 6: "fd07::7"}  # behind the second interface
POD = {4: "10.1.0.5", 6: "fd00:10:1::5"}
GATEWAY_MAC, BACKEND_MAC = bytes.fromhex("0200000000fe"), bytes.fromhex("020000000020")
PORT, NODE_PORT, BACKEND_PORT, CLIENT_PORT = 80, 20_000, 8080, 40_000
CT_NEW, CT_ESTABLISHED, CT_CLOSING = 1, 2, 3
PINS = BPFFS / unique("xdp")
SIZES = {"axoneme_ipexact": 1000, "axoneme_ipcache": 1000, "axoneme_ct": 1000}


@dataclass
class Lab:
    """A node's namespace with an uplink and another interface; the program and its maps."""

    netns: str
    uplink: int
    second: int
    mac: bytes
    maps: dict[str, KernelMap]
    program: BpfProgram

    def run(self, frame: bytes, *, ifindex: int = 0) -> XdpRun:
        return inside(self.netns, lambda: xdp_run(self.program, frame, ifindex=ifindex or self.uplink))

    def configure(self, *, flags: int = 0, uplink: int = 0) -> None:
        config = node.NodeConfig(flags=flags, uplink_ifindex=uplink or self.uplink, uplink_mac=self.mac)
        self.maps["axoneme_node"].update(base.number_key(0), config.pack())

    def remember(self, before: lb.NatKey, after: lb.NatEntry) -> None:
        self.maps["axoneme_nat"].update(before.pack(), after.pack())

    def connection(self, v: int, protocol: int, backend: str = "", **entry: int) -> None:
        """Both entries of a client's connection through this node, as the tc program leaves them."""
        backend = backend or BACKEND[v]
        ahead = translated((NODE[v], NODE_PORT), (backend, BACKEND_PORT), **entry)
        back = translated((VIP[v], PORT), (CLIENT[v], CLIENT_PORT), **entry)
        self.remember(tuple_of((CLIENT[v], CLIENT_PORT), (VIP[v], PORT), protocol), ahead)
        self.remember(
            tuple_of((backend, BACKEND_PORT), (NODE[v], NODE_PORT), protocol),
            replace(back, flags=back.flags | lb.NAT_RETURN),
        )

    def entries(self) -> dict[lb.NatKey, lb.NatEntry]:
        return {
            lb.NatKey.unpack(key): lb.NatEntry.unpack(value)
            for key, value in self.maps["axoneme_nat"].items()
        }

    def forwarded(self) -> int:
        value = self.maps["axoneme_metrics"].lookup(base.number_key(0))
        assert value is not None
        slots = split_cpus(value, layout.MetricEntry.FORMAT.size)
        return sum(layout.MetricEntry.unpack(one).packets for one in slots)


End = tuple[str, int]


def port_be(number: int) -> bytes:
    return number.to_bytes(2, "big")


def tuple_of(source: End, destination: End, protocol: int) -> lb.NatKey:
    return lb.NatKey(
        base.address_bytes(source[0]),
        base.address_bytes(destination[0]),
        port_be(source[1]),
        port_be(destination[1]),
        protocol,
        lb.NAT_FROM_NET,
    )


def translated(
    source: End,
    destination: End,
    *,
    flags: int = lb.NAT_SERVICE,
    state: int = CT_ESTABLISHED,
    age_seconds: int = 0,
) -> lb.NatEntry:
    return lb.NatEntry(
        base.address_bytes(source[0]),
        base.address_bytes(destination[0]),
        port_be(source[1]),
        port_be(destination[1]),
        backend_id=7,
        set_id=5,
        flags=flags,
        state=state,
        last_seen_ns=time.monotonic_ns() - age_seconds * 10**9,
    )


@pytest.fixture(scope="module")
def loaded(compiled: None) -> Iterator[tuple[dict[str, KernelMap], BpfProgram]]:
    if not is_bpffs(BPFFS):
        subprocess.run(["mount", "-t", "bpf", "bpf", str(BPFFS)], check=True)
    with BpfObject(object_path("xdp.o")) as one:
        one.load(pins=PINS, max_entries=SIZES)
        maps = {name: one.map(name) for name in one.map_specs()}
        try:
            yield maps, one.programs()["axoneme_xdp"]
        finally:
            shutil.rmtree(PINS, ignore_errors=True)
            for opened in maps.values():
                opened.close()


@pytest.fixture(scope="module")
def whole_lab(loaded: tuple[dict[str, KernelMap], BpfProgram]) -> Iterator[Lab]:
    maps, program = loaded
    with network(unique("x")) as netns:
        for name, inner in (("up0", "up0p"), ("up1", "up1p")):
            run("ip", "-n", netns, "link", "add", name, "type", "veth", "peer", "name", inner)
            for one in (name, inner):
                run("ip", "-n", netns, "link", "set", one, "up")
        for v, bits in ((4, "24"), (6, "64")):
            extra = ["nodad"] if v == 6 else []
            run("ip", "-n", netns, "address", "add", f"{NODE[v]}/{bits}", "dev", "up0", *extra)
            far = "203.0.113.0/24" if v == 4 else "2001:db8:9::/64"
            run("ip", "-n", netns, "route", "add", far, "via", GATEWAY[v], "dev", "up0")
            run("ip", "-n", netns, "route", "add", AWAY[v], "dev", "up1")
            neighbour(netns, GATEWAY[v], GATEWAY_MAC, "up0")
            neighbour(netns, BACKEND[v], BACKEND_MAC, "up0")
            neighbour(netns, AWAY[v], BACKEND_MAC, "up1")
        set_sysctl(netns, "net/ipv4/ip_forward", "1")
        set_sysctl(netns, "net/ipv6/conf/all/forwarding", "1")
        yield Lab(
            netns, ifindex_in(netns, "up0"), ifindex_in(netns, "up1"), mac_in(netns, "up0"), maps, program
        )


def neighbour(netns: str, address: str, mac: bytes, device: str) -> None:
    words = ("neighbour", "replace", address, "lladdr", mac.hex(":"), "dev", device, "nud", "permanent")
    run("ip", "-n", netns, *words)


@pytest.fixture
def lab(whole_lab: Lab) -> Lab:
    for name in ("axoneme_nat",):
        whole_lab.maps[name].delete_batch([key for key, _ in whole_lab.maps[name].items()])
    whole_lab.configure()
    return whole_lab


def body(protocol: int, source: int, destination: int, payload: bytes, flags: int) -> bytes:
    if protocol == p.TCP:
        return p.tcp(source, destination, flags, payload)
    return p.udp(source, destination, payload)


def frame(
    lab: Lab,
    source: End,
    destination: End,
    protocol: int,
    *,
    payload: bytes = b"some data",
    flags: int = p.ACK,
    hops: int = 64,
) -> bytes:
    made = p.packet(
        source[0],
        destination[0],
        protocol,
        body(protocol, source[1], destination[1], payload, flags),
        hop_limit=hops,
    )
    return sealed(lab.mac + made[6:])


def request(lab: Lab, v: int, protocol: int, **extra: object) -> bytes:
    return frame(lab, (CLIENT[v], CLIENT_PORT), (VIP[v], PORT), protocol, **extra)  # type: ignore[arg-type]


def answer(lab: Lab, v: int, protocol: int, **extra: object) -> bytes:
    return frame(lab, (BACKEND[v], BACKEND_PORT), (NODE[v], NODE_PORT), protocol, **extra)  # type: ignore[arg-type]


def passed_untouched(lab: Lab, one: bytes, **extra: int) -> bool:
    outcome = lab.run(one, **extra)
    return outcome.action == XDP_PASS and outcome.data == one


@family
@protocols
def test_a_request_goes_on_to_its_backend(lab: Lab, v: int, protocol: int) -> None:
    lab.connection(v, protocol)
    before = lab.forwarded()
    outcome = lab.run(request(lab, v, protocol))
    assert outcome.action == XDP_TX
    got = seen(outcome.data)
    assert (got.source, got.destination) == (NODE[v], BACKEND[v])
    assert got.ports == (NODE_PORT, BACKEND_PORT)
    assert (got.destination_mac, got.source_mac, got.hops) == (BACKEND_MAC, lab.mac, 63)
    assert got.payload == b"some data"
    assert outcome.data == sealed(outcome.data)
    assert lab.forwarded() == before + 1


@family
@protocols
def test_an_answer_goes_back_to_its_client(lab: Lab, v: int, protocol: int) -> None:
    lab.connection(v, protocol)
    outcome = lab.run(answer(lab, v, protocol))
    assert outcome.action == XDP_TX
    got = seen(outcome.data)
    assert (got.source, got.destination, got.ports) == (VIP[v], CLIENT[v], (PORT, CLIENT_PORT))
    assert (got.destination_mac, got.source_mac, got.hops) == (GATEWAY_MAC, lab.mac, 63)
    assert outcome.data == sealed(outcome.data)


@family
@protocols
def test_checksums_hold_for_anything(lab: Lab, v: int, protocol: int) -> None:
    rng = random.Random(v * protocol)
    lab.connection(v, protocol)
    for _ in range(scaled(100, 2000)):
        payload = rng.randbytes(rng.randrange(1200))
        outcome = lab.run(request(lab, v, protocol, payload=payload, hops=rng.randint(2, 255)))
        assert outcome.action == XDP_TX
        assert outcome.data == sealed(outcome.data)
        assert seen(outcome.data).payload == payload


@family
def test_a_udp_checksum_never_becomes_none(lab: Lab, v: int) -> None:
    """Zero means that there is none; the sum that would be zero is written as all ones (RFC 768)."""
    lab.connection(v, p.UDP)
    first = lab.run(request(lab, v, p.UDP, payload=bytes(2))).data
    at = IP + (20 if v == 4 else 40) + 6
    payload = first[at : at + 2]
    outcome = lab.run(request(lab, v, p.UDP, payload=payload))
    assert outcome.data[at : at + 2] == b"\xff\xff"
    assert outcome.data == sealed(outcome.data)


def test_a_udp_packet_without_checksum_gets_none(lab: Lab) -> None:
    lab.connection(4, p.UDP)
    one = bytearray(request(lab, 4, p.UDP))
    one[IP + 26 : IP + 28] = bytes(2)
    outcome = lab.run(bytes(one))
    assert outcome.action == XDP_TX
    assert outcome.data[IP + 26 : IP + 28] == bytes(2)


@family
def test_it_follows_the_connection(lab: Lab, v: int) -> None:
    lab.connection(v, p.TCP, state=CT_NEW, age_seconds=5)
    begun = time.monotonic_ns()
    assert lab.run(request(lab, v, p.TCP)).action == XDP_TX
    assert {one.state for one in lab.entries().values()} == {CT_ESTABLISHED}
    assert all(one.last_seen_ns >= begun for one in lab.entries().values())


@family
@protocols
def test_out_by_the_uplink_wherever_it_came_in(lab: Lab, v: int, protocol: int) -> None:
    lab.connection(v, protocol)
    assert lab.run(request(lab, v, protocol), ifindex=lab.second).action == XDP_REDIRECT


@family
@protocols
def test_another_interface_is_the_stacks_business(lab: Lab, v: int, protocol: int) -> None:
    lab.connection(v, protocol, backend=AWAY[v])
    assert passed_untouched(lab, request(lab, v, protocol))


@family
@pytest.mark.parametrize("flags", [p.SYN, p.SYN | p.ACK, p.FIN | p.ACK, p.RST, p.RST | p.ACK])
def test_turning_points_of_a_connection_pass(lab: Lab, v: int, flags: int) -> None:
    lab.connection(v, p.TCP)
    before = lab.entries()
    assert passed_untouched(lab, request(lab, v, p.TCP, flags=flags))
    assert passed_untouched(lab, answer(lab, v, p.TCP, flags=flags))
    assert lab.entries() == before


@family
@protocols
@pytest.mark.parametrize(
    "flags", [lb.NAT_HAIRPIN, lb.NAT_MASQUERADE, lb.NAT_DSR_CLIENT], ids=["hairpin", "masquerade", "dsr"]
)
def test_other_kinds_of_translation_pass(lab: Lab, v: int, protocol: int, flags: int) -> None:
    lab.connection(v, protocol, flags=flags)
    assert passed_untouched(lab, request(lab, v, protocol))
    assert passed_untouched(lab, answer(lab, v, protocol))


@family
@protocols
def test_what_ends_on_this_node_passes(lab: Lab, v: int, protocol: int) -> None:
    client, frontend = (CLIENT[v], CLIENT_PORT), (VIP[v], PORT)
    lab.remember(tuple_of(client, frontend, protocol), translated(client, (POD[v], BACKEND_PORT)))
    assert passed_untouched(lab, request(lab, v, protocol))


@family
@protocols
@pytest.mark.parametrize("age", [{"age_seconds": 9_000}, {"state": CT_CLOSING, "age_seconds": 20}])
def test_an_expired_entry_passes(lab: Lab, v: int, protocol: int, age: dict[str, int]) -> None:
    if time.monotonic() < age["age_seconds"]:
        pytest.skip("this machine is not up for that long")
    lab.connection(v, protocol, "", **age)
    assert passed_untouched(lab, request(lab, v, protocol))


@family
@protocols
def test_nothing_known_passes(lab: Lab, v: int, protocol: int) -> None:
    assert passed_untouched(lab, request(lab, v, protocol))
    lab.connection(v, p.TCP + p.UDP - protocol)
    assert passed_untouched(lab, request(lab, v, protocol))


@family
@protocols
def test_a_firewall_of_the_node_wants_to_see_it(lab: Lab, v: int, protocol: int) -> None:
    lab.connection(v, protocol)
    lab.configure(flags=node.NODE_HOST_FIREWALL)
    assert passed_untouched(lab, request(lab, v, protocol))


@family
@protocols
def test_frames_for_others_pass(lab: Lab, v: int, protocol: int) -> None:
    lab.connection(v, protocol)
    one = request(lab, v, protocol)
    assert passed_untouched(lab, bytes(6 * [0xFF]) + one[6:])
    assert passed_untouched(lab, one[:5] + bytes([one[5] ^ 1]) + one[6:])


@family
@protocols
def test_the_last_hop_passes(lab: Lab, v: int, protocol: int) -> None:
    lab.connection(v, protocol)
    for hops in (0, 1):
        assert passed_untouched(lab, request(lab, v, protocol, hops=hops))
    assert seen(lab.run(request(lab, v, protocol, hops=2)).data).hops == 1


@family
@protocols
@pytest.mark.parametrize("why", ["no-neighbour", "no-route", "mtu"])
def test_what_only_the_stack_can_send_passes(lab: Lab, v: int, protocol: int, why: str) -> None:
    unknown = {4: "192.0.2.21", 6: "2001:db8::21"}
    nowhere = {4: "172.31.0.1", 6: "fd31::1"}
    lab.connection(v, protocol, backend={"no-neighbour": unknown, "no-route": nowhere}.get(why, BACKEND)[v])
    one = request(lab, v, protocol, payload=bytes(1460) if why == "mtu" else b"")
    if why == "mtu":
        run("ip", "-n", lab.netns, "link", "set", "up0", "mtu", "1400")
    try:
        assert passed_untouched(lab, one)
    finally:
        if why == "mtu":
            run("ip", "-n", lab.netns, "link", "set", "up0", "mtu", "1500")


def unusual(v: int) -> dict[str, bytes]:
    """Frames of the connection's addresses that are not plain."""
    ends, ports = (CLIENT[v], VIP[v]), (CLIENT_PORT, PORT)
    tcp, udp = p.tcp(*ports, p.ACK, bytes(24)), p.udp(*ports, bytes(24))
    options = bytes([1, 1, 1, 1]) if v == 4 else p.extension(60)
    icmp = p.ICMP if v == 4 else p.ICMP6
    quoted = p.ip(VIP[v], CLIENT[v], p.TCP, p.tcp(PORT, CLIENT_PORT))
    short = p.packet(*ends, p.UDP, udp)
    found = {
        "options": p.packet(*ends, p.TCP, tcp, options=options),
        "first-fragment": p.packet(*ends, p.TCP, tcp[:40], more=True),
        "later-fragment": p.packet(*ends, p.UDP, udp, fragment=64),
        "icmp-error": p.packet(*ends, icmp, p.icmp(p.UNREACHABLE[v], payload=quoted)),
        "echo": p.packet(*ends, icmp, p.icmp(p.ECHO[v], PORT)),
        "sctp": p.packet(*ends, p.SCTP, p.sctp(*ports)),
        "arp": p.ethernet(bytes(46), ethertype=0x0806),
        "vlan": short[:12] + struct.pack(">HH", 0x8100, 5) + short[12:],
        "too-short": short[:-10],
        "header-cut": p.packet(*ends, p.TCP, tcp[:12]),
        "udp-length": p.packet(*ends, p.UDP, udp[:4] + struct.pack(">H", 3) + udp[6:]),
        "tcp-offset": p.packet(*ends, p.TCP, tcp[:12] + b"\x10" + tcp[13:]),
        "ethernet-only": short[:14],
        "version": short[:14] + bytes([0x95]) + short[15:],
    }
    if v == 6:
        mapped = bytes(10) + b"\xff\xff" + bytes([203, 0, 113, 9])
        found["mapped"] = short[:22] + mapped + short[38:]
    return found


@family
@pytest.mark.parametrize("kind", list(unusual(6)))
def test_what_is_not_plain_passes(lab: Lab, v: int, kind: str) -> None:
    for protocol in (p.TCP, p.UDP, p.SCTP):
        lab.connection(v, protocol)
    found = unusual(v).get(kind)
    if found is None:
        pytest.skip("IPv6 only")
    assert passed_untouched(lab, lab.mac + found[6:])


@family
def test_damaged_frames_pass_or_are_forwarded_whole(lab: Lab, v: int) -> None:
    """Whatever the bytes: the program neither drops nor writes beyond its packet."""
    rng = random.Random(v)
    lab.connection(v, p.TCP)
    lab.connection(v, p.UDP)
    for _ in range(scaled(300, 20_000)):
        one = bytearray(request(lab, v, rng.choice((p.TCP, p.UDP)), payload=rng.randbytes(rng.randrange(60))))
        for _ in range(rng.randint(1, 3)):
            one[rng.randrange(12, len(one))] = rng.randrange(256)
        cut = bytes(one[: rng.choice((len(one), rng.randrange(14, len(one) + 1)))])
        outcome = lab.run(cut)
        assert outcome.action in (XDP_PASS, XDP_TX)
        assert len(outcome.data) == len(cut)
        if outcome.action == XDP_PASS:
            assert outcome.data == cut


@pytest.fixture(params=list(XdpMode), ids=lambda mode: mode.name.lower())
def attached_node(
    request: pytest.FixtureRequest, loaded: tuple[dict[str, KernelMap], BpfProgram]
) -> Iterator[tuple[Lab, Worker]]:
    """Client, node and backend on one switch; the client reaches frontends by the node."""
    maps, program = loaded
    with ExitStack() as stack:
        names = [stack.enter_context(network(unique(one))) for one in ("sw", "cl", "no", "be")]
        switch, client, middle, backend = names
        run("ip", "-n", switch, "link", "add", "br0", "type", "bridge")
        run("ip", "-n", switch, "link", "set", "br0", "up")
        for number, netns in enumerate((client, middle, backend)):
            plug(switch, netns, f"p{number}")
        for v in (4, 6):
            bits, near = ("24", "192.0.2.99") if v == 4 else ("64", "2001:db8::99")
            extra = ["nodad"] if v == 6 else []
            for netns, address in ((client, near), (middle, NODE[v]), (backend, BACKEND[v])):
                run("ip", "-n", netns, "address", "add", f"{address}/{bits}", "dev", "eth0", *extra)
            run("ip", "-n", client, "route", "add", VIP[v], "via", NODE[v])
            neighbour(middle, near, mac_in(client, "eth0"), "eth0")
            neighbour(middle, BACKEND[v], mac_in(backend, "eth0"), "eth0")
        set_sysctl(middle, "net/ipv4/ip_forward", "1")
        set_sysctl(middle, "net/ipv6/conf/all/forwarding", "1")
        index = ifindex_in(middle, "eth0")
        lab = Lab(middle, index, 0, mac_in(middle, "eth0"), maps, program)
        lab.configure()
        link = inside(middle, lambda: XdpLink.create(program, ifindex=index, mode=request.param))
        stack.callback(link.close)
        # veth takes frames sent by XDP only where the other end polls, as it does for a program of its own.
        port = ifindex_in(switch, "p1")
        other = inside(switch, lambda: XdpLink.create(program, ifindex=port, mode=XdpMode.NATIVE))
        stack.callback(other.close)
        assert link.state().ifindex == index
        server, worker = Worker(backend), Worker(client)
        stack.callback(server.close)
        stack.callback(worker.close)
        for v in (4, 6):
            server.call("listen", BACKEND[v], BACKEND_PORT)
        yield lab, worker


def plug(switch: str, netns: str, port: str) -> None:
    """A cable from eth0 of a namespace to the switch. Frames carry whole checksums, as on a wire."""
    words = ("type", "veth", "peer", "name", "eth0", "netns", netns)
    run("ip", "-n", switch, "link", "add", port, *words)
    run("ip", "-n", switch, "link", "set", port, "master", "br0", "up")
    run("ip", "-n", netns, "link", "set", "eth0", "up")
    set_feature(netns, "eth0", TX_CHECKSUMS, 0)


@family
def test_real_datagrams_in_both_modes(attached_node: tuple[Lab, Worker], v: int) -> None:
    lab, client = attached_node
    near = "192.0.2.99" if v == 4 else "2001:db8::99"
    before = lab.forwarded()
    for number in range(20):
        source, out = (near, 41_000 + number), (NODE[v], NODE_PORT + number)
        server, frontend = (BACKEND[v], BACKEND_PORT), (VIP[v], PORT)
        lab.remember(tuple_of(source, frontend, p.UDP), translated(out, server))
        lab.remember(
            tuple_of(server, out, p.UDP),
            translated(frontend, source, flags=lb.NAT_SERVICE | lb.NAT_RETURN),
        )
        got = client.call("datagram_from", 41_000 + number, VIP[v], PORT)
        assert got == {"server": BACKEND[v], "from": [VIP[v], PORT]}
    assert lab.forwarded() == before + 40


def test_an_interface_has_one_program(attached_node: tuple[Lab, Worker]) -> None:
    lab, _ = attached_node

    def attach(mode: XdpMode) -> XdpLink:
        return XdpLink.create(lab.program, ifindex=lab.uplink, mode=mode)

    for mode in XdpMode:
        with pytest.raises(BpfError, match=f"ifindex {lab.uplink}"):
            inside(lab.netns, functools.partial(attach, mode))


@pytest.mark.parametrize("mode", list(XdpMode), ids=lambda mode: mode.name.lower())
def test_a_link_is_found_by_its_pin_and_replaced(lab: Lab, mode: XdpMode) -> None:
    with BpfObject(object_path("xdp.o")) as one:
        one.load(pins=PINS, max_entries=SIZES)
        other = one.programs()["axoneme_xdp"]
    made = inside(lab.netns, lambda: XdpLink.create(lab.program, ifindex=lab.second, mode=mode))
    made.pin(PINS / "link")
    made.close()
    found = XdpLink.open(PINS / "link")
    try:
        assert (found.state().ifindex, found.state().program_id) == (lab.second, lab.program.program_id)
        with pytest.raises(BpfError):
            found.update(other, expected=other)
        found.update(other, expected=lab.program)
        assert found.state().program_id == other.program_id
        with pytest.raises(BpfError, match="not 11"):
            TcxLink.open(PINS / "link").state()
    finally:
        found.detach()
        (PINS / "link").unlink()
    assert found.state().ifindex == 0


@pytest.fixture
def opened_by_tc(
    attached_node: tuple[Lab, Worker], loaded: tuple[dict[str, KernelMap], BpfProgram]
) -> Iterator[tuple[Lab, Worker]]:
    """The uplink's tc programs beside the XDP program, over the same maps, and one service."""
    lab, worker = attached_node
    balancer = Balancer(lab.maps)
    config = node.NodeConfig(
        base.address_bytes(NODE[4]),
        base.address_bytes(NODE[6]),
        uplink_ifindex=lab.uplink,
        uplink_mac=lab.mac,
        nat_port_min=20_000,
        nat_port_max=21_000,
    )
    lab.maps["axoneme_node"].update(base.number_key(0), config.pack())
    for v in (4, 6):
        balancer.backends(v, {v: (BACKEND[v], BACKEND_PORT)}, p.TCP)
        balancer.frontend(VIP[v], PORT, p.TCP, lb.LbService(v, 1), scope=lb.LB_OUTSIDE)
    with ExitStack() as stack:
        with BpfObject(object_path("netdev.o")) as other:
            other.load(pins=PINS, max_entries=SIZES)
            programs = other.programs()
        for name in ("axoneme_from_netdev", "axoneme_to_netdev"):
            held = attach(programs[name], netns=lab.netns, ifindex=lab.uplink)
            stack.callback(held.close)
        yield lab, worker


@family
def test_tcp_is_opened_by_tc_and_goes_on_here(opened_by_tc: tuple[Lab, Worker], v: int) -> None:
    """What XDP forwards, no tap of the node sees: of a connection only its ends."""
    lab, client = opened_by_tc
    with inside(lab.netns, lambda: tap("eth0")) as tapped:
        got = client.call("long_stream", VIP[v], PORT, 50)
        assert got == {"server": BACKEND[v], "answers": 50, "peer": [VIP[v], PORT]}
        flags = [one[IP + (33 if v == 4 else 53)] for one in taken(tapped) if tcp_frame(one, v)]
    assert [one for one in flags if one & p.SYN]
    assert [one for one in flags if one & (p.FIN | p.RST)]
    assert [one for one in flags if not one & (p.SYN | p.FIN | p.RST)] == []
    assert {one.flags & lb.NAT_RETURN for one in lab.entries().values()} == {0, lb.NAT_RETURN}


def tap(interface: str) -> socket.socket:
    one = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    one.bind((interface, 0))
    one.setblocking(False)
    return one


def taken(one: socket.socket) -> list[bytes]:
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(one.recv(2048))
    return found


def tcp_frame(one: bytes, v: int) -> bool:
    ethertype = 0x0800 if v == 4 else 0x86DD
    return int.from_bytes(one[12:14], "big") == ethertype and one[IP + (9 if v == 4 else 6)] == p.TCP
