"""Frontends at the uplink in test runs: which backend, whose addresses, and every answer undone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shim.maps import lb
from tests.bpf import frames, packets
from tests.bpf.nodeharness import MARK_IDENTITY, Backend, Node, Ran
from tests.bpf.nodescene import (
    CLIENT,
    FIRST_PORT,
    LAST_PORT,
    NODE,
    POD,
    REMOTE_IDENTITY,
    REMOTE_POD,
    ROUTER,
    VIP,
    age,
    families,
    ports,
    set_scene,
)

pytestmark = pytest.mark.root
PORT, TARGET, CLIENT_PORT = 80, 8080, 5555
transports = pytest.mark.parametrize("protocol", [packets.TCP, packets.UDP], ids=["tcp", "udp"])
frontends = pytest.mark.parametrize("frontend", [VIP, NODE], ids=["vip", "node"])


@pytest.fixture(scope="module")
def loaded(compiled: None) -> Iterator[Node]:
    one = Node("netdev", ("netdev.o",))
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


def tcp(source: str, destination: str, source_port: int, port: int, flags: int) -> bytes:
    return frames.sealed(source, destination, packets.TCP, packets.tcp(source_port, port, flags))


def to_remote(
    node: Node, family: int, protocol: int = packets.TCP, *, flags: int = 0
) -> tuple[Ran, frames.Frame]:
    """A client's first packet to a frontend whose backend is elsewhere."""
    node.service(VIP[family], PORT, protocol, Backend(REMOTE_POD[family], TARGET), flags=flags)
    ran = node.run("from_netdev", frame(CLIENT[family], VIP[family], protocol, CLIENT_PORT, PORT))
    return ran, frames.read(ran.data)


@families
@transports
@frontends
def test_a_local_backend_sees_the_client(
    node: Node, family: int, protocol: int, frontend: dict[int, str]
) -> None:
    node.service(frontend[family], PORT, protocol, Backend(POD[family], TARGET, local=True))
    ran = node.run("from_netdev", frame(CLIENT[family], frontend[family], protocol, CLIENT_PORT, PORT))
    assert ran.passed
    assert ran.mark == 0, "the client's address says who it is"
    became = frames.read(ran.data)
    assert became.ends == (CLIENT[family], CLIENT_PORT, POD[family], TARGET)
    assert became.checksums_right
    assert became.hops == 64
    back = node.run("to_netdev", frame(POD[family], CLIENT[family], protocol, TARGET, CLIENT_PORT))
    assert back.passed
    answered = frames.read(back.data)
    assert answered.ends == (frontend[family], PORT, CLIENT[family], CLIENT_PORT)
    assert answered.checksums_right


@families
@transports
@frontends
def test_a_remote_backend_answers_through_the_node(
    node: Node, family: int, protocol: int, frontend: dict[int, str]
) -> None:
    node.service(frontend[family], PORT, protocol, Backend(REMOTE_POD[family], TARGET))
    first = frame(CLIENT[family], frontend[family], protocol, CLIENT_PORT, PORT)
    ran = node.run("from_netdev", first)
    assert ran.redirected
    became = frames.read(ran.data)
    assert became.checksums_right
    assert (became.source, became.destination, became.destination_port, became.hops) == (
        NODE[family],
        REMOTE_POD[family],
        TARGET,
        63,
    )
    assert FIRST_PORT <= became.source_port <= LAST_PORT
    assert ran.mark == MARK_IDENTITY | (9 if family == 4 else 10)
    again = frames.read(node.run("from_netdev", first).data)
    assert again.source_port == became.source_port
    back = node.run(
        "from_netdev", frame(REMOTE_POD[family], NODE[family], protocol, TARGET, became.source_port)
    )
    assert back.redirected
    assert back.mark == MARK_IDENTITY | REMOTE_IDENTITY
    answered = frames.read(back.data)
    assert answered.ends == (frontend[family], PORT, CLIENT[family], CLIENT_PORT)
    assert answered.checksums_right


