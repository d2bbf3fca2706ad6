"""What is redirected, and which answers are the proxy's: the branches, by test runs.

A test run has no socket to find: what goes to the proxy ends with reason 180, after the verdict that says so.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from axoneme.lib.bpf.create import create_map
from axoneme.lib.policy.model import Action, Direction, MapEntry, MapKey, PortBlock, Redirect, one_port
from shim.flows import record
from shim.maps import base, layout, node
from shim.maps.proxied import TCP, UDP, ProxiedPort, words_of
from tests.bpf import packets as p
from tests.bpf.frames import error_about, sealed
from tests.bpf.harness import PEER, PEER_IDENTITY, POD, POD_ID, Datapath, allow
from tests.bpf.nodeharness import Node
from tests.bpf.nodescene import NODE, set_scene
from tests.bpf.nodescene import families as nodes_families

pytestmark = pytest.mark.root

IN, OUT = Direction.INGRESS, Direction.EGRESS
family = pytest.mark.parametrize("v", [4, 6], ids=["ipv4", "ipv6"])
transports = pytest.mark.parametrize("protocol", [p.UDP, p.TCP], ids=["udp", "tcp"])
ANY = PortBlock(0, 0, 0)
PORT, PROXY_PORT = 1000, 10_053
MARK_TO_PROXY, MARK_FROM_PROXY = 0xA300_0000, 0xA400_0000
REDIRECTED, FORWARDED, TO_PROXY = 5, 1, 1
EVENTS = (record.POLICY_VERDICT, record.TRACE, record.DROP)


def body(protocol: int, source: int, destination: int, flags: int = p.SYN) -> bytes:
    return p.tcp(source, destination, flags) if protocol == p.TCP else p.udp(source, destination)


def redirect(
    datapath: Datapath,
    direction: Direction = OUT,
    ports: PortBlock = ANY,
    *,
    proxy_port: int = PROXY_PORT,
    audit: bool = False,
) -> None:
    """A policy that redirects, and the flags of an endpoint that only reports."""
    entry = MapEntry(action=Action.REDIRECT, precedence=0xFEFFFF86, redirect=Redirect("dns"), audit=audit)
    key = MapKey(direction, 0, ports)
    inner = create_map(layout.POLICY_INNER)
    raw = layout.policy_entry(key, entry, cookie=0, proxy_port=proxy_port)
    inner.update(layout.policy_key(key), raw)
    datapath.maps["axoneme_policy"].set_inner(layout.policy_outer_key(POD_ID), inner)
    inner.close()
    datapath.generation += 1
    datapath.endpoint(flags=layout.ENDPOINT_AUDIT if audit else 0)
    for one in (4, 6):
        datapath.identity(f"{PEER[one]}/{32 if one == 4 else 128}", PEER_IDENTITY)


def connection(
    v: int, protocol: int, *, proxy_port: int = PROXY_PORT, endpoint_id: int = POD_ID, **fields: int
) -> tuple[bytes, bytes]:
    """The pod's question to port 53 of the peer, as conntrack has it."""
    key = layout.CtKey(
        base.address_bytes(POD[v]),
        base.address_bytes(PEER[v]),
        PORT.to_bytes(2, "big"),
        (53).to_bytes(2, "big"),
        protocol,
        fields.pop("direction", 2),
        endpoint_id,
    )
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    entry = layout.CtEntry(now, fields.pop("generation", 1), PEER_IDENTITY, 0, 1, 0, 0)
    return key.pack(), replace(entry, **fields, proxy_port_be=proxy_port.to_bytes(2, "big")).pack()


