"""An endpoint that is its own backend: its packet turns round and comes from the loopback address."""

from __future__ import annotations

import pytest

from axoneme.lib.policy.model import Direction
from shim.flows import record
from shim.maps import lb
from tests.bpf import packets as p
from tests.bpf.frames import error_about, read, sealed
from tests.bpf.harness import PEER, PEER_IDENTITY, POD, Datapath, allow
from tests.bpf.servicescene import FRONTEND, LOOPBACK_ADDRESS, OTHER_FRONTEND, Services

pytestmark = pytest.mark.root

family = pytest.mark.parametrize("v", [4, 6], ids=["ipv4", "ipv6"])
ported = pytest.mark.parametrize("protocol", [p.TCP, p.UDP], ids=["tcp", "udp"])
MARK_HAIRPIN = 0xA200_0000
PORT = 8080


@pytest.fixture
def services(datapath: Datapath) -> Services:
    """No policy lets anything pass: what an endpoint says to itself is nobody's business."""
    datapath.policy(allow(Direction.EGRESS, 4242))
    found = Services(datapath)
    found.node()
    return found


def body(protocol: int, source: int, destination: int, flags: int = p.SYN) -> bytes:
    return p.tcp(source, destination, flags) if protocol == p.TCP else p.udp(source, destination)


def request(v: int, protocol: int, source: int = 1000) -> bytes:
    return sealed(POD[v], FRONTEND[v], protocol, body(protocol, source, 80))


@family
@ported
def test_there_and_back(datapath: Datapath, services: Services, v: int, protocol: int) -> None:
    services.add(FRONTEND[v], protocol, [(POD[v], PORT)])
    sent = datapath.send(request(v, protocol))
    assert sent.redirected
    assert sent.mark == MARK_HAIRPIN
    there = read(sent.frame)
    assert there.ends == (LOOPBACK_ADDRESS[v], 1000, POD[v], PORT)
    assert there.checksums_right
    assert (sent.frame[:6], sent.frame[6:12]) == (p.POD_MAC, p.HOST_MAC)
    came = datapath.receive(sent.frame, mark=sent.mark)
    assert came.passed
    assert came.mark == 0
    assert came.frame == sent.frame
    back = datapath.send(sealed(POD[v], LOOPBACK_ADDRESS[v], protocol, body(protocol, PORT, 1000, p.ACK)))
    assert back.redirected
    seen = read(back.frame)
    assert seen.ends == (FRONTEND[v], 80, POD[v], 1000)
    assert seen.checksums_right
    assert datapath.receive(back.frame, mark=back.mark).passed
    assert datapath.connections() == {}
    assert sent.types() == ([record.TRACE] if protocol == p.TCP else [])


@family
@ported
def test_without_the_mark_it_is_judged(datapath: Datapath, services: Services, v: int, protocol: int) -> None:
    services.add(FRONTEND[v], protocol, [(POD[v], PORT)])
    sent = datapath.send(request(v, protocol))
    assert not datapath.receive(sent.frame).passed


@family
@ported
def test_nobody_talks_to_the_loopback_address(
    datapath: Datapath, services: Services, v: int, protocol: int
) -> None:
    frame = sealed(POD[v], LOOPBACK_ADDRESS[v], protocol, body(protocol, PORT, 1000))
    assert datapath.send(frame).drop_reason == 167


@family
@ported
def test_two_frontends_from_one_port(datapath: Datapath, services: Services, v: int, protocol: int) -> None:
    services.add(FRONTEND[v], protocol, [(POD[v], PORT)])
    services.frontend(OTHER_FRONTEND[v], protocol, slots=1)
    datapath.send(request(v, protocol))
    other = datapath.send(sealed(POD[v], OTHER_FRONTEND[v], protocol, body(protocol, 1000, 80)))
    port = read(other.frame).source_port
    assert port != 1000
    back = datapath.send(sealed(POD[v], LOOPBACK_ADDRESS[v], protocol, body(protocol, PORT, port)))
    assert read(back.frame).ends == (OTHER_FRONTEND[v], 80, POD[v], 1000)


@family
@ported
def test_errors(datapath: Datapath, services: Services, v: int, protocol: int) -> None:
    services.add(FRONTEND[v], protocol, [(POD[v], PORT)])
    sent = datapath.send(request(v, protocol))
    complaint = datapath.send(error_about(POD[v], sent.frame))
    assert complaint.redirected
    seen = read(complaint.frame)
    assert (seen.source, seen.destination, seen.checksums_right) == (FRONTEND[v], POD[v], True)
    assert seen.quote is not None
    assert seen.quote.ends == (POD[v], 1000, FRONTEND[v], 80)


@family
@ported
def test_without_a_loopback_address(datapath: Datapath, services: Services, v: int, protocol: int) -> None:
    datapath.maps["axoneme_node"].update(bytes(4), bytes(datapath.maps["axoneme_node"].value_size))
    services.add(FRONTEND[v], protocol, [(POD[v], PORT)])
    assert datapath.send(request(v, protocol)).drop_reason == 167


@family
def test_one_of_two_backends(datapath: Datapath, services: Services, v: int) -> None:
    """The endpoint and a peer serve together: the packets to the peer are judged, those to itself are not."""
    datapath.identity(f"{PEER[v]}/{32 if v == 4 else 128}", PEER_IDENTITY)
    services.add(FRONTEND[v], p.TCP, [(POD[v], PORT), (PEER[v], PORT)])
    outcomes = [datapath.send(request(v, p.TCP, source)) for source in range(2000, 2060)]
    turned = [one for one in outcomes if one.redirected]
    assert 0 < len(turned) < len(outcomes)
    assert {one.drop_reason for one in outcomes if not one.redirected} == {133}
    assert {entry.flags & lb.NAT_HAIRPIN for entry in services.translations().values()} == {lb.NAT_HAIRPIN}