@families
def test_a_source_port_of_the_range_is_kept(node: Node, family: int) -> None:
    node.service(VIP[family], PORT, packets.TCP, Backend(REMOTE_POD[family], TARGET))
    ran = node.run("from_netdev", frame(CLIENT[family], VIP[family], packets.TCP, FIRST_PORT + 5, PORT))
    assert frames.read(ran.data).source_port == FIRST_PORT + 5


@families
def test_two_clients_with_one_port_get_two(node: Node, family: int) -> None:
    node.service(VIP[family], PORT, packets.TCP, Backend(REMOTE_POD[family], TARGET))
    port = FIRST_PORT + 5
    one = node.run("from_netdev", frame(CLIENT[family], VIP[family], packets.TCP, port, PORT))
    other = node.run("from_netdev", frame(ROUTER[family], VIP[family], packets.TCP, port, PORT))
    assert frames.read(one.data).source_port != frames.read(other.data).source_port
    for ran, client in ((one, CLIENT), (other, ROUTER)):
        answer = frame(
            REMOTE_POD[family], NODE[family], packets.TCP, TARGET, frames.read(ran.data).source_port
        )
        assert frames.read(node.run("from_netdev", answer).data).destination == client[family]


@families
def test_a_client_with_one_port_to_two_frontends_of_a_local_backend(node: Node, family: int) -> None:
    for frontend in (VIP, NODE):
        node.service(frontend[family], PORT, packets.TCP, Backend(POD[family], TARGET, local=True))
    seen = []
    for frontend in (VIP, NODE):
        first = frame(CLIENT[family], frontend[family], packets.TCP, CLIENT_PORT, PORT)
        became = frames.read(node.run("from_netdev", first).data)
        seen.append((became, frontend[family]))
    assert seen[0][0].source_port == CLIENT_PORT
    assert seen[1][0].source_port != CLIENT_PORT
    for became, address in seen:
        answer = frame(POD[family], CLIENT[family], packets.TCP, TARGET, became.source_port)
        undone = frames.read(node.run("to_netdev", answer).data)
        assert undone.ends == (address, PORT, CLIENT[family], CLIENT_PORT)


@families
def test_without_backends_packets_are_dropped(node: Node, family: int) -> None:
    node.service(VIP[family], PORT, packets.TCP)
    ran = node.run("from_netdev", frame(CLIENT[family], VIP[family], packets.TCP, CLIENT_PORT, PORT))
    assert ran.drop_reason == 158


@families
def test_source_ranges(node: Node, family: int) -> None:
    prefix = CLIENT[family] + ("/32" if family == 4 else "/128")
    backend = Backend(POD[family], TARGET, local=True)
    node.service(VIP[family], PORT, packets.TCP, backend, source_ranges=[prefix])
    allowed = frame(CLIENT[family], VIP[family], packets.TCP, CLIENT_PORT, PORT)
    refused = frame(ROUTER[family], VIP[family], packets.TCP, CLIENT_PORT, PORT)
    assert node.run("from_netdev", allowed).passed
    assert node.run("from_netdev", refused).drop_reason == 177


@families
def test_local_only_never_hides_the_client(node: Node, family: int) -> None:
    ran, _ = to_remote(node, family, flags=lb.LB_LOCAL_ONLY)
    assert ran.drop_reason == 158
    assert node.translations() == {}


@families
def test_a_frontend_for_clients_inside_is_none_for_the_world(node: Node, family: int) -> None:
    node.service(VIP[family], PORT, packets.TCP, Backend(POD[family], TARGET, local=True), scope=lb.LB_INSIDE)
    first = frame(CLIENT[family], VIP[family], packets.TCP, CLIENT_PORT, PORT)
    ran = node.run("from_netdev", first)
    assert ran.passed
    assert ran.data == first


