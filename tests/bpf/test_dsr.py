"""Direct server return in test runs: the frontend travels in the packet, and whose word about it is taken."""

from __future__ import annotations

import ipaddress
import os
import struct
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from axoneme.lib.policy.model import Direction
from shim.maps import base, layout, lb
from shim.maps import node as nodemaps
from tests.bpf import frames, packets
from tests.bpf.harness import allow
from tests.bpf.namespaces import inside
from tests.bpf.nodeharness import MARK_IDENTITY, Backend, Node, Ran
from tests.bpf.nodescene import (
    CLIENT,
    NODE,
    OTHER_NODE,
    POD,
    POD_ID,
    POD_IDENTITY,
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
KIND = {4: 0x9E, 6: 0x1E}
SIZE = {4: 8, 6: 24}
WORLD_ID = {4: 9, 6: 10}
FULL_HEADER = {4: bytes([1] * 36), 6: packets.extension(60)}
transports = pytest.mark.parametrize("protocol", [packets.TCP, packets.UDP], ids=["tcp", "udp"])


@pytest.fixture(scope="module")
def loaded(compiled: None) -> Iterator[Node]:
    one = Node(f"dsr-{os.getpid()}", ("netdev.o", "endpoint.o"))
    yield one
    one.close()


@pytest.fixture
def node(loaded: Node, family: int) -> Node:
    set_scene(loaded, family)
    return loaded


def option(family: int, address: str, port: int, following: int = 0) -> bytes:
    """The option, IPv6 with its whole header, as text says it; written without the programs."""
    packed = ipaddress.ip_address(address).packed
    if family == 4:
        return struct.pack(">BBH", KIND[4], 8, port) + packed
    return struct.pack(">BBBBHH", following, 2, KIND[6], 20, port, 0) + packed


def named(
    frame: bytes, address: str, port: int, *, kind: int | None = None, size: int | None = None
) -> bytes:
    """A frame with the option as the first; `kind` and `size` to write others into it."""
    family = 4 if frame[14] >> 4 == 4 else 6
    added = bytearray(option(family, address, port, frame[20]))
    at = 0 if family == 4 else 2
    added[at] = added[at] if kind is None else kind
    added[at + 1] = added[at + 1] if size is None else size
    head = bytearray(frame[14 : 34 if family == 4 else 54])
    length = struct.unpack(">H", head[2:4] if family == 4 else head[4:6])[0] + len(added)
    if family == 4:
        head[0] += 2
        head[2:4] = struct.pack(">H", length)
        head[10:12] = bytes(2)
        rest = bytes(added) + frame[34 : 34 + (frame[14] & 15) * 4 - 20]
        head[10:12] = struct.pack(">H", 0xFFFF ^ frames.ones_sum(bytes(head) + rest))
    else:
        head[4:6] = struct.pack(">H", length)
        head[6] = 60
    return frame[:14] + bytes(head) + bytes(added) + frame[14 + len(head) :]


def frame(
    source: str, destination: str, protocol: int, source_port: int, port: int, **extra: object
) -> bytes:
    return frames.sealed(source, destination, protocol, ports(source_port, port)[protocol], **extra)


def tcp(source: str, destination: str, source_port: int, port: int, flags: int) -> bytes:
    return frames.sealed(source, destination, packets.TCP, packets.tcp(source_port, port, flags))


def asked(family: int, protocol: int, **extra: object) -> bytes:
    """A client's packet to the frontend."""
    return frame(CLIENT[family], VIP[family], protocol, CLIENT_PORT, PORT, **extra)


def forwarded(family: int, protocol: int, **extra: object) -> bytes:
    """... as it goes to a remote backend without the option, one hop later."""
    hops = {"hop_limit": 63, **extra}
    return frame(CLIENT[family], REMOTE_POD[family], protocol, CLIENT_PORT, TARGET, **hops)


def serve_elsewhere(node: Node, family: int, protocol: int, **extra: object) -> None:
    backend = Backend(REMOTE_POD[family], TARGET)
    node.service(VIP[family], PORT, protocol, backend, flags=lb.LB_DSR, **extra)  # type: ignore[arg-type]


def serve_here(node: Node, family: int, protocol: int, frontend: str, *, flags: int = lb.LB_DSR) -> None:
    others = [Backend(REMOTE_POD[family], TARGET + n) for n in range(3)]
    here = Backend(POD[family], TARGET, local=True)
    node.service(frontend, PORT, protocol, *others, here, flags=flags)


def arriving(family: int, protocol: int, *, client: str = "", **extra: object) -> bytes:
    """A client's packet to the pod here, without the option."""
    return frame(client or CLIENT[family], POD[family], protocol, CLIENT_PORT, TARGET, **extra)


def answer(node: Node, family: int, protocol: int) -> frames.Frame:
    ran = node.run("to_netdev", frame(POD[family], CLIENT[family], protocol, TARGET, CLIENT_PORT))
    assert ran.passed
    return frames.read(ran.data)


def is_translated(ran: Ran, family: int) -> bool:
    """Whether it went on in the node's name."""
    assert ran.redirected
    became = frames.read(ran.data)
    assert became.checksums_right
    return became.source == NODE[family]


# --- the node that a client reaches


@families
@transports
def test_the_frontend_travels_in_the_packet(node: Node, family: int, protocol: int) -> None:
    serve_elsewhere(node, family, protocol)
    for _ in range(2):
        ran = node.run("from_netdev", asked(family, protocol))
        assert ran.redirected
        assert ran.mark == MARK_IDENTITY | WORLD_ID[family]
        assert ran.data == named(forwarded(family, protocol), VIP[family], PORT)
        became = frames.read(ran.data)
        assert became.checksums_right
        assert became.ends == (CLIENT[family], CLIENT_PORT, REMOTE_POD[family], TARGET)
    ((key, entry),) = node.translations().items()
    assert (key.side, entry.flags) == (lb.NAT_FROM_NET, lb.NAT_SERVICE | lb.NAT_DSR_CLIENT)


@families
def test_options_that_are_there_stay(node: Node, family: int) -> None:
    """IPv4: behind ours. IPv6: an extension header may have to be first, so there is no room."""
    serve_elsewhere(node, family, packets.UDP)
    there = {4: bytes([1] * 32), 6: packets.extension(60)}[family]
    ran = node.run("from_netdev", asked(family, packets.UDP, options=there))
    if family == 6:
        assert is_translated(ran, family)
    else:
        assert ran.data == named(forwarded(family, packets.UDP, options=there), VIP[family], PORT)
        assert frames.read(ran.data).checksums_right


@families
@transports
def test_a_header_without_room_means_translation(node: Node, family: int, protocol: int) -> None:
    serve_elsewhere(node, family, protocol)
    ran = node.run("from_netdev", asked(family, protocol, options=FULL_HEADER[family]))
    assert is_translated(ran, family)


@families
def test_only_syns_of_a_connection_name_it(node: Node, family: int) -> None:
    serve_elsewhere(node, family, packets.TCP)
    node.run("from_netdev", asked(family, packets.TCP))
    node.clear("axoneme_lb")
    for flags in (packets.ACK, packets.ACK | packets.FIN, packets.RST):
        ran = node.run("from_netdev", tcp(CLIENT[family], VIP[family], CLIENT_PORT, PORT, flags))
        assert ran.redirected
        assert frames.read(ran.data).ends == (CLIENT[family], CLIENT_PORT, REMOTE_POD[family], TARGET)
        assert frames.read(ran.data).checksums_right
        assert len(ran.data) == len(asked(family, packets.TCP))


@families
def test_a_connection_that_this_node_has_not_seen_begin_goes_on(node: Node, family: int) -> None:
    """With Maglev any node finds the same backend, which knows the frontend from another one."""
    serve_elsewhere(node, family, packets.TCP)
    ran = node.run("from_netdev", tcp(CLIENT[family], VIP[family], CLIENT_PORT, PORT, packets.ACK))
    assert ran.redirected
    assert frames.read(ran.data).ends == (CLIENT[family], CLIENT_PORT, REMOTE_POD[family], TARGET)
    assert len(ran.data) == len(asked(family, packets.TCP))


@families
def test_a_syn_after_the_clients_fin_opens_another(node: Node, family: int) -> None:
    serve_elsewhere(node, family, packets.TCP)
    node.run("from_netdev", asked(family, packets.TCP))
    fin = packets.FIN | packets.ACK
    node.run("from_netdev", tcp(CLIENT[family], VIP[family], CLIENT_PORT, PORT, fin))
    other = Backend(REMOTE_POD[family], TARGET + 1)
    node.service(VIP[family], PORT, packets.TCP, other, flags=lb.LB_DSR)
    half = node.run("from_netdev", tcp(CLIENT[family], VIP[family], CLIENT_PORT, PORT, packets.ACK))
    assert frames.read(half.data).destination_port == TARGET
    again = node.run("from_netdev", asked(family, packets.TCP))
    assert frames.read(again.data).destination_port == TARGET + 1


@families
@transports
def test_a_tunnel_means_translation(node: Node, family: int, protocol: int) -> None:
    node.configure(flags=nodemaps.NODE_TUNNEL)
    serve_elsewhere(node, family, protocol)
    assert is_translated(node.run("from_netdev", asked(family, protocol)), family)
    node.configure(flags=0)


@families
def test_fragments_mean_translation(node: Node, family: int) -> None:
    serve_elsewhere(node, family, packets.UDP)
    udp = packets.udp(CLIENT_PORT, PORT, bytes(2000))
    first = frames.sealed(CLIENT[family], VIP[family], packets.UDP, udp[:1480], more=True)
    ran = node.run("from_netdev", first)
    assert ran.redirected
    assert frames.read(ran.data).source == NODE[family]


@families
def test_fragments_of_a_known_connection_go_without_the_option(node: Node, family: int) -> None:
    serve_elsewhere(node, family, packets.UDP)
    node.run("from_netdev", asked(family, packets.UDP))
    udp = packets.udp(CLIENT_PORT, PORT, bytes(2000))
    first = frames.sealed(CLIENT[family], VIP[family], packets.UDP, udp[:1480], more=True)
    later = frames.sealed(CLIENT[family], VIP[family], packets.UDP, udp[1480:], fragment=1480)
    for one in (first, later):
        ran = node.run("from_netdev", one)
        assert ran.redirected
        became = frames.read(ran.data)
        assert (became.source, became.destination) == (CLIENT[family], REMOTE_POD[family])
        assert len(ran.data) == len(one)


@families
def test_other_protocols_are_translated(node: Node, family: int) -> None:
    node.service(VIP[family], PORT, packets.SCTP, Backend(REMOTE_POD[family], PORT), flags=lb.LB_DSR)
    ran = node.run("from_netdev", asked(family, packets.SCTP))
    assert ran.redirected
    assert frames.read(ran.data).source == NODE[family]


@families
@pytest.mark.parametrize("identity", [6, REMOTE_IDENTITY], ids=["node", "pod"])
def test_clients_inside_are_translated(node: Node, family: int, identity: int) -> None:
    """Their answers would not come by the backend's uplink."""
    serve_elsewhere(node, family, packets.TCP)
    node.identity(CLIENT[family] + ("/32" if family == 4 else "/128"), identity)
    assert is_translated(node.run("from_netdev", asked(family, packets.TCP)), family)


@families
def test_a_backend_outside_of_the_cluster_is_reached_by_translation(node: Node, family: int) -> None:
    backend = Backend(ROUTER[family], TARGET)
    node.service(VIP[family], PORT, packets.TCP, backend, flags=lb.LB_DSR)
    assert is_translated(node.run("from_netdev", asked(family, packets.TCP)), family)


@families
def test_a_backend_here_needs_no_option(node: Node, family: int) -> None:
    serve_local = Backend(POD[family], TARGET, local=True)
    node.service(VIP[family], PORT, packets.TCP, serve_local, flags=lb.LB_DSR)
    ran = node.run("from_netdev", asked(family, packets.TCP))
    assert ran.passed
    assert ran.data == arriving(family, packets.TCP)


@families
def test_a_packet_that_would_grow_too_large(loaded: Node, family: int) -> None:
    """The whole connection is translated then; one that is known already goes without the option."""
    set_scene(loaded, family)
    serve_elsewhere(loaded, family, packets.UDP)
    mtu, header = 1300, 28 if family == 4 else 48

    def datagram(size: int) -> bytes:
        body = packets.udp(CLIENT_PORT, PORT, bytes(size))
        return frames.sealed(CLIENT[family], VIP[family], packets.UDP, body)

    name = f"axt-dsr-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "mtu", str(mtu), "up"], check=True)
        fits, grown = mtu - header - SIZE[family], mtu - header - SIZE[family] + 1
        ran = inside(name, lambda: loaded.run("from_netdev", datagram(fits)))
        assert len(ran.data) == len(datagram(fits)) + SIZE[family]
        ran = inside(name, lambda: loaded.run("from_netdev", datagram(grown)))
        assert len(ran.data) == len(datagram(grown))
        assert frames.read(ran.data).source == CLIENT[family]
        loaded.clear("axoneme_nat")
        first = inside(name, lambda: loaded.run("from_netdev", datagram(grown)))
        second = inside(name, lambda: loaded.run("from_netdev", datagram(10)))
        assert is_translated(first, family)
        assert is_translated(second, family)
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False)


