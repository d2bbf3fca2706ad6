"""Verdicts and events of the endpoint programs on single packets, each case for IPv4 and IPv6."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest

from axoneme.lib.bpf.create import create_map
from axoneme.lib.policy.model import Action, Direction, MapEntry, MapKey, PortBlock, Redirect, one_port
from shim.flows import record
from shim.maps import base, layout
from tests.bpf import packets as p
from tests.bpf.harness import ANY, PEER, PEER_IDENTITY, POD, POD_ID, POD_IDENTITY, Datapath, allow, deny
from tests.conftest import scaled

pytestmark = pytest.mark.root

IN, OUT = Direction.INGRESS, Direction.EGRESS
DROP, TRACE, VERDICT = record.DROP, record.TRACE, record.POLICY_VERDICT
FORWARDED, DROPPED, AUDIT = 1, 2, 4
family = pytest.mark.parametrize("v", [4, 6], ids=["ipv4", "ipv6"])
protocols = pytest.mark.parametrize("protocol", [p.TCP, p.UDP, p.SCTP], ids=["tcp", "udp", "sctp"])

BODY = {
    p.TCP: lambda s, d: p.tcp(s, d),
    p.UDP: lambda s, d: p.udp(s, d),
    p.SCTP: lambda s, d: p.sctp(s, d),
}


@pytest.fixture(autouse=True)
def peers(datapath: Datapath) -> None:
    for v in (4, 6):
        datapath.identity(f"{PEER[v]}/{32 if v == 4 else 128}", PEER_IDENTITY)


def outward(v: int, protocol: int, body: bytes, **extra: object) -> bytes:
    return p.packet(POD[v], PEER[v], protocol, body, **extra)


def inward(v: int, protocol: int, body: bytes, **extra: object) -> bytes:
    return p.packet(PEER[v], POD[v], protocol, body, **extra)


def icmp_of(v: int) -> int:
    return p.ICMP if v == 4 else p.ICMP6


@family
@protocols
def test_allowed_in_both_directions(datapath: Datapath, v: int, protocol: int) -> None:
    datapath.policy(
        allow(OUT, PEER_IDENTITY, one_port(protocol, 80)) | allow(IN, PEER_IDENTITY, one_port(protocol, 81))
    )
    assert datapath.send(outward(v, protocol, BODY[protocol](1000, 80))).passed
    assert datapath.receive(inward(v, protocol, BODY[protocol](1000, 81))).passed
    assert not datapath.send(outward(v, protocol, BODY[protocol](1001, 81))).passed
    assert not datapath.receive(inward(v, protocol, BODY[protocol](1001, 80))).passed


@family
def test_events_of_an_allowed_connection(datapath: Datapath, v: int) -> None:
    key = MapKey(OUT, PEER_IDENTITY, one_port(p.TCP, 80))
    entry = MapEntry(action=Action.ALLOW, precedence=0xFEFFFF01, origins=frozenset({1}))
    datapath.policy({key: entry}, cookies={key: 99})
    outcome = datapath.send(outward(v, p.TCP, p.tcp(1000, 80)))
    assert outcome.types() == [VERDICT, TRACE]
    verdict = outcome.event(VERDICT)
    assert verdict["verdict"] == FORWARDED
    assert verdict["source_identity"] == POD_IDENTITY
    assert verdict["destination_identity"] == PEER_IDENTITY
    assert bytes(verdict["source_ip"]) == base.address_bytes(POD[v])
    assert bytes(verdict["destination_ip"]) == base.address_bytes(PEER[v])
    assert (verdict["source_port"], verdict["destination_port"]) == (1000, 80)
    assert (verdict["protocol"], verdict["tcp_flags"]) == (p.TCP, p.SYN)
    assert verdict["endpoint_id"] == POD_ID
    assert verdict["direction"] == record.EGRESS
    assert verdict["flags"] == record.FLAG_REPLY_KNOWN | (record.FLAG_IPV6 if v == 6 else 0)
    assert (verdict["match_type"], verdict["cookie"], verdict["drop_reason"]) == (2, 99, 0)
    assert verdict["policy_generation"] == datapath.generation
    assert verdict["ifindex"] == 1
    assert verdict["length"] == len(outward(v, p.TCP, p.tcp(1000, 80)))
    assert bytes(verdict["source_mac"]) == p.POD_MAC
    assert bytes(verdict["destination_mac"]) == p.HOST_MAC
    assert abs(int(verdict["time_ns"]) - time.clock_gettime_ns(time.CLOCK_BOOTTIME)) < 10_000_000_000
    assert outcome.event(TRACE)["sub_type"] == record.TO_STACK


@family
@pytest.mark.parametrize(
    ("rules", "reason"), [({}, 133), (deny(OUT, PEER_IDENTITY), 181)], ids=["no-entry", "deny-entry"]
)
def test_denied(datapath: Datapath, v: int, rules: dict[MapKey, MapEntry], reason: int) -> None:
    datapath.policy(allow(OUT, 4242) | rules)
    dropped_before = datapath.metric(layout.metric_key(OUT, reason))[0]
    outcome = datapath.send(outward(v, p.TCP, p.tcp(1000, 80)))
    assert not outcome.passed
    assert outcome.types() == [VERDICT, DROP]
    assert {int(e["verdict"]) for e in outcome.events} == {DROPPED}
    assert outcome.drop_reason == reason
    assert outcome.event(DROP)["sub_type"] == reason
    assert datapath.metric(layout.metric_key(OUT, reason))[0] == dropped_before + 1
    assert datapath.connections() == {}


@family
def test_deny_beats_a_narrower_allow(datapath: Datapath, v: int) -> None:
    datapath.policy(deny(OUT, 0) | allow(OUT, PEER_IDENTITY, one_port(p.TCP, 80)))
    assert datapath.send(outward(v, p.TCP, p.tcp(1000, 80))).drop_reason == 181


@family
@pytest.mark.parametrize(
    ("identity", "ports", "match_type"),
    [
        (PEER_IDENTITY, ANY, 1),
        (PEER_IDENTITY, one_port(p.TCP, 80), 2),
        (PEER_IDENTITY, PortBlock(p.TCP, 64, 10), 2),
        (0, one_port(p.TCP, 80), 3),
        (0, ANY, 4),
        (PEER_IDENTITY, PortBlock(p.TCP, 0, 0), 5),
        (0, PortBlock(p.TCP, 0, 0), 6),
    ],
)
def test_match_types(datapath: Datapath, v: int, identity: int, ports: PortBlock, match_type: int) -> None:
    datapath.policy(allow(OUT, identity, ports))
    outcome = datapath.send(outward(v, p.TCP, p.tcp(1000, 80)))
    assert outcome.passed
    assert outcome.event(VERDICT)["match_type"] == match_type


@family
@protocols
def test_reply_passes_without_policy(datapath: Datapath, v: int, protocol: int) -> None:
    datapath.policy(allow(OUT, PEER_IDENTITY))
    reply = inward(v, protocol, BODY[protocol](80, 1000)[:13] + b"\x12" + BODY[protocol](80, 1000)[14:])
    if protocol != p.TCP:
        reply = inward(v, protocol, BODY[protocol](80, 1000))
    assert not datapath.receive(reply).passed
    assert datapath.send(outward(v, protocol, BODY[protocol](1000, 80))).passed
    outcome = datapath.receive(reply)
    assert outcome.passed
    assert outcome.types() == [TRACE]
    trace = outcome.event(TRACE)
    assert trace["flags"] & record.FLAG_REPLY
    assert trace["flags"] & record.FLAG_REPLY_KNOWN
    assert trace["direction"] == record.EGRESS  # of the connection
    assert trace["sub_type"] == record.TO_ENDPOINT
    assert (trace["source_identity"], trace["destination_identity"]) == (PEER_IDENTITY, POD_IDENTITY)


@family
def test_traces_are_for_first_packets_only(datapath: Datapath, v: int) -> None:
    datapath.policy(allow(OUT, PEER_IDENTITY))
    there, back = outward(v, p.TCP, p.tcp(1000, 80, p.ACK)), inward(v, p.TCP, p.tcp(80, 1000, p.ACK))
    assert datapath.send(outward(v, p.TCP, p.tcp(1000, 80))).types() == [VERDICT, TRACE]
    assert datapath.receive(inward(v, p.TCP, p.tcp(80, 1000, p.SYN | p.ACK))).types() == [TRACE]
    for _ in range(3):
        assert datapath.send(there).types() == []
        assert datapath.receive(back).types() == []
    assert datapath.send(outward(v, p.TCP, p.tcp(1000, 80, p.FIN | p.ACK))).types() == [TRACE]
    assert datapath.receive(inward(v, p.TCP, p.tcp(80, 1000, p.RST))).types() == [TRACE]


@family
def test_a_new_connection_in_the_reply_direction_is_judged(datapath: Datapath, v: int) -> None:
    datapath.policy(allow(OUT, PEER_IDENTITY))
    datapath.send(outward(v, p.TCP, p.tcp(1000, 80)))
    datapath.receive(inward(v, p.TCP, p.tcp(80, 1000, p.SYN | p.ACK)))
    assert not datapath.receive(inward(v, p.TCP, p.tcp(80, 1000, p.SYN))).passed
    assert not datapath.receive(inward(v, p.TCP, p.tcp(80, 1001, p.ACK))).passed


@family
def test_icmp_echo(datapath: Datapath, v: int) -> None:
    protocol = icmp_of(v)
    datapath.policy(allow(OUT, PEER_IDENTITY, one_port(protocol, p.ECHO[v])))
    reply = inward(v, protocol, p.icmp(p.ECHO_REPLY[v], 55))
    assert not datapath.receive(reply).passed
    outcome = datapath.send(outward(v, protocol, p.icmp(p.ECHO[v], 55)))
    assert outcome.passed
    verdict = outcome.event(VERDICT)
    assert (verdict["source_port"], verdict["destination_port"]) == (55, p.ECHO[v])
    assert datapath.receive(reply).passed
    assert not datapath.receive(inward(v, protocol, p.icmp(p.ECHO_REPLY[v], 56))).passed
    assert not datapath.receive(inward(v, protocol, p.icmp(p.ECHO[v], 55))).passed
    assert not datapath.send(outward(v, protocol, p.icmp(p.ECHO_REPLY[v], 55))).passed


def test_icmp_type_zero_is_exact(datapath: Datapath) -> None:
    datapath.policy(allow(IN, PEER_IDENTITY, one_port(p.ICMP, 0)))
    assert datapath.receive(inward(4, p.ICMP, p.icmp(0, 1))).passed
    assert not datapath.receive(inward(4, p.ICMP, p.icmp(8, 1))).passed


@family
def test_ports_never_open_icmp(datapath: Datapath, v: int) -> None:
    rules: dict[MapKey, MapEntry] = {}
    for protocol in (p.TCP, p.UDP, p.SCTP):
        rules |= allow(IN, 0, PortBlock(protocol, 0, 0))
    datapath.policy(rules)
    for identifier in range(0, 65536, 257):
        echo = p.icmp(p.ECHO[v], identifier)
        assert not datapath.verdict(IN, inward(v, icmp_of(v), echo))
    datapath.drain()


@family
def test_icmp_error_about_a_connection_is_related(datapath: Datapath, v: int) -> None:
    datapath.policy(allow(OUT, PEER_IDENTITY, one_port(p.UDP, 53)))
    sent = p.ip(POD[v], PEER[v], p.UDP, p.udp(1000, 53))
    error = inward(v, icmp_of(v), p.icmp(p.UNREACHABLE[v], payload=sent, code=3))
    assert not datapath.receive(error).passed
    datapath.send(outward(v, p.UDP, p.udp(1000, 53)))
    outcome = datapath.receive(error)
    assert outcome.passed
    trace = outcome.event(TRACE)
    assert trace["flags"] & record.FLAG_RELATED
    assert not trace["flags"] & record.FLAG_REPLY
    other = p.ip(POD[v], PEER[v], p.UDP, p.udp(1000, 54))
    assert not datapath.receive(inward(v, icmp_of(v), p.icmp(p.UNREACHABLE[v], payload=other))).passed


@family
def test_icmp_error_from_a_router_and_about_a_reply(datapath: Datapath, v: int) -> None:
    router = {4: "192.0.2.1", 6: "2001:db8::1"}[v]
    datapath.policy(allow(OUT, PEER_IDENTITY) | allow(IN, PEER_IDENTITY, one_port(p.UDP, 53)))
    datapath.receive(inward(v, p.UDP, p.udp(2000, 53)))
    answer = p.ip(POD[v], PEER[v], p.UDP, p.udp(53, 2000))
    error = p.packet(router, POD[v], icmp_of(v), p.icmp(p.UNREACHABLE[v], payload=answer))
    assert datapath.receive(error).passed
    # The endpoint may complain about what it received; nobody may quote a packet to someone else.
    request = p.ip(PEER[v], POD[v], p.UDP, p.udp(2000, 53))
    assert datapath.send(outward(v, icmp_of(v), p.icmp(p.UNREACHABLE[v], payload=request))).passed
    datapath.policy({})
    stranger = p.ip(PEER[v], POD[v], p.UDP, p.udp(2000, 53))
    assert not datapath.receive(inward(v, icmp_of(v), p.icmp(p.UNREACHABLE[v], payload=stranger))).passed


@family
def test_redirects_are_never_related(datapath: Datapath, v: int) -> None:
    datapath.policy(allow(OUT, PEER_IDENTITY))
    datapath.send(outward(v, p.UDP, p.udp(1000, 53)))
    sent = p.ip(POD[v], PEER[v], p.UDP, p.udp(1000, 53))
    kind = {4: 5, 6: 137}[v]
    assert not datapath.receive(inward(v, icmp_of(v), p.icmp(kind, payload=sent), hop_limit=255)).passed


@family
def test_fragments_follow_the_first(datapath: Datapath, v: int) -> None:
    datapath.policy(allow(OUT, PEER_IDENTITY, one_port(p.UDP, 53)))
    body = p.udp(1000, 53, bytes(600))
    later = outward(v, p.UDP, body[304:], fragment=304, fragment_id=9)
    outcome = datapath.send(later)
    assert not outcome.passed
    assert outcome.drop_reason == 175
    first = datapath.send(outward(v, p.UDP, body[:304], more=True, fragment_id=9))
    assert first.passed
    assert first.event(VERDICT)["flags"] & record.FLAG_FRAGMENT
    assert datapath.send(later).passed
    assert datapath.send(outward(v, p.UDP, body[304:], fragment=304, fragment_id=10)).drop_reason == 175
    datapath.send(outward(v, p.UDP, p.udp(1000, 54, bytes(600))[:304], more=True, fragment_id=11))
    assert datapath.send(outward(v, p.UDP, body[304:], fragment=304, fragment_id=11)).drop_reason == 133


@family
@pytest.mark.parametrize("offset", [65_528, 65_400])
def test_fragments_past_the_end_are_malformed(datapath: Datapath, v: int, offset: int) -> None:
    datapath.policy(allow(OUT, 0))
    assert datapath.send(outward(v, p.UDP, bytes(200), fragment=offset)).drop_reason == 134


@family
def test_a_first_fragment_without_its_header_is_dropped(datapath: Datapath, v: int) -> None:
    datapath.policy(allow(OUT, 0))
    assert datapath.send(outward(v, p.TCP, p.tcp(1, 80)[:16], more=True)).drop_reason == 135


@family
def test_unknown_peer(datapath: Datapath, v: int) -> None:
    datapath.policy(allow(OUT, 0) | allow(IN, 0))
    datapath.clear("axoneme_ipexact")
    assert datapath.receive(inward(v, p.TCP, p.tcp(1, 80))).drop_reason == 171
    assert datapath.send(outward(v, p.TCP, p.tcp(1, 80))).drop_reason == 171


@family
def test_longest_prefix_gives_the_identity(datapath: Datapath, v: int) -> None:
    datapath.clear("axoneme_ipexact")
    wide, narrow = {4: ("0.0.0.0/0", "10.1.0.0/16"), 6: ("::/0", "fd00:10:1::/48")}[v]
    datapath.policy(allow(OUT, 0))
    for prefix, number in ((wide, 9), (narrow, 4001), (f"{PEER[v]}/{32 if v == 4 else 128}", 4002)):
        datapath.identity(prefix, number)
        datapath.forget_connections()
        assert datapath.send(outward(v, p.UDP, p.udp(1, 53))).event(VERDICT)["destination_identity"] == number


@family
def test_learned_address_of_this_endpoint_only(datapath: Datapath, v: int) -> None:
    datapath.policy(allow(OUT, 0))
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    for expiry, number in ((now + 60 * 10**9, 16_777_300), (now - 1, PEER_IDENTITY)):
        datapath.learn(PEER[v], 16_777_300, expiry_ns=expiry)
        datapath.forget_connections()
        assert datapath.send(outward(v, p.UDP, p.udp(1, 53))).event(VERDICT)["destination_identity"] == number


@family
def test_spoofed_source(datapath: Datapath, v: int) -> None:
    datapath.policy(allow(OUT, 0) | allow(IN, 0))
    spoofed = p.packet(PEER[v], POD[v], p.UDP, p.udp(1, 53))
    assert datapath.send(spoofed).drop_reason == 132
    datapath.endpoint(ipv4="0.0.0.0", ipv6="::")
    zero = {4: "0.0.0.0", 6: "::"}[v]
    assert datapath.send(p.packet(zero, PEER[v], p.UDP, p.udp(1, 53))).drop_reason == 132


def test_mapped_addresses_on_the_wire_are_malformed(datapath: Datapath) -> None:
    datapath.policy(allow(OUT, 0) | allow(IN, 0))
    inner = p.ip("::ffff:10.1.9.9", POD[6], p.UDP, p.udp(1, 53))
    assert datapath.receive(p.ethernet(inner, ethertype=0x86DD)).drop_reason == 134


@family
def test_locked_endpoint(datapath: Datapath, v: int) -> None:
    assert datapath.send(outward(v, p.UDP, p.udp(1, 53))).drop_reason == 203
    assert datapath.receive(inward(v, p.UDP, p.udp(1, 53))).drop_reason == 203
    datapath.policy(allow(OUT, 0))
    assert datapath.send(outward(v, p.UDP, p.udp(1, 53))).passed
    datapath.lock()
    assert datapath.send(outward(v, p.UDP, p.udp(1, 53))).drop_reason == 203


@family
def test_interface_without_endpoint(datapath: Datapath, v: int) -> None:
    datapath.policy(allow(OUT, 0))
    datapath.clear("axoneme_ep")
    assert datapath.send(outward(v, p.UDP, p.udp(1, 53))).drop_reason == 203


@family
def test_default_allow(datapath: Datapath, v: int) -> None:
    key = MapKey(OUT, 0, ANY)
    datapath.policy(
        {key: MapEntry(action=Action.ALLOW, precedence=0)} | deny(OUT, PEER_IDENTITY, one_port(6, 25))
    )
    assert datapath.send(outward(v, p.TCP, p.tcp(1, 80))).passed
    assert datapath.send(outward(v, p.TCP, p.tcp(1, 25))).drop_reason == 181


@family
def test_redirect_never_passes_without_proxy(datapath: Datapath, v: int) -> None:
    key = MapKey(OUT, 0, one_port(p.UDP, 53))
    entry = MapEntry(action=Action.REDIRECT, precedence=0xFEFFFF86, redirect=Redirect("dns"))
    datapath.policy({key: entry} | allow(OUT, 0))
    datapath.endpoint(flags=layout.ENDPOINT_AUDIT)
    assert datapath.send(outward(v, p.UDP, p.udp(1, 53))).drop_reason == 180


@family
def test_unknown_action_denies(datapath: Datapath, v: int) -> None:
    inner = create_map(layout.POLICY_INNER)
    key = layout.policy_key(MapKey(OUT, 0, ANY))
    inner.update(key, layout.PolicyEntry(1, 0, bytes(2), 9, 0, 0).pack())
    datapath.maps["axoneme_policy"].set_inner(layout.policy_outer_key(POD_ID), inner)
    inner.close()
    assert datapath.send(outward(v, p.UDP, p.udp(1, 53))).drop_reason == 165


@family
@pytest.mark.parametrize("rules", [{}, deny(OUT, PEER_IDENTITY)], ids=["no-entry", "deny-entry"])
def test_audit_of_an_endpoint(datapath: Datapath, v: int, rules: dict[MapKey, MapEntry]) -> None:
    datapath.policy(rules)
    datapath.endpoint(flags=layout.ENDPOINT_AUDIT)
    outcome = datapath.send(outward(v, p.TCP, p.tcp(1, 80)))
    assert outcome.passed
    verdict = outcome.event(VERDICT)
    assert verdict["verdict"] == AUDIT
    assert verdict["flags"] & record.FLAG_AUDIT
    assert datapath.receive(inward(v, p.TCP, p.tcp(80, 1, p.SYN | p.ACK))).passed
    datapath.endpoint()  # switched off: what only audit let pass is judged again
    assert not datapath.send(outward(v, p.TCP, p.tcp(1, 80, p.ACK))).passed


@family
def test_audit_of_an_entry(datapath: Datapath, v: int) -> None:
    key = MapKey(OUT, PEER_IDENTITY, ANY)
    datapath.policy({key: MapEntry(action=Action.DENY, precedence=0xFEFFFFFF, audit=True)})
    outcome = datapath.send(outward(v, p.TCP, p.tcp(1, 80)))
    assert outcome.passed
    assert outcome.event(VERDICT)["verdict"] == AUDIT
    assert datapath.send(outward(v, p.TCP, p.tcp(1, 80, p.ACK))).types() == []


@family
@pytest.mark.parametrize("reply_first", [False, True], ids=["original", "reply"])
def test_new_policy_cuts_what_it_denies(datapath: Datapath, v: int, reply_first: bool) -> None:
    datapath.policy(allow(OUT, PEER_IDENTITY) | allow(IN, 0))
    there, back = outward(v, p.TCP, p.tcp(1000, 80, p.ACK)), inward(v, p.TCP, p.tcp(80, 1000, p.ACK))
    datapath.send(outward(v, p.TCP, p.tcp(1000, 80)))
    assert datapath.receive(back).passed
    datapath.change_policy(allow(IN, 0))
    order = [(datapath.receive, back), (datapath.send, there)]
    for run, packet in order if reply_first else reversed(order):
        outcome = run(packet)
        assert not outcome.passed
        assert outcome.drop_reason == 133
    for _ in range(3):  # late packets of the peer must not pass as a new connection and revive the old one
        assert not datapath.receive(back).passed
        assert not datapath.send(there).passed


@family
def test_new_policy_keeps_what_it_allows(datapath: Datapath, v: int) -> None:
    datapath.policy(allow(OUT, PEER_IDENTITY))
    datapath.send(outward(v, p.TCP, p.tcp(1000, 80)))
    datapath.change_policy(allow(OUT, PEER_IDENTITY, one_port(p.TCP, 80)))
    assert datapath.receive(inward(v, p.TCP, p.tcp(80, 1000, p.ACK))).types() == [VERDICT, TRACE]
    assert datapath.send(outward(v, p.TCP, p.tcp(1000, 80, p.ACK))).types() == []
    [entry] = datapath.connections().values()
    assert entry.policy_generation == datapath.generation


@family
@protocols
@pytest.mark.parametrize("reply_first", [False, True], ids=["original", "reply"])
@pytest.mark.parametrize("inwards", [False, True], ids=["egress", "ingress"])
def test_judged_again_by_the_original_tuple(
    datapath: Datapath, v: int, protocol: int, reply_first: bool, inwards: bool
) -> None:
    """Whoever sends first after a change: the port that counts is the one the connection was opened to."""
    direction, there, back = (IN, inward, outward) if inwards else (OUT, outward, inward)
    runs = {outward: datapath.send, inward: datapath.receive}

    def packet(make: Callable[..., bytes], source: int, destination: int) -> bytes:
        if protocol == p.TCP:
            return make(v, protocol, p.tcp(source, destination, p.ACK))
        return make(v, protocol, BODY[protocol](source, destination))

    datapath.policy(allow(direction, PEER_IDENTITY))
    assert runs[there](packet(there, 1000, 80)).passed
    assert runs[back](packet(back, 80, 1000)).passed
    for port, passes in ((80, True), (1000, False)):
        datapath.change_policy(allow(direction, PEER_IDENTITY, one_port(protocol, port)))
        order = [(back, 80, 1000), (there, 1000, 80)]
        for make, source, destination in order if reply_first else reversed(order):
            assert runs[make](packet(make, source, destination)).passed == passes


@family
def test_unchanged_generation_skips_policy(datapath: Datapath, v: int) -> None:
    datapath.policy(allow(OUT, PEER_IDENTITY))
    datapath.send(outward(v, p.TCP, p.tcp(1000, 80)))
    datapath.policy({})  # switched, not yet raised
    assert datapath.send(outward(v, p.TCP, p.tcp(1000, 80, p.ACK))).passed


@family
def test_judged_again_with_the_identity_of_now(datapath: Datapath, v: int) -> None:
    datapath.policy(allow(OUT, PEER_IDENTITY))
    datapath.send(outward(v, p.UDP, p.udp(1000, 53)))
    datapath.identity(f"{PEER[v]}/{32 if v == 4 else 128}", 7000)
    assert datapath.send(outward(v, p.UDP, p.udp(1000, 53))).passed
    datapath.change_policy(allow(OUT, PEER_IDENTITY))
    assert not datapath.send(outward(v, p.UDP, p.udp(1000, 53))).passed


@family
def test_a_learned_connection_keeps_its_identity(datapath: Datapath, v: int) -> None:
    name = 16_777_300
    datapath.policy(allow(OUT, name))
    datapath.learn(PEER[v], name, expiry_ns=time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 60 * 10**9)
    assert datapath.send(outward(v, p.UDP, p.udp(1000, 53))).passed
    datapath.clear("axoneme_learned")
    datapath.change_policy(allow(OUT, name) | allow(OUT, 1))
    assert datapath.send(outward(v, p.UDP, p.udp(1000, 53))).passed
    datapath.change_policy(allow(OUT, 1))
    assert not datapath.send(outward(v, p.UDP, p.udp(1000, 53))).passed


@family
def test_two_endpoints_of_one_node(datapath: Datapath, v: int) -> None:
    """The sender's egress never opens the receiver's ingress, nor the other way round."""
    packet = outward(v, p.TCP, p.tcp(1000, 80))
    answer = inward(v, p.TCP, p.tcp(80, 1000, p.SYN | p.ACK))
    datapath.identity(f"{POD[v]}/{32 if v == 4 else 128}", POD_IDENTITY)
    receiver = {"endpoint_id": 78, "identity": PEER_IDENTITY, "ipv4": PEER[4], "ipv6": PEER[6]}
    datapath.policy(allow(OUT, PEER_IDENTITY))
    datapath.policy({}, endpoint_id=78)
    assert datapath.send(packet).passed
    datapath.endpoint(**receiver)
    assert datapath.receive(packet).drop_reason == 133
    datapath.policy(allow(IN, POD_IDENTITY), endpoint_id=78)
    assert datapath.receive(packet).passed
    assert {key.direction for key in datapath.connections()} == {1, 2}
    assert datapath.send(answer).passed
    datapath.endpoint()
    assert datapath.receive(answer).passed


def every_length() -> list[tuple[str, bytes]]:
    frames = [("echo", outward(4, p.ICMP, p.icmp(8, 1, b"")))]
    for v in (4, 6):
        for protocol, body in BODY.items():
            frames.append((f"{protocol}-ipv{v}", outward(v, protocol, body(1000, 80))))
        frames.append((f"fragment-ipv{v}", outward(v, p.UDP, p.udp(1, 53), more=True)))
    frames.append(("options", outward(4, p.TCP, p.tcp(1, 80), options=bytes([1]) * 8)))
    frames.append(("extension", outward(6, p.TCP, p.tcp(1, 80), options=p.extension(60))))
    return frames


@pytest.mark.parametrize(("name", "frame"), every_length(), ids=lambda x: x if isinstance(x, str) else "")
def test_truncated_at_every_length(datapath: Datapath, name: str, frame: bytes) -> None:
    datapath.policy(allow(OUT, 0) | allow(IN, 0))
    if "fragment" not in name:
        assert datapath.send(frame).passed
    datapath.forget_connections()
    for length in range(14, len(frame)):
        outcome = datapath.send(frame[:length])
        assert not outcome.passed, length
        assert outcome.drop_reason in (None, 132, 134, 135, 156), length


def frame4(**changes: int) -> bytes:
    """An IPv4 TCP frame with single bytes changed: `b<offset in the IP packet>` = value."""
    frame = bytearray(outward(4, p.TCP, p.tcp(1, 80)))
    for name, value in changes.items():
        frame[14 + int(name[1:])] = value
    return bytes(frame)


@pytest.mark.parametrize(
    "frame",
    [
        frame4(b0=0x55),  # version 5
        frame4(b0=0x44),  # header of 16 bytes
        frame4(b0=0x4F),  # header longer than the packet
        frame4(b3=19),  # total length below the header's
        frame4(b3=200),  # total length beyond the frame
        frame4(b32=0x40),  # TCP header of 16 bytes
        frame4(b32=0xF0),  # TCP header beyond the packet
    ],
)
def test_malformed_ipv4(datapath: Datapath, frame: bytes) -> None:
    datapath.policy(allow(OUT, 0))
    assert datapath.send(frame).drop_reason in (134, 135)


@pytest.mark.parametrize(
    ("protocol", "reason"), [(2, 137), (47, 137), (50, 137), (p.ICMP6, 137), (0, 137), (255, 137)]
)
def test_unknown_transport_of_ipv4(datapath: Datapath, protocol: int, reason: int) -> None:
    datapath.policy(allow(OUT, 0))
    assert datapath.send(outward(4, protocol, bytes(40))).drop_reason == reason


@pytest.mark.parametrize(("protocol", "reason"), [(2, 137), (47, 137), (59, 137), (p.ICMP, 137)])
def test_unknown_transport_of_ipv6(datapath: Datapath, protocol: int, reason: int) -> None:
    datapath.policy(allow(OUT, 0))
    assert datapath.send(outward(6, protocol, bytes(40))).drop_reason == reason


@pytest.mark.parametrize(
    ("options", "passes"),
    [
        (p.extension(0), True),
        (p.extension(60, body=bytes(22)), True),
        (p.extension(43), True),
        (p.extension(43, body=bytes([0, 1, 0, 0, 0, 0])), False),  # segments left
        (bytes([60, 200]) + bytes(6), False),  # longer than the packet
    ],
)
def test_extension_headers(datapath: Datapath, options: bytes, passes: bool) -> None:
    datapath.policy(allow(OUT, 0, one_port(p.TCP, 80)))
    outcome = datapath.send(outward(6, p.TCP, p.tcp(1, 80), options=options))
    assert outcome.passed == passes
    if not passes:
        assert outcome.drop_reason == 156


@pytest.mark.parametrize(("count", "passes"), [(8, True), (9, False)])
def test_extension_headers_are_bounded(datapath: Datapath, count: int, passes: bool) -> None:
    datapath.policy(allow(OUT, 0, one_port(p.TCP, 80)))
    chain = bytes([60, 0, *bytes(6)]) * (count - 1) + bytes([p.TCP, 0, *bytes(6)])
    assert datapath.send(outward(6, 60, chain + p.tcp(1, 80))).passed == passes


@pytest.mark.parametrize(
    ("ethertype", "reason"), [(0x8100, 139), (0x88CC, 139), (0x0100, 166), (0x8847, 139)]
)
def test_other_link_layers_are_dropped(datapath: Datapath, ethertype: int, reason: int) -> None:
    datapath.policy(allow(OUT, 0))
    outcome = datapath.send(p.ethernet(bytes(64), ethertype=ethertype))
    assert not outcome.passed
    assert outcome.drop_reason in (reason, 182)


def test_arp_passes_even_when_locked(datapath: Datapath) -> None:
    assert datapath.send(p.ethernet(bytes(28), ethertype=0x0806)).passed
    assert datapath.receive(p.ethernet(bytes(28), ethertype=0x0806)).passed


@pytest.mark.parametrize(
    ("kind", "hop_limit", "sent", "received"),
    [(133, 255, True, True), (134, 255, False, True), (135, 255, True, True), (136, 255, True, True)]
    + [(kind, 64, False, False) for kind in (133, 134, 135, 136)]
    + [(137, 255, False, False), (143, 255, False, False)],
)
def test_neighbour_discovery(
    datapath: Datapath, kind: int, hop_limit: int, sent: bool, received: bool
) -> None:
    body = p.icmp(kind, payload=bytes(16))
    frame = p.packet("fe80::1", "ff02::1", p.ICMP6, body, hop_limit=hop_limit)
    assert datapath.send(frame).passed == sent
    assert datapath.receive(frame).passed == received
    extended = p.packet("fe80::1", "ff02::1", p.ICMP6, body, hop_limit=255, more=True)
    assert not datapath.receive(extended).passed


@pytest.mark.parametrize(
    ("kind", "hop_limit", "destination", "passes"),
    [(kind, 1, "ff02::16", True) for kind in (130, 131, 132, 143)]
    + [(143, 2, "ff02::16", False), (143, 1, "ff05::16", False), (143, 1, "fd00:2::1", False)]
    + [(128, 1, "ff02::16", False)],
)
def test_listener_discovery_of_the_link_is_not_judged(
    datapath: Datapath, kind: int, hop_limit: int, destination: str, passes: bool
) -> None:
    datapath.policy({})
    body = p.icmp(kind, payload=bytes(24))
    frame = p.packet("fe80::2", destination, p.ICMP6, body, hop_limit=hop_limit)
    for outcome in (datapath.send(frame), datapath.receive(frame)):
        assert outcome.passed == passes
        assert bool(len(outcome.events)) != passes


def test_full_ring_is_counted(datapath: Datapath) -> None:
    datapath.policy({})
    before = datapath.metric(layout.lost_events_key())[0]
    program = datapath.programs["axoneme_from_ep"]
    frame = outward(4, p.UDP, p.udp(1, 53))
    events = 2 * 25_000
    program.test_run(frame, repeat=25_000)
    kept = len(datapath.drain())
    lost = datapath.metric(layout.lost_events_key())[0] - before
    assert kept + lost == events
    assert lost > 0


def test_random_damage_never_opens_a_default_deny(datapath: Datapath) -> None:
    rng = random.Random(1)
    datapath.policy({})
    for _ in range(scaled(2_000, 50_000)):
        body = p.tcp(1, 80, payload=bytes(30))
        frame = bytearray(outward(rng.choice((4, 6)), rng.choice((p.TCP, p.UDP)), body))
        for _ in range(rng.randint(1, 6)):
            frame[rng.randrange(14, len(frame))] = rng.randrange(256)
        assert not datapath.send(bytes(frame[: rng.randint(20, len(frame))])).passed, frame.hex()


@family
@pytest.mark.parametrize(
    ("own", "anyone", "winner"),
    [
        (PortBlock(p.TCP, 0, 0), one_port(p.TCP, 80), 2),  # equal precedence: the longer block
        (one_port(p.TCP, 80), PortBlock(p.TCP, 0, 0), 1),
        (one_port(p.TCP, 80), one_port(p.TCP, 80), 1),  # equal blocks: the identity's entry
        (ANY, ANY, 1),
    ],
)
def test_ties_of_precedence(
    datapath: Datapath, v: int, own: PortBlock, anyone: PortBlock, winner: int
) -> None:
    keys = {MapKey(OUT, PEER_IDENTITY, own): 1, MapKey(OUT, 0, anyone): 2}
    entry = MapEntry(action=Action.ALLOW, precedence=0xFEFFFF01, origins=frozenset({1}))
    datapath.policy(dict.fromkeys(keys, entry), cookies=keys)
    assert datapath.send(outward(v, p.TCP, p.tcp(1, 80))).event(VERDICT)["cookie"] == winner