@families
def test_what_is_for_nobody_here_stays_as_it_is(node: Node, family: int) -> None:
    for one in (
        frame(CLIENT[family], POD[family], packets.TCP, 1, 2),
        frame(CLIENT[family], NODE[family], packets.UDP, 1, 2),
        frames.sealed(CLIENT[family], NODE[family], 47, bytes(8)),
        packets.packet(CLIENT[family], NODE[family], packets.TCP, bytes(9)),
        packets.ethernet(bytes(28), ethertype=0x0806),
    ):
        ran = node.run("from_netdev", one)
        assert (ran.passed, ran.data, ran.events) == (True, one, [])


@families
def test_a_node_without_an_address_of_the_family_cannot_hide_clients(node: Node, family: int) -> None:
    node.configure(**{f"ipv{family}": bytes(16)})
    ran, _ = to_remote(node, family)
    assert ran.drop_reason == 167


@families
def test_ports_run_out(node: Node, family: int) -> None:
    node.configure(nat_port_min=FIRST_PORT, nat_port_max=FIRST_PORT + 1)
    node.service(VIP[family], PORT, packets.UDP, Backend(REMOTE_POD[family], TARGET))
    clients = [frame(CLIENT[family], VIP[family], packets.UDP, port, PORT) for port in (1, 2, 3)]
    assert node.run("from_netdev", clients[0]).redirected
    assert node.run("from_netdev", clients[1]).redirected
    assert node.run("from_netdev", clients[2]).drop_reason == 167
    age(node, 61)
    assert node.run("from_netdev", clients[2]).redirected, "a dead entry's port is free"


@families
def test_sctp_keeps_its_ports(node: Node, family: int) -> None:
    ran, became = to_remote(node, family, packets.SCTP)
    assert ran.drop_reason == 168, "the backend's port differs, and the checksum could not follow"
    node.service(VIP[family], PORT, packets.SCTP, Backend(REMOTE_POD[family], PORT))
    first = frame(CLIENT[family], VIP[family], packets.SCTP, CLIENT_PORT, PORT)
    ran = node.run("from_netdev", first)
    assert ran.redirected
    became = frames.read(ran.data)
    assert became.ends == (NODE[family], CLIENT_PORT, REMOTE_POD[family], PORT)
    assert became.checksums_right
    taken = frame(ROUTER[family], VIP[family], packets.SCTP, CLIENT_PORT, PORT)
    assert node.run("from_netdev", taken).drop_reason == 168


@families
def test_a_packet_at_the_end_of_its_way_is_not_sent_on(node: Node, family: int) -> None:
    node.service(VIP[family], PORT, packets.TCP, Backend(REMOTE_POD[family], TARGET))
    last = frame(CLIENT[family], VIP[family], packets.TCP, CLIENT_PORT, PORT, hop_limit=1)
    assert node.run("from_netdev", last).drop_reason == 196


@families
def test_identities_of_this_node_only_travel_as_the_world(node: Node, family: int) -> None:
    node.identity(CLIENT[family] + ("/32" if family == 4 else "/128"), 0x0100_0005)
    ran, _ = to_remote(node, family)
    assert ran.mark == MARK_IDENTITY | (9 if family == 4 else 10)


@families
def test_an_error_about_a_packet_to_a_remote_backend_reaches_the_client(node: Node, family: int) -> None:
    ran, became = to_remote(node, family)
    error = node.run("from_netdev", frames.error_about(ROUTER[family], ran.data))
    assert error.passed
    told = frames.read(error.data)
    assert told.checksums_right
    assert (told.source, told.destination) == (ROUTER[family], CLIENT[family])
    assert told.quote is not None
    assert told.quote.ends == (CLIENT[family], CLIENT_PORT, VIP[family], PORT)
    assert became.source == NODE[family]