@families
def test_errors_about_an_answer_reach_the_backend(node: Node, family: int) -> None:
    """A router's objection to the backend's answer goes to the frontend, so to this node."""
    serve_elsewhere(node, family, packets.UDP)
    node.run("from_netdev", asked(family, packets.UDP))
    answered = frame(VIP[family], CLIENT[family], packets.UDP, PORT, CLIENT_PORT)
    ran = node.run("from_netdev", frames.error_about(ROUTER[family], answered))
    assert ran.passed
    told = frames.read(ran.data)
    assert told.checksums_right
    assert (told.source, told.destination) == (ROUTER[family], REMOTE_POD[family])
    assert told.quote is not None
    assert told.quote.ends == (REMOTE_POD[family], TARGET, CLIENT[family], CLIENT_PORT)


# --- the backend's node


@families
@transports
def test_insert_then_strip_gives_the_packet(node: Node, family: int, protocol: int) -> None:
    serve_elsewhere(node, family, protocol)
    for length in (0, 1, 7, 400):
        body = {
            packets.TCP: packets.tcp(CLIENT_PORT, PORT, payload=os.urandom(length)),
            packets.UDP: packets.udp(CLIENT_PORT, PORT, os.urandom(length)),
        }[protocol]
        node.local(POD[family], endpoint_id=POD_ID)
        sent = frames.sealed(CLIENT[family], VIP[family], protocol, body)
        ran = node.run("from_netdev", sent)
        assert len(ran.data) == len(sent) + SIZE[family]
        node.clear("axoneme_nat")
        node.local(REMOTE_POD[family], endpoint_id=POD_ID + 1)
        stripped = node.run("from_netdev", ran.data)
        assert stripped.passed
        expected = frames.sealed(
            CLIENT[family], REMOTE_POD[family], protocol, ports_changed(body), hop_limit=63
        )
        assert stripped.data == expected
        node.clear("axoneme_local")
        node.clear("axoneme_nat")