@family
@transports
def test_a_new_connection_and_each_packet_after_it(datapath: Datapath, v: int, protocol: int) -> None:
    redirect(datapath, ports=one_port(protocol, 53))
    first = datapath.send(sealed(POD[v], PEER[v], protocol, body(protocol, PORT, 53)))
    assert first.drop_reason == 180
    assert first.types() == list(EVENTS)
    verdict, trace = first.event(record.POLICY_VERDICT), first.event(record.TRACE)
    assert (verdict["verdict"], verdict["match_type"]) == (REDIRECTED, 3)
    assert (trace["verdict"], trace["sub_type"]) == (REDIRECTED, TO_PROXY)
    ((_, entry),) = datapath.connections().items()
    assert int.from_bytes(entry.proxy_port_be, "big") == PROXY_PORT
    again = datapath.send(sealed(POD[v], PEER[v], protocol, body(protocol, PORT, 53, p.ACK)))
    assert (again.drop_reason, again.types()) == (180, [record.DROP])
    other = datapath.send(sealed(POD[v], PEER[v], protocol, body(protocol, PORT + 1, 53)))
    assert other.drop_reason == 180, "a remembered decision is the same"
    assert other.event(record.POLICY_VERDICT)["verdict"] == REDIRECTED


@family
@transports
def test_judged_again(datapath: Datapath, v: int, protocol: int) -> None:
    frame = sealed(POD[v], PEER[v], protocol, body(protocol, PORT, 53, p.ACK))
    datapath.policy(allow(OUT, 0))
    datapath.identity(f"{PEER[v]}/{32 if v == 4 else 128}", PEER_IDENTITY)
    assert datapath.send(frame).passed
    redirect(datapath, ports=one_port(protocol, 53))
    now = datapath.send(frame)
    assert now.drop_reason == 180
    assert now.event(record.POLICY_VERDICT)["verdict"] == REDIRECTED
    datapath.change_policy(allow(OUT, 0))
    assert datapath.send(frame).passed
    assert datapath.send(frame).passed


@family
@transports
@pytest.mark.parametrize("audit", [False, True])
def test_without_a_port_it_is_a_denial_that_audit_does_not_lift(
    datapath: Datapath, v: int, protocol: int, audit: bool
) -> None:
    redirect(datapath, proxy_port=0, audit=audit)
    outcome = datapath.send(sealed(POD[v], PEER[v], protocol, body(protocol, PORT, 53)))
    assert outcome.drop_reason == 180
    assert outcome.event(record.POLICY_VERDICT)["verdict"] == 2
    assert datapath.connections() == {}


@family
@pytest.mark.parametrize("audit", [False, True])
def test_audit_lets_nothing_pass_the_proxy_by(datapath: Datapath, v: int, audit: bool) -> None:
    redirect(datapath, audit=audit)
    outcome = datapath.send(sealed(POD[v], PEER[v], p.UDP, p.udp(PORT, 53)))
    assert outcome.drop_reason == 180
    assert not outcome.passed


@family
def test_only_tcp_and_udp(datapath: Datapath, v: int) -> None:
    redirect(datapath)
    icmp = (p.ICMP, p.icmp(8, 7)) if v == 4 else (p.ICMP6, p.icmp(128, 7))
    for protocol, payload in (icmp, (p.SCTP, p.sctp(PORT, 53))):
        outcome = datapath.send(sealed(POD[v], PEER[v], protocol, payload))
        assert outcome.drop_reason == 180
        assert outcome.event(record.POLICY_VERDICT)["verdict"] == 2
    assert datapath.connections() == {}


@family
@transports
def test_only_what_the_pod_sends(datapath: Datapath, v: int, protocol: int) -> None:
    redirect(datapath, IN)
    outcome = datapath.receive(sealed(PEER[v], POD[v], protocol, body(protocol, PORT, 53)))
    assert outcome.drop_reason == 180
    assert outcome.event(record.POLICY_VERDICT)["verdict"] == 2
    assert datapath.connections() == {}


@family
def test_fragments_have_a_reason_of_their_own(datapath: Datapath, v: int) -> None:
    redirect(datapath)
    datagram = p.udp(PORT, 53, bytes(600))
    parts = (
        p.packet(POD[v], PEER[v], p.UDP, datagram[:304], more=True, fragment_id=3),
        p.packet(POD[v], PEER[v], p.UDP, datagram[304:], fragment=304, fragment_id=3),
    )
    assert [datapath.send(one).drop_reason for one in parts] == [157, 157]