@families
def test_an_error_from_a_remote_backend_comes_from_the_frontend(node: Node, family: int) -> None:
    node.service(NODE[family], PORT, packets.UDP, Backend(REMOTE_POD[family], TARGET))
    ran = node.run("from_netdev", frame(CLIENT[family], NODE[family], packets.UDP, CLIENT_PORT, PORT))
    error = node.run("from_netdev", frames.error_about(REMOTE_POD[family], ran.data))
    assert error.redirected, "the stack would take the node's address for a forgery"
    told = frames.read(error.data)
    assert told.checksums_right
    assert (told.source, told.destination) == (NODE[family], CLIENT[family])
    assert told.quote is not None
    assert told.quote.ends == (CLIENT[family], CLIENT_PORT, NODE[family], PORT)


@families
def test_an_error_of_a_local_backend_is_undone_on_its_way_out(node: Node, family: int) -> None:
    node.service(VIP[family], PORT, packets.UDP, Backend(POD[family], TARGET, local=True))
    ran = node.run("from_netdev", frame(CLIENT[family], VIP[family], packets.UDP, CLIENT_PORT, PORT))
    error = node.run("to_netdev", frames.error_about(POD[family], ran.data))
    assert error.passed
    told = frames.read(error.data)
    assert told.checksums_right
    assert (told.source, told.destination) == (VIP[family], CLIENT[family])
    assert told.quote is not None
    assert told.quote.ends == (CLIENT[family], CLIENT_PORT, VIP[family], PORT)


@families
def test_later_fragments_get_the_addresses_of_the_first(node: Node, family: int) -> None:
    node.service(VIP[family], PORT, packets.UDP, Backend(REMOTE_POD[family], TARGET))
    udp = packets.udp(CLIENT_PORT, PORT, bytes(2000))
    first = frames.sealed(CLIENT[family], VIP[family], packets.UDP, udp[:1480], more=True)
    later = frames.sealed(CLIENT[family], VIP[family], packets.UDP, udp[1480:], fragment=1480)
    assert node.run("from_netdev", later).passed, "left to the stack: nobody knows whose it is"
    assert node.run("from_netdev", first).redirected
    ran = node.run("from_netdev", later)
    assert ran.redirected
    became = frames.read(ran.data)
    assert (became.source, became.destination) == (NODE[family], REMOTE_POD[family])
    assert became.checksums_right
    assert ran.data.endswith(udp[1480:])


@families
def test_a_connection_keeps_its_backend_when_the_service_goes(node: Node, family: int) -> None:
    ran, became = to_remote(node, family)
    node.clear("axoneme_lb")
    data = tcp(CLIENT[family], VIP[family], CLIENT_PORT, PORT, packets.ACK)
    again = node.run("from_netdev", data)
    assert again.redirected
    assert frames.read(again.data).ends == became.ends
    assert ran.redirected


@families
def test_a_syn_after_a_reset_opens_another_connection(node: Node, family: int) -> None:
    _, became = to_remote(node, family)
    node.run("from_netdev", tcp(CLIENT[family], VIP[family], CLIENT_PORT, PORT, packets.RST))
    assert {entry.state for entry in node.translations().values()} == {3}
    ran = node.run("from_netdev", frame(CLIENT[family], VIP[family], packets.TCP, CLIENT_PORT, PORT))
    assert ran.redirected
    answer = frame(REMOTE_POD[family], NODE[family], packets.TCP, TARGET, frames.read(ran.data).source_port)
    assert frames.read(node.run("from_netdev", answer).data).destination == CLIENT[family]
    assert became.source == NODE[family]


@families
def test_a_socket_of_the_host_keeps_its_port(node: Node, family: int) -> None:
    import socket

    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    node.service(VIP[family], PORT, packets.UDP, Backend(REMOTE_POD[family], TARGET))
    with socket.socket(kind, socket.SOCK_DGRAM) as one:
        one.bind(("", FIRST_PORT + 7))
        ran = node.run("from_netdev", frame(CLIENT[family], VIP[family], packets.UDP, FIRST_PORT + 7, PORT))
    assert frames.read(ran.data).source_port != FIRST_PORT + 7


def test_the_verifier_walks_no_more_than_expected(loaded: Node) -> None:
    assert max(one.verified_instructions for one in loaded.programs.values()) < 50_000
