"""Services per packet: an endpoint talks to a frontend, policy and the wire see a backend."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from axoneme.lib.policy.model import Direction, one_port
from shim.flows import record
from shim.maps import base, lb, node
from tests.bpf import frames
from tests.bpf import packets as p
from tests.bpf.frames import error_about, read, sealed
from tests.bpf.harness import PEER, PEER_IDENTITY, POD, POD_ID, Datapath, allow
from tests.bpf.servicescene import FRONTEND, OTHER_FRONTEND, Services
from tests.conftest import scaled

pytestmark = pytest.mark.root

IN, OUT = Direction.INGRESS, Direction.EGRESS
family = pytest.mark.parametrize("v", [4, 6], ids=["ipv4", "ipv6"])
ported = pytest.mark.parametrize("protocol", [p.TCP, p.UDP], ids=["tcp", "udp"])
protocols = pytest.mark.parametrize("protocol", [p.TCP, p.UDP, p.SCTP], ids=["tcp", "udp", "sctp"])
BACKEND_PORT = {p.TCP: 8080, p.UDP: 5353, p.SCTP: 80}  # SCTP's ports never change
OTHER = {4: "10.1.9.8", 6: "fd00:10:1:9::8"}
CT_TRANSLATED, CLOSING = 64, 3

BODY: dict[int, Callable[..., bytes]] = {
    p.TCP: lambda s, d, flags=p.SYN, data=b"": p.tcp(s, d, flags, data),
    p.UDP: lambda s, d, flags=0, data=b"data": p.udp(s, d, data),
    p.SCTP: lambda s, d, flags=0, data=b"": p.sctp(s, d),
}


@pytest.fixture
def services(datapath: Datapath) -> Services:
    """Peers known, everything allowed outwards."""
    for v in (4, 6):
        for address in (PEER[v], OTHER[v]):
            datapath.identity(f"{address}/{32 if v == 4 else 128}", PEER_IDENTITY)
    datapath.policy(allow(OUT, PEER_IDENTITY))
    found = Services(datapath)
    found.node()
    return found


def request(v: int, protocol: int, source: int = 1000, flags: int = p.SYN, **extra: object) -> bytes:
    return sealed(POD[v], FRONTEND[v], protocol, BODY[protocol](source, 80, flags), **extra)


def answer(
    v: int, protocol: int, port: int, backend: str = "", flags: int = p.SYN | p.ACK, to: int = 1000
) -> bytes:
    return sealed(backend or PEER[v], POD[v], protocol, BODY[protocol](port, to, flags))


@family
@protocols
def test_a_request_goes_to_a_backend_and_its_answer_comes_from_the_frontend(
    datapath: Datapath, services: Services, v: int, protocol: int
) -> None:
    port = BACKEND_PORT[protocol]
    datapath.policy(allow(OUT, PEER_IDENTITY, one_port(protocol, port)))
    services.add(FRONTEND[v], protocol, [(PEER[v], port)])
    sent = datapath.send(request(v, protocol))
    assert sent.passed
    seen = read(sent.frame)
    assert seen.ends == (POD[v], 1000, PEER[v], port)
    assert seen.checksums_right
    verdict = sent.event(record.POLICY_VERDICT)
    assert (verdict["destination_identity"], verdict["destination_port"]) == (PEER_IDENTITY, port)
    came = datapath.receive(answer(v, protocol, port))
    assert came.passed
    assert read(came.frame).ends == (FRONTEND[v], 80, POD[v], 1000)
    assert read(came.frame).checksums_right
    [entry] = datapath.connections().values()
    assert entry.flags & CT_TRANSLATED
    assert len(services.translations()) == 2


@family
@protocols
def test_policy_sees_the_backend(datapath: Datapath, services: Services, v: int, protocol: int) -> None:
    services.add(FRONTEND[v], protocol, [(PEER[v], BACKEND_PORT[protocol])])
    datapath.identity(f"{FRONTEND[v]}/{32 if v == 4 else 128}", 4242)
    datapath.policy(allow(OUT, 4242))
    for _ in range(2):
        assert datapath.send(request(v, protocol)).drop_reason == 133
        assert services.translations() == {}  # a flood of refused packets takes nobody's room


@family
@protocols
def test_no_backend(datapath: Datapath, services: Services, v: int, protocol: int) -> None:
    services.frontend(FRONTEND[v], protocol, slots=0)
    outcome = datapath.send(request(v, protocol))
    assert not outcome.passed
    assert outcome.drop_reason == 158
    assert services.translations() == {}


@family
@ported
def test_other_ports_of_a_frontend_are_no_service(
    datapath: Datapath, services: Services, v: int, protocol: int
) -> None:
    datapath.policy(allow(OUT, 4242))
    datapath.identity(f"{FRONTEND[v]}/{32 if v == 4 else 128}", 4242)
    services.add(FRONTEND[v], protocol, [(PEER[v], 8080)])
    frame = sealed(POD[v], FRONTEND[v], protocol, BODY[protocol](1000, 81))
    assert datapath.send(frame).frame == frame
    echo = sealed(POD[v], FRONTEND[v], p.ICMP if v == 4 else p.ICMP6, p.icmp(p.ECHO[v], 3))
    assert datapath.send(echo).frame == echo


@family
@ported
def test_frontends_for_the_outside_only(
    datapath: Datapath, services: Services, v: int, protocol: int
) -> None:
    datapath.identity(f"{FRONTEND[v]}/{32 if v == 4 else 128}", PEER_IDENTITY)
    services.frontend(FRONTEND[v], protocol, slots=0, scope=lb.LB_OUTSIDE)
    assert datapath.send(request(v, protocol)).frame == request(v, protocol)


@family
def test_sctp_ports_never_change(datapath: Datapath, services: Services, v: int) -> None:
    services.add(FRONTEND[v], p.SCTP, [(PEER[v], 8080)])
    assert datapath.send(request(v, p.SCTP)).drop_reason == 168


@family
@protocols
def test_a_connection_stays_on_its_backend(
    datapath: Datapath, services: Services, v: int, protocol: int
) -> None:
    port = BACKEND_PORT[protocol]
    [first] = services.add(FRONTEND[v], protocol, [(PEER[v], port)])
    datapath.send(request(v, protocol))
    second = services.backend(OTHER[v], port, protocol)
    services.slots([second])
    for flags in (lb.BACKEND_TERMINATING, 0):
        services.backend(PEER[v], port, protocol, flags)
        sent = datapath.send(request(v, protocol, flags=p.ACK))
        assert read(sent.frame).destination == PEER[v]
        assert sent.types() == []
    assert read(datapath.send(request(v, protocol, source=1001)).frame).destination == OTHER[v]
    services.remove_backend(first)
    assert read(datapath.send(request(v, protocol, flags=p.ACK)).frame).destination == OTHER[v]


@family
def test_a_port_used_again_gets_a_new_backend(datapath: Datapath, services: Services, v: int) -> None:
    """After a reset, a SYN from the same port is a new connection, on a backend that takes new ones."""
    services.add(FRONTEND[v], p.TCP, [(PEER[v], 8080)])
    datapath.send(request(v, p.TCP))
    assert datapath.receive(answer(v, p.TCP, 8080, flags=p.RST | p.ACK)).passed
    services.slots([services.backend(OTHER[v], 8080, p.TCP)])
    assert read(datapath.send(request(v, p.TCP)).frame).destination == OTHER[v]


@family
def test_state_of_a_translation_follows_both_sides(datapath: Datapath, services: Services, v: int) -> None:
    services.add(FRONTEND[v], p.TCP, [(PEER[v], 8080)])

    def states() -> set[int]:
        return {entry.state for entry in services.translations().values()}

    datapath.send(request(v, p.TCP))
    assert states() == {1}
    datapath.receive(answer(v, p.TCP, 8080))
    assert states() == {2}
    datapath.send(request(v, p.TCP, flags=p.FIN | p.ACK))
    assert states() == {2}
    datapath.receive(answer(v, p.TCP, 8080, flags=p.FIN | p.ACK))
    assert states() == {CLOSING}


@family
@ported
def test_an_answer_whose_translation_is_gone_is_dropped(
    datapath: Datapath, services: Services, v: int, protocol: int
) -> None:
    services.add(FRONTEND[v], protocol, [(PEER[v], 8080)])
    datapath.send(request(v, protocol))
    datapath.clear("axoneme_nat")
    assert datapath.receive(answer(v, protocol, 8080)).drop_reason == 167


@family
@ported
def test_two_frontends_one_client_port_one_backend(
    datapath: Datapath, services: Services, v: int, protocol: int
) -> None:
    """Answers tell the conversations apart: the second one leaves from another port."""
    services.add(FRONTEND[v], protocol, [(PEER[v], 8080)])
    services.frontend(OTHER_FRONTEND[v], protocol, slots=1)
    first = read(datapath.send(request(v, protocol)).frame)
    other = sealed(POD[v], OTHER_FRONTEND[v], protocol, BODY[protocol](1000, 80))
    second = datapath.send(other)
    assert read(second.frame).checksums_right
    assert first.source_port == 1000
    assert read(second.frame).source_port >= 32768
    for port, frontend in ((1000, FRONTEND[v]), (read(second.frame).source_port, OTHER_FRONTEND[v])):
        came = read(datapath.receive(answer(v, protocol, 8080, to=port)).frame)
        assert came.ends == (frontend, 80, POD[v], 1000)
        assert came.checksums_right


@family
@ported
def test_a_direct_connection_keeps_its_port(
    datapath: Datapath, services: Services, v: int, protocol: int
) -> None:
    services.add(FRONTEND[v], protocol, [(PEER[v], 8080)])
    direct = sealed(POD[v], PEER[v], protocol, BODY[protocol](1000, 8080))
    assert datapath.send(direct).frame == direct
    assert read(datapath.send(request(v, protocol)).frame).source_port != 1000
    back = answer(v, protocol, 8080)
    assert datapath.receive(back).frame == back


@family
def test_affinity(datapath: Datapath, services: Services, v: int) -> None:
    services.add(FRONTEND[v], p.TCP, [(PEER[v], 8080), (OTHER[v], 8080)])
    services.frontend(FRONTEND[v], p.TCP, slots=2, flags=lb.LB_AFFINITY, affinity_seconds=60)
    chosen = {
        read(datapath.send(request(v, p.TCP, source)).frame).destination for source in range(2000, 2020)
    }
    assert len(chosen) == 1
    services.frontend(FRONTEND[v], p.TCP, slots=2)
    chosen = {
        read(datapath.send(request(v, p.TCP, source)).frame).destination for source in range(3000, 3040)
    }
    assert chosen == {PEER[v], OTHER[v]}


@family
def test_fragments(datapath: Datapath, services: Services, v: int) -> None:
    services.add(FRONTEND[v], p.UDP, [(PEER[v], 5353)])
    payload = bytes(range(256)) * 3
    whole = request_of(v, payload)
    cut = 400
    head = 14 + (20 if v == 4 else 40)
    transport = whole[head:]
    first = p.packet(POD[v], FRONTEND[v], p.UDP, transport[:cut], more=True, fragment_id=9)
    later = p.packet(POD[v], FRONTEND[v], p.UDP, transport[cut:], fragment=cut, fragment_id=9)
    assert datapath.send(later).drop_reason == 175
    parts = [datapath.send(first), datapath.send(later)]
    assert all(part.passed for part in parts)
    skip = head + (0 if v == 4 else 8)
    joined = b"".join(part.frame[skip:] for part in parts)
    reference = frames.seal(p.packet(POD[v], PEER[v], p.UDP, p.udp(1000, 5353, payload)))
    assert joined == reference[head:]
    assert {read(part.frame).destination for part in parts} == {PEER[v]}


def request_of(v: int, payload: bytes) -> bytes:
    return sealed(POD[v], FRONTEND[v], p.UDP, p.udp(1000, 80, payload))


@family
@ported
def test_errors_about_requests(datapath: Datapath, services: Services, v: int, protocol: int) -> None:
    """From the backend and from a router: the client reads what it sent, from the frontend or the router."""
    services.add(FRONTEND[v], protocol, [(PEER[v], 8080)])
    original = request(v, protocol)
    translated = datapath.send(original).frame
    router = {4: "192.0.2.1", 6: "2001:db8::1"}[v]
    for source, shown in ((PEER[v], FRONTEND[v]), (router, router)):
        came = datapath.receive(error_about(source, translated))
        assert came.passed
        seen = read(came.frame)
        assert (seen.source, seen.destination) == (shown, POD[v])
        assert seen.checksums_right
        assert seen.quote is not None
        assert seen.quote.ends == (POD[v], 1000, FRONTEND[v], 80)
        if protocol == p.UDP:
            assert came.frame[-len(original[14:]) :] == original[14:]


@family
@ported
def test_errors_of_a_client(datapath: Datapath, services: Services, v: int, protocol: int) -> None:
    """What the client says about an answer reaches the backend in the backend's words."""
    services.add(FRONTEND[v], protocol, [(PEER[v], 8080)])
    datapath.send(request(v, protocol))
    plain = answer(v, protocol, 8080)
    came = datapath.receive(plain)
    sent = datapath.send(error_about(POD[v], came.frame))
    assert sent.passed
    seen = read(sent.frame)
    assert (seen.source, seen.destination, seen.checksums_right) == (POD[v], PEER[v], True)
    assert seen.quote is not None
    assert seen.quote.ends == (PEER[v], 8080, POD[v], 1000)
    assert sent.event(record.TRACE)["flags"] & record.FLAG_RELATED