@family
def test_an_error_about_an_answer_stays_on_the_node(datapath: Datapath, v: int) -> None:
    """A pod that closed its socket says so to whom it takes for the server."""
    redirect(datapath)
    datapath.send(sealed(POD[v], PEER[v], p.UDP, p.udp(PORT, 53)))
    outcome = datapath.send(error_about(POD[v], sealed(PEER[v], POD[v], p.UDP, p.udp(53, PORT))))
    assert outcome.passed
    assert outcome.mark == MARK_TO_PROXY
    assert outcome.event(record.TRACE)["verdict"] == REDIRECTED


@family
@transports
def test_an_answer_at_the_pods_interface(datapath: Datapath, v: int, protocol: int) -> None:
    """The proxy's goes to the pod; any other turns round, and conntrack hears nothing of it."""
    redirect(datapath, ports=one_port(protocol, 53))
    datapath.send(sealed(POD[v], PEER[v], protocol, body(protocol, PORT, 53)))
    before = datapath.connections()
    answer = sealed(PEER[v], POD[v], protocol, body(protocol, 53, PORT, p.SYN | p.ACK))
    turned = datapath.receive(answer)
    assert (turned.redirected, turned.mark, turned.types()) == (True, MARK_TO_PROXY, [])
    assert turned.frame == bytes(6) + answer[6:]
    assert datapath.connections() == before
    proxys = datapath.receive(answer, mark=MARK_FROM_PROXY)
    assert (proxys.passed, proxys.mark) == (True, 0)
    assert proxys.event(record.TRACE)["verdict"] == FORWARDED
    assert all(datapath.receive(answer, mark=one).redirected for one in (0xA100_1234, MARK_TO_PROXY))


@family
@transports
@pytest.mark.parametrize("host_routing", [False, True])
@pytest.mark.parametrize("watched", [False, True])
def test_an_answer_of_a_pod_of_this_node(
    datapath: Datapath, v: int, protocol: int, host_routing: bool, watched: bool
) -> None:
    """Before it is handed over; without flag and bit too where this program would hand it over itself."""
    datapath.policy(allow(OUT, 0))
    datapath.identity(f"{POD[v]}/{32 if v == 4 else 128}", 7001)
    datapath.endpoint(ipv4=PEER[4], ipv6=PEER[6], endpoint_id=78)
    datapath.policy(allow(OUT, 0), endpoint_id=78)
    datapath.policy({}, endpoint_id=POD_ID)
    datapath.endpoint(ifindex=4_000_000)
    local = node.LocalEntry(4_000_000, POD_ID, bytes(6), bytes(6))
    datapath.maps["axoneme_local"].update(base.address_bytes(POD[v]), local.pack())
    datapath.maps["axoneme_ct"].update(*connection(v, protocol, generation=datapath.generation))
    flags = (node.NODE_HOST_ROUTING if host_routing else 0) | (node.NODE_PROXY if watched else 0)
    datapath.maps["axoneme_node"].update(base.number_key(0), node.NodeConfig(flags=flags).pack())
    words = words_of([ProxiedPort(protocol, 53)])
    datapath.maps["axoneme_proxied"].update_batch(list(words.items()))
    outcome = datapath.send(sealed(PEER[v], POD[v], protocol, body(protocol, 53, PORT, p.SYN | p.ACK)))
    datapath.maps["axoneme_proxied"].update_batch([(key, bytes(8)) for key in words])
    assert outcome.passed
    assert outcome.mark == (MARK_TO_PROXY if host_routing or watched else 0)


@pytest.fixture(scope="module")
def machine(compiled: None) -> Iterator[Node]:
    made = Node(f"proxied-{os.getpid()}", ("netdev.o", "host.o"))
    yield made
    made.close()