def ports_changed(body: bytes) -> bytes:
    """A transport header with the backend's port."""
    return body[:2] + struct.pack(">H", TARGET) + body[4:]


@families
@transports
def test_the_backend_answers_in_the_frontends_name(node: Node, family: int, protocol: int) -> None:
    serve_here(node, family, protocol, VIP[family])
    plain = arriving(family, protocol)
    for _ in range(2):
        ran = node.run("from_netdev", named(plain, VIP[family], PORT))
        assert ran.passed
        assert (ran.data, ran.mark) == (plain, 0)
    ((key, entry),) = node.translations().items()
    assert key.side == lb.NAT_TO_NET
    assert entry.flags == lb.NAT_SERVICE | lb.NAT_DSR_CLIENT | lb.NAT_RETURN
    answered = answer(node, family, protocol)
    assert answered.ends == (VIP[family], PORT, CLIENT[family], CLIENT_PORT)
    assert answered.checksums_right


@families
def test_options_behind_ours_stay_when_it_goes(node: Node, family: int) -> None:
    serve_here(node, family, packets.UDP, VIP[family])
    there = {4: bytes([1] * 32), 6: packets.extension(60)}[family]
    plain = arriving(family, packets.UDP, options=there)
    ran = node.run("from_netdev", named(plain, VIP[family], PORT))
    assert (ran.passed, ran.data) == (True, plain)