@family
def test_zero_udp_checksum_stays(datapath: Datapath, services: Services, v: int) -> None:
    services.add(FRONTEND[v], p.UDP, [(PEER[v], 5353)])
    plain = p.packet(POD[v], FRONTEND[v], p.UDP, p.udp(1000, 80))
    sent = datapath.send(plain).frame
    at = 14 + (20 if v == 4 else 40) + 6
    assert sent[at : at + 2] == bytes(2)


@family
def test_a_new_policy_cuts_a_translated_connection(datapath: Datapath, services: Services, v: int) -> None:
    services.add(FRONTEND[v], p.TCP, [(PEER[v], 8080)])
    datapath.send(request(v, p.TCP))
    assert datapath.receive(answer(v, p.TCP, 8080)).passed
    datapath.change_policy(allow(OUT, PEER_IDENTITY, one_port(p.TCP, 80)))
    assert datapath.send(request(v, p.TCP, flags=p.ACK)).drop_reason == 133
    datapath.change_policy(allow(OUT, PEER_IDENTITY, one_port(p.TCP, 8080)))
    assert datapath.send(request(v, p.TCP, flags=p.ACK)).passed
    came = datapath.receive(answer(v, p.TCP, 8080, flags=p.ACK))
    assert read(came.frame).source == FRONTEND[v]