@pytest.fixture
def uplink(machine: Node, request: pytest.FixtureRequest) -> Node:
    """A node that watches port 53 of UDP."""
    set_scene(machine, request.getfixturevalue("family"))
    machine.configure(flags=machine.config.flags | node.NODE_PROXY)
    machine.maps["axoneme_proxied"].update_batch(list(words_of([ProxiedPort(UDP, 53)]).items()))
    return machine


@nodes_families
@pytest.mark.parametrize(
    ("known", "packet", "expected"),
    [
        ({}, {}, True),
        ({"proxy_port": 0}, {}, False),
        ({"endpoint_id": 76}, {}, False),
        ({"direction": 1}, {}, False),
        ({"last_seen_ns": 1}, {}, False),
        ({}, {"source": 54}, False),
        ({}, {"destination": PORT + 1}, False),
        ({"protocol": TCP}, {"protocol": TCP}, False),
        ({}, {"to_another": 1}, False),
        (None, {}, False),
    ],
    ids=[
        *("answer", "not-redirected", "another-endpoint", "other-direction", "expired", "other-port"),
        *("other-client-port", "bit-of-udp-only", "no-endpoint", "unknown"),
    ],
)
def test_an_answer_from_the_network(
    uplink: Node, family: int, known: dict[str, int] | None, packet: dict[str, int], expected: bool
) -> None:
    if known is not None:
        held = {"protocol": UDP, **known}
        if held.get("last_seen_ns") and time.clock_gettime_ns(time.CLOCK_MONOTONIC) < 70 * 10**9:
            pytest.skip("the machine's clock is too young for an entry that has expired")
        uplink.maps["axoneme_ct"].update(*connection(family, held.pop("protocol"), **held))
    protocol = packet.get("protocol", UDP)
    ports = packet.get("source", 53), packet.get("destination", PORT)
    target = {4: "10.1.0.6", 6: "fd00:10:1::6"}[family] if "to_another" in packet else POD[family]
    frame = sealed(PEER[family], target, protocol, body(protocol, *ports))
    ran = uplink.run("from_netdev", frame)
    assert (ran.passed, ran.mark) == (True, MARK_TO_PROXY if expected else 0)
    uplink.configure(flags=uplink.config.flags & ~node.NODE_PROXY)
    assert uplink.run("from_netdev", frame).mark == 0


@nodes_families
def test_an_answer_in_fragments_from_the_network(uplink: Node, family: int) -> None:
    uplink.maps["axoneme_ct"].update(*connection(family, UDP))
    datagram = p.udp(53, PORT, bytes(600))
    first = p.packet(PEER[family], POD[family], p.UDP, datagram[:304], more=True, fragment_id=3)
    second = p.packet(PEER[family], POD[family], p.UDP, datagram[304:], fragment=304, fragment_id=3)
    assert [uplink.run("from_netdev", one).mark for one in (first, second)] == [MARK_TO_PROXY] * 2


@nodes_families
@transports
def test_nobody_takes_what_the_node_itself_sends(uplink: Node, family: int, protocol: int) -> None:
    entry = MapEntry(action=Action.REDIRECT, precedence=0xFEFFFF86, redirect=Redirect("dns"))
    inner = create_map(layout.POLICY_INNER)
    key = MapKey(OUT, 0, one_port(protocol, 53))
    inner.update(layout.policy_key(key), layout.policy_entry(key, entry, cookie=0, proxy_port=PROXY_PORT))
    uplink.maps["axoneme_policy"].set_inner(layout.policy_outer_key(0), inner)
    inner.close()
    uplink.configure(flags=uplink.config.flags | node.NODE_HOST_FIREWALL)
    ran = uplink.run("host_out", sealed(NODE[family], PEER[family], protocol, body(protocol, PORT, 53)))
    assert ran.drop_reason == 180
    assert uplink.connections() == {}