@families
def test_fragments_that_the_way_made_lose_their_options(node: Node, family: int) -> None:
    """A router cuts IPv4, and copies the option; IPv6 by who asks for it."""
    serve_here(node, family, packets.UDP, VIP[family])
    udp = packets.udp(CLIENT_PORT, TARGET, bytes(2000))
    for extra in ({"more": True}, {"fragment": 1480}):
        part = udp[:1480] if "more" in extra else udp[1480:]
        plain = frames.sealed(CLIENT[family], POD[family], packets.UDP, part, **extra)
        ran = node.run("from_netdev", named(plain, VIP[family], PORT))
        assert (ran.passed, ran.data) == (True, plain)


@families
def test_a_node_port_of_another_node(node: Node, family: int) -> None:
    serve_here(node, family, packets.TCP, NODE[family])
    ran = node.run("from_netdev", named(arriving(family, packets.TCP), OTHER_NODE[family], PORT))
    assert ran.passed
    assert answer(node, family, packets.TCP).ends == (
        OTHER_NODE[family],
        PORT,
        CLIENT[family],
        CLIENT_PORT,
    )


@families
def test_a_backend_on_the_nodes_own_address(node: Node, family: int) -> None:
    backend = Backend(NODE[family], TARGET)
    node.service(VIP[family], PORT, packets.UDP, backend, flags=lb.LB_DSR)
    plain = frame(CLIENT[family], NODE[family], packets.UDP, CLIENT_PORT, TARGET)
    ran = node.run("from_netdev", named(plain, VIP[family], PORT))
    assert (ran.passed, ran.data) == (True, plain)
    back = node.run("to_netdev", frame(NODE[family], CLIENT[family], packets.UDP, TARGET, CLIENT_PORT))
    assert frames.read(back.data).source == VIP[family]


