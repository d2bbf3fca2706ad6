"""Packets that pass the node's stack by: the receiver's policy has judged them before they turn."""

from __future__ import annotations

import pytest

from axoneme.lib.policy.model import Direction, one_port
from shim.flows import record
from shim.maps import base, node
from tests.bpf import packets as p
from tests.bpf.frames import error_about, read, sealed
from tests.bpf.harness import PEER, PEER_IDENTITY, POD, POD_ID, POD_IDENTITY, Datapath, Outcome, allow
from tests.bpf.servicescene import FRONTEND, Services

pytestmark = pytest.mark.root

IN, OUT = Direction.INGRESS, Direction.EGRESS
family = pytest.mark.parametrize("v", [4, 6], ids=["ipv4", "ipv6"])
protocols = pytest.mark.parametrize("protocol", [p.TCP, p.UDP, p.SCTP], ids=["tcp", "udp", "sctp"])
RECEIVER_ID, RECEIVER_IFINDEX = 78, 4_000_000  # an interface that does not exist
RECEIVER_MAC, GATEWAY_MAC = bytes.fromhex("0200000000cc"), bytes.fromhex("0200000000dd")
DROP, TRACE, VERDICT = record.DROP, record.TRACE, record.POLICY_VERDICT


def body(protocol: int, source: int, destination: int, flags: int = p.SYN) -> bytes:
    if protocol == p.TCP:
        return p.tcp(source, destination, flags)
    return p.udp(source, destination) if protocol == p.UDP else p.sctp(source, destination)


@pytest.fixture
def services(datapath: Datapath) -> Services:
    """A second endpoint of this node, with the addresses of the peer, and host routing on."""
    found = Services(datapath)
    found.node(flags=node.NODE_HOST_ROUTING)
    datapath.endpoint(
        endpoint_id=RECEIVER_ID,
        identity=PEER_IDENTITY,
        ipv4=PEER[4],
        ipv6=PEER[6],
        ifindex=RECEIVER_IFINDEX,
    )
    for v in (4, 6):
        bits = 32 if v == 4 else 128
        datapath.identity(f"{PEER[v]}/{bits}", PEER_IDENTITY)
        datapath.identity(f"{POD[v]}/{bits}", POD_IDENTITY)
        entry = node.LocalEntry(RECEIVER_IFINDEX, RECEIVER_ID, RECEIVER_MAC, GATEWAY_MAC)
        datapath.maps["axoneme_local"].update(base.address_bytes(PEER[v]), entry.pack())
    datapath.policy(allow(OUT, 0))
    datapath.policy(allow(IN, POD_IDENTITY), endpoint_id=RECEIVER_ID)
    return found


def sent(datapath: Datapath, v: int, protocol: int, *, flags: int = p.SYN, **extra: object) -> Outcome:
    return datapath.send(sealed(POD[v], PEER[v], protocol, body(protocol, 1000, 80, flags), **extra))


@family
@protocols
def test_to_an_endpoint_of_this_node(datapath: Datapath, services: Services, v: int, protocol: int) -> None:
    outcome = sent(datapath, v, protocol)
    assert outcome.redirected
    assert (outcome.frame[:6], outcome.frame[6:12]) == (RECEIVER_MAC, GATEWAY_MAC)
    seen = read(outcome.frame)
    assert (seen.ends, seen.hops, seen.checksums_right) == ((POD[v], 1000, PEER[v], 80), 63, True)
    assert outcome.types() == [VERDICT, TRACE, VERDICT, TRACE]
    assert [int(e["endpoint_id"]) for e in outcome.events] == [POD_ID, POD_ID, RECEIVER_ID, RECEIVER_ID]
    assert [int(e["direction"]) for e in outcome.events] == [2, 2, 1, 1]
    assert {(int(e["source_identity"]), int(e["destination_identity"])) for e in outcome.events} == {
        (POD_IDENTITY, PEER_IDENTITY)
    }
    assert {(key.direction, key.endpoint_id) for key in datapath.connections()} == {
        (2, POD_ID),
        (1, RECEIVER_ID),
    }
    again = sent(datapath, v, protocol, flags=p.ACK)
    assert again.redirected
    assert again.types() == []


@family
@protocols
def test_the_receivers_policy_runs_first(
    datapath: Datapath, services: Services, v: int, protocol: int
) -> None:
    datapath.policy(allow(IN, POD_IDENTITY, one_port(protocol, 81)), endpoint_id=RECEIVER_ID)
    outcome = sent(datapath, v, protocol)
    assert not outcome.passed
    assert not outcome.redirected
    assert outcome.drop_reason == 133
    dropped = outcome.event(DROP)
    assert (dropped["endpoint_id"], dropped["direction"]) == (RECEIVER_ID, 1)