@family
@pytest.mark.parametrize("seed", range(scaled(20, 300)))
def test_there_and_back_is_the_same(datapath: Datapath, services: Services, v: int, seed: int) -> None:
    """An answer that the backend makes of a translated request is the answer that the frontend would make."""
    rng = random.Random(seed)
    protocol = rng.choice((p.TCP, p.UDP))
    services.add(FRONTEND[v], protocol, [(PEER[v], rng.randrange(1, 65536))])
    data = rng.randbytes(rng.randrange(64))
    source = rng.randrange(1, 65536)
    options = {} if rng.random() < 0.7 else {"options": bytes(8) if v == 4 else p.extension(60)}
    original = sealed(POD[v], FRONTEND[v], protocol, BODY[protocol](source, 80, p.SYN, data), **options)
    sent = datapath.send(original)
    assert sent.passed
    seen = read(sent.frame)
    assert seen.checksums_right
    assert replace(seen, destination=FRONTEND[v], destination_port=80) == read(original)
    back = sealed(
        PEER[v], POD[v], protocol, BODY[protocol](seen.destination_port, source, p.ACK, data), **options
    )
    came = datapath.receive(back)
    wanted = sealed(FRONTEND[v], POD[v], protocol, BODY[protocol](80, source, p.ACK, data), **options)
    assert came.frame == wanted


@family
@ported
def test_tunnel_packets_never_leave_an_endpoint(
    datapath: Datapath, services: Services, v: int, protocol: int
) -> None:
    services.datapath.policy(allow(OUT, PEER_IDENTITY))
    frame = sealed(POD[v], PEER[v], protocol, BODY[protocol](1000, 8472))
    assert datapath.send(frame).passed
    peer = node.NodeIp(node.NODE_IP_TUNNEL_PEER).pack()
    datapath.maps["axoneme_nodeips"].update(base.address_bytes(PEER[v]), peer)
    assert datapath.send(frame).passed == (protocol == p.TCP)
    if protocol == p.UDP:
        assert datapath.send(frame).drop_reason == 170
        services.add(FRONTEND[v], p.UDP, [(PEER[v], 8472)])
        assert datapath.send(request(v, p.UDP)).drop_reason == 170


@family
def test_translations_belong_to_one_endpoint(datapath: Datapath, services: Services, v: int) -> None:
    services.add(FRONTEND[v], p.TCP, [(PEER[v], 8080)])
    datapath.send(request(v, p.TCP))
    assert {key.endpoint_id for key in services.translations()} == {POD_ID}