@families
def test_an_error_of_the_backend_comes_from_the_frontend(node: Node, family: int) -> None:
    serve_here(node, family, packets.UDP, VIP[family])
    ran = node.run("from_netdev", named(arriving(family, packets.UDP), VIP[family], PORT))
    error = node.run("to_netdev", frames.error_about(POD[family], ran.data))
    told = frames.read(error.data)
    assert told.checksums_right
    assert (told.source, told.destination) == (VIP[family], CLIENT[family])
    assert told.quote is not None
    assert told.quote.ends == (CLIENT[family], CLIENT_PORT, VIP[family], PORT)


def unknown_frontend(node: Node, family: int) -> bytes:
    return named(arriving(family, packets.UDP), ROUTER[family], PORT)


def other_port(node: Node, family: int) -> bytes:
    return named(arriving(family, packets.UDP), VIP[family], PORT + 1)


def other_protocol(node: Node, family: int) -> bytes:
    return named(arriving(family, packets.TCP), VIP[family], PORT)


def no_direct_return(node: Node, family: int) -> bytes:
    serve_here(node, family, packets.UDP, VIP[family], flags=0)
    return named(arriving(family, packets.UDP), VIP[family], PORT)


def only_for_clients_inside(node: Node, family: int) -> bytes:
    node.clear("axoneme_lb")
    backend = Backend(POD[family], TARGET, local=True)
    node.service(VIP[family], PORT, packets.UDP, backend, flags=lb.LB_DSR, scope=lb.LB_INSIDE)
    return named(arriving(family, packets.UDP), VIP[family], PORT)


def none_of_its_backends(node: Node, family: int) -> bytes:
    plain = frame(CLIENT[family], POD[family], packets.UDP, CLIENT_PORT, TARGET + 9)
    return named(plain, VIP[family], PORT)


def no_node_of_ours(node: Node, family: int) -> bytes:
    serve_here(node, family, packets.UDP, NODE[family])
    node.maps["axoneme_nodeips"].delete(base.address_bytes(OTHER_NODE[family]))
    return named(arriving(family, packets.UDP), OTHER_NODE[family], PORT)


def no_node_port(node: Node, family: int) -> bytes:
    return named(arriving(family, packets.UDP), OTHER_NODE[family], PORT)


def in_the_middle_of_a_connection(node: Node, family: int) -> bytes:
    serve_here(node, family, packets.TCP, VIP[family])
    plain = tcp(CLIENT[family], POD[family], CLIENT_PORT, TARGET, packets.ACK)
    return named(plain, VIP[family], PORT)


FORGERIES = (
    *(unknown_frontend, other_port, other_protocol, no_direct_return, only_for_clients_inside),
    *(none_of_its_backends, no_node_of_ours, no_node_port, in_the_middle_of_a_connection),
)


@families
@pytest.mark.parametrize("forge", FORGERIES, ids=lambda one: one.__name__)
def test_a_strangers_word_is_not_taken(node: Node, family: int, forge: Callable[[Node, int], bytes]) -> None:
    serve_here(node, family, packets.UDP, VIP[family])
    ran = node.run("from_netdev", forge(node, family))
    assert ran.drop_reason == 134
    assert node.translations() == {}