@family
def test_a_locked_receiver(datapath: Datapath, services: Services, v: int) -> None:
    datapath.clear("axoneme_policy")
    datapath.policy(allow(OUT, 0))
    assert sent(datapath, v, p.TCP).drop_reason == 203


@family
def test_the_senders_policy_comes_before(datapath: Datapath, services: Services, v: int) -> None:
    datapath.policy(allow(OUT, 4242))
    outcome = sent(datapath, v, p.TCP)
    assert outcome.drop_reason == 133
    assert outcome.event(DROP)["endpoint_id"] == POD_ID


@family
@pytest.mark.parametrize("hops", [0, 1])
def test_the_last_hop_is_the_stacks(datapath: Datapath, services: Services, v: int, hops: int) -> None:
    """It answers with an ICMP error; the receiver's own program is not asked."""
    outcome = sent(datapath, v, p.TCP, hop_limit=hops)
    assert outcome.passed
    assert read(outcome.frame).hops == hops


@family
def test_switched_off(datapath: Datapath, services: Services, v: int) -> None:
    services.node()
    assert sent(datapath, v, p.TCP).passed
    assert {key.direction for key in datapath.connections()} == {2}


@family
@pytest.mark.parametrize("flags", [node.NODE_TUNNEL, 0], ids=["tunnel", "direct"])
def test_elsewhere_without_a_route_is_the_stacks(
    datapath: Datapath, services: Services, v: int, flags: int
) -> None:
    datapath.clear("axoneme_local")
    services.node(flags=node.NODE_HOST_ROUTING | flags, uplink_ifindex=1)
    frame = sealed(POD[v], PEER[v], p.TCP, p.tcp(1000, 80))
    outcome = datapath.send(frame)
    assert outcome.passed
    assert outcome.frame == frame


@family
@protocols
def test_a_service_of_two_endpoints(datapath: Datapath, services: Services, v: int, protocol: int) -> None:
    """The client's packet is translated and judged twice; the answer is translated back on its way."""
    services.add(FRONTEND[v], protocol, [(PEER[v], 80)])
    there = datapath.send(sealed(POD[v], FRONTEND[v], protocol, body(protocol, 1000, 80)))
    assert there.redirected
    assert read(there.frame).ends == (POD[v], 1000, PEER[v], 80)
    # The receiver sends: for a test run its interface is lo, and the client's is the other one.
    datapath.endpoint(endpoint_id=RECEIVER_ID, identity=PEER_IDENTITY, ipv4=PEER[4], ipv6=PEER[6])
    datapath.endpoint(ifindex=RECEIVER_IFINDEX)
    entry = node.LocalEntry(RECEIVER_IFINDEX, POD_ID, p.POD_MAC, GATEWAY_MAC)
    datapath.maps["axoneme_local"].update(base.address_bytes(POD[v]), entry.pack())
    back = datapath.send(sealed(PEER[v], POD[v], protocol, body(protocol, 80, 1000, p.SYN | p.ACK)))
    assert back.redirected
    seen = read(back.frame)
    assert (seen.ends, seen.checksums_right) == ((FRONTEND[v], 80, POD[v], 1000), True)
    assert back.frame[:6] == p.POD_MAC
    error = datapath.send(error_about(PEER[v], there.frame))
    assert error.redirected
    told = read(error.frame)
    assert (told.source, told.destination, told.checksums_right) == (FRONTEND[v], POD[v], True)
    assert told.quote is not None
    assert told.quote.ends == (POD[v], 1000, FRONTEND[v], 80)


@family
def test_fragments(datapath: Datapath, services: Services, v: int) -> None:
    datagram = p.udp(1000, 80, bytes(600))
    parts = (
        p.packet(POD[v], PEER[v], p.UDP, datagram[:304], more=True, fragment_id=3),
        p.packet(POD[v], PEER[v], p.UDP, datagram[304:], fragment=304, fragment_id=3),
    )
    assert all(datapath.send(one).redirected for one in parts)


@family
def test_to_itself_is_the_stacks(datapath: Datapath, services: Services, v: int) -> None:
    entry = node.LocalEntry(1, POD_ID, p.POD_MAC, GATEWAY_MAC)
    datapath.maps["axoneme_local"].update(base.address_bytes(POD[v]), entry.pack())
    assert datapath.send(sealed(POD[v], POD[v], p.UDP, p.udp(1, 2))).passed