def test_a_mapped_frontend_in_ipv6(loaded: Node) -> None:
    set_scene(loaded, 6)
    serve_here(loaded, 4, packets.UDP, VIP[4])
    ran = loaded.run("from_netdev", named(arriving(6, packets.UDP), f"::ffff:{VIP[4]}", PORT))
    assert ran.drop_reason == 134


@families
def test_the_option_of_a_packet_for_somebody_else_stays(node: Node, family: int) -> None:
    plain = frame(CLIENT[family], REMOTE_POD[family], packets.UDP, CLIENT_PORT, TARGET)
    one = named(plain, VIP[family], PORT)
    ran = node.run("from_netdev", one)
    assert (ran.passed, ran.data) == (True, one)


@families
@pytest.mark.parametrize("wrong", [{"kind": 0}, {"size": 6}], ids=["kind", "size"])
def test_other_options_are_none_of_ours(node: Node, family: int, wrong: dict[str, int]) -> None:
    serve_here(node, family, packets.UDP, VIP[family])
    one = named(arriving(family, packets.UDP), VIP[family], PORT, **wrong)
    ran = node.run("from_netdev", one)
    assert (ran.passed, ran.data) == (True, one)
    assert node.translations() == {}


@families
@transports
def test_one_port_to_two_frontends_is_the_firsts(node: Node, family: int, protocol: int) -> None:
    for frontend in (VIP, NODE):
        serve_here(node, family, protocol, frontend[family])
    plain = arriving(family, protocol)
    assert node.run("from_netdev", named(plain, VIP[family], PORT)).passed
    assert node.run("from_netdev", named(plain, OTHER_NODE[family], PORT)).drop_reason == 167
    assert answer(node, family, protocol).source == VIP[family]
    age(node, 100_000)
    assert node.run("from_netdev", named(plain, OTHER_NODE[family], PORT)).passed
    assert answer(node, family, protocol).source == OTHER_NODE[family]


@families
def test_the_backends_fin_ends_it(node: Node, family: int) -> None:
    for frontend in (VIP, NODE):
        serve_here(node, family, packets.TCP, frontend[family])
    plain = arriving(family, packets.TCP)
    node.run("from_netdev", named(plain, VIP[family], PORT))
    back = (POD[family], CLIENT[family], TARGET, CLIENT_PORT)
    node.run("to_netdev", tcp(*back, packets.SYN | packets.ACK))
    assert {entry.state for entry in node.translations().values()} == {2}
    ran = node.run("to_netdev", tcp(*back, packets.FIN | packets.ACK))
    assert frames.read(ran.data).source == VIP[family]
    assert {entry.state for entry in node.translations().values()} == {3}
    last = node.run("to_netdev", tcp(*back, packets.ACK))
    assert frames.read(last.data).source == VIP[family]
    assert node.run("from_netdev", named(plain, OTHER_NODE[family], PORT)).passed
    assert answer(node, family, packets.TCP).source == OTHER_NODE[family]


@families
def test_a_known_connection_outlives_its_service(node: Node, family: int) -> None:
    serve_here(node, family, packets.UDP, VIP[family])
    one = named(arriving(family, packets.UDP), VIP[family], PORT)
    assert node.run("from_netdev", one).passed
    node.clear("axoneme_lb")
    assert node.run("from_netdev", one).passed


@families
@pytest.mark.parametrize("remote_node", [False, True], ids=["world", "remote-node"])
def test_policy_at_the_backend_sees_the_client(node: Node, family: int, remote_node: bool) -> None:
    """Rules for the world let it in; those for nodes, whose packet a translated one would be, do not."""
    serve_here(node, family, packets.TCP, VIP[family])
    address = ipaddress.ip_address(POD[family]).packed
    entry = layout.EndpointEntry(POD_ID, 0, POD_IDENTITY, 1)
    entry = replace(entry, ipv4=address) if family == 4 else replace(entry, ipv6=address)
    node.maps["axoneme_ep"].update(layout.endpoint_key(1), entry.pack())
    identity = 6 if remote_node else WORLD_ID[family]
    node.policy(allow(Direction.INGRESS, identity), endpoint_id=POD_ID)
    ran = node.run("from_netdev", named(arriving(family, packets.TCP), VIP[family], PORT))
    judged = node.run("to_ep", ran.data, mark=ran.mark)
    assert judged.passed is not remote_node


def test_the_verifier_walks_no_more_than_expected(loaded: Node) -> None:
    for name in ("axoneme_from_netdev", "axoneme_to_netdev"):
        assert loaded.programs[name].verified_instructions < 50_000
