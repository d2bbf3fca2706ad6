"""The host's firewall in test runs: what is judged, what always passes, and that both families are alike."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from axoneme.lib.policy.model import Direction, MapEntry, MapKey, PortBlock
from shim.maps import node as nodemaps
from tests.bpf import frames, packets
from tests.bpf.harness import ANY, allow, deny
from tests.bpf.nodeharness import DROPPED, MARK_IDENTITY, Node
from tests.bpf.nodescene import (
    CLIENT,
    NODE,
    OTHER_NODE,
    POD,
    POD_IDENTITY,
    REMOTE_POD,
    families,
    ports,
    set_scene,
)

pytestmark = pytest.mark.root
IN, OUT = Direction.INGRESS, Direction.EGRESS
SSH, TUNNEL = 22, 8472
WORLD_IDENTITY = {4: 9, 6: 10}
TO_HOST, FROM_HOST = 2, 7
TRACE, VERDICT = 4, 5
ROUTER_ADDRESS = {4: "10.1.0.1", 6: "fd00:10:1::1"}


@pytest.fixture(scope="module")
def loaded(compiled: None) -> Iterator[Node]:
    one = Node("host", ("host.o",))
    yield one
    one.close()


@pytest.fixture
def node(loaded: Node, family: int) -> Node:
    """A node whose firewall is on and whose policy was never written."""
    set_scene(loaded, family)
    loaded.configure(flags=nodemaps.NODE_HOST_FIREWALL, host_policy_generation=1)
    loaded.node_ip(ROUTER_ADDRESS[family], nodemaps.NODE_IP_OWN)
    return loaded


def tcp(
    source: str, destination: str, port: int = SSH, flags: int = packets.SYN, source_port: int = 999
) -> bytes:
    return frames.sealed(source, destination, packets.TCP, packets.tcp(source_port, port, flags))


def port(protocol: int, number: int) -> PortBlock:
    return PortBlock(protocol, number, 16)


def nothing() -> dict[MapKey, MapEntry]:
    """Default deny in both directions."""
    return deny(IN, 65_000)


@families
def test_before_its_first_policy_a_node_enforces_nothing(node: Node, family: int) -> None:
    ran = node.run("host_in", tcp(CLIENT[family], NODE[family]))
    assert (ran.passed, ran.events, node.connections()) == (True, [], {})
    assert node.run("host_out", tcp(NODE[family], CLIENT[family])).passed
    node.policy(nothing())
    assert node.run("host_in", tcp(CLIENT[family], NODE[family])).drop_reason == 133
    assert node.run("host_out", tcp(NODE[family], CLIENT[family])).drop_reason == 133


@families
def test_switched_off(node: Node, family: int) -> None:
    node.policy(nothing())
    node.configure(flags=0)
    assert node.run("host_in", tcp(CLIENT[family], NODE[family])).passed


@families
@pytest.mark.parametrize("address", [NODE, ROUTER_ADDRESS], ids=["node", "router"])
def test_a_pod_meets_the_hosts_policy(node: Node, family: int, address: dict[int, str]) -> None:
    """Advisory #4: by IPv6 as by IPv4."""
    node.policy(allow(IN, WORLD_IDENTITY[family]))
    ran = node.run("host_in", tcp(POD[family], address[family]))
    assert ran.drop_reason == 133
    assert {int(e["source_identity"]) for e in ran.events} == {POD_IDENTITY}
    assert {int(e["destination_identity"]) for e in ran.events} == {1}
    node.policy(allow(IN, POD_IDENTITY, port(packets.TCP, SSH)))
    assert node.run("host_in", tcp(POD[family], address[family])).passed
    assert node.run("host_in", tcp(POD[family], address[family], SSH + 1)).drop_reason == 133


def test_link_local_addresses_are_the_nodes(loaded: Node) -> None:
    set_scene(loaded, 6)
    loaded.configure(flags=nodemaps.NODE_HOST_FIREWALL, host_policy_generation=1)
    loaded.policy(nothing())
    assert loaded.run("host_in", tcp(POD[6], "fe80::1")).drop_reason == 133
    assert loaded.run("host_out", tcp("fe80::1", CLIENT[6])).drop_reason == 133


@families
def test_answers_pass_both_ways(node: Node, family: int) -> None:
    node.policy(allow(IN, WORLD_IDENTITY[family], port(packets.TCP, SSH)) | allow(OUT, POD_IDENTITY))
    first = node.run("host_in", tcp(CLIENT[family], NODE[family]))
    assert first.passed
    assert [(int(e["event_type"]), int(e["sub_type"])) for e in first.events][-1] == (TRACE, TO_HOST)
    synack = packets.SYN | packets.ACK
    assert node.run("host_out", tcp(NODE[family], CLIENT[family], 999, synack, SSH)).passed
    assert node.run("host_out", tcp(NODE[family], CLIENT[family], 998, synack, SSH)).drop_reason == 133
    out = node.run("host_out", tcp(NODE[family], POD[family]))
    assert [(int(e["event_type"]), int(e["sub_type"])) for e in out.events][-1] == (TRACE, FROM_HOST)
    assert node.run("host_in", tcp(POD[family], NODE[family], 999, synack, SSH)).passed
    assert {key.endpoint_id for key in node.connections()} == {0}


@families
def test_a_deny_wins_and_names_itself(node: Node, family: int) -> None:
    node.policy(allow(IN, 0) | deny(IN, POD_IDENTITY))
    ran = node.run("host_in", tcp(POD[family], NODE[family]))
    assert ran.drop_reason == 181
    assert {int(e["endpoint_id"]) for e in ran.events} == {0}
    assert VERDICT in {int(e["event_type"]) for e in ran.events}


@families
def test_a_change_of_policy_cuts_a_connection(node: Node, family: int) -> None:
    node.policy(allow(IN, WORLD_IDENTITY[family]))
    data = tcp(CLIENT[family], NODE[family], SSH, packets.ACK)
    assert node.run("host_in", tcp(CLIENT[family], NODE[family])).passed
    assert node.run("host_in", data).passed
    node.policy(nothing())
    node.configure(host_policy_generation=2)
    assert node.run("host_in", data).drop_reason == 133


@families
def test_audit_reports_and_lets_pass(node: Node, family: int) -> None:
    node.policy(nothing())
    node.configure(flags=nodemaps.NODE_HOST_FIREWALL | nodemaps.NODE_HOST_AUDIT)
    ran = node.run("host_in", tcp(CLIENT[family], NODE[family]))
    assert ran.passed
    assert {int(e["verdict"]) for e in ran.events} == {4}


@families
def test_the_identity_that_came_with_a_packet_decides(node: Node, family: int) -> None:
    node.policy(allow(IN, 7777))
    packet = tcp(REMOTE_POD[family], NODE[family])
    assert node.run("host_in", packet).drop_reason == 133
    assert node.run("host_in", packet, mark=MARK_IDENTITY | 7777).passed


@families
def test_packets_of_others_are_left_alone(node: Node, family: int) -> None:
    node.policy(nothing())
    assert node.run("host_in", tcp(CLIENT[family], POD[family])).passed
    assert node.run("host_in", packets.packet(CLIENT[family], POD[family], packets.TCP, b"")).passed
    assert node.run("host_out", tcp(POD[family], CLIENT[family])).passed
    forwarded = node.run("host_out", tcp(NODE[family], REMOTE_POD[family]), mark=MARK_IDENTITY | 9)
    assert forwarded.passed, "a client's packet to a backend, with the node's address"
    assert node.connections() == {}


@families
def test_malformed_packets_to_the_node(node: Node, family: int) -> None:
    node.policy(allow(IN, 0))
    short = packets.packet(CLIENT[family], NODE[family], packets.TCP, bytes(9))
    assert node.run("host_in", short).drop_reason == 135
    later = packets.packet(CLIENT[family], NODE[family], packets.UDP, bytes(16), fragment=1480)
    assert node.run("host_in", later).drop_reason == 175


@families
def test_fragments_follow_the_first(node: Node, family: int) -> None:
    node.policy(allow(IN, 0, port(packets.UDP, 53)))
    udp = packets.udp(999, 53, bytes(2000))
    first = frames.sealed(CLIENT[family], NODE[family], packets.UDP, udp[:1480], more=True)
    later = frames.sealed(CLIENT[family], NODE[family], packets.UDP, udp[1480:], fragment=1480)
    assert node.run("host_in", first).passed
    assert node.run("host_in", later).passed


@families
def test_protocols_without_ports_are_decided_by_peer(node: Node, family: int) -> None:
    esp = frames.sealed(CLIENT[family], NODE[family], 50, bytes(16))
    node.policy(allow(IN, WORLD_IDENTITY[family], port(packets.TCP, SSH)))
    assert node.run("host_in", esp).drop_reason == 133
    node.policy(allow(IN, WORLD_IDENTITY[family], ANY))
    assert node.run("host_in", esp).passed


@families
@pytest.mark.parametrize("protocol", [packets.TCP, packets.UDP, packets.SCTP], ids=["tcp", "udp", "sctp"])
def test_every_transport(node: Node, family: int, protocol: int) -> None:
    packet = frames.sealed(CLIENT[family], NODE[family], protocol, ports(999, 80)[protocol])
    node.policy(nothing())
    assert node.run("host_in", packet).drop_reason == 133
    node.policy(allow(IN, 0, port(protocol, 80)))
    assert node.run("host_in", packet).passed


@families
def test_ping_needs_a_rule(node: Node, family: int) -> None:
    protocol = packets.ICMP if family == 4 else packets.ICMP6
    ping = frames.sealed(CLIENT[family], NODE[family], protocol, packets.icmp(packets.ECHO[family], 5))
    pong = frames.sealed(NODE[family], CLIENT[family], protocol, packets.icmp(packets.ECHO_REPLY[family], 5))
    node.policy(nothing())
    assert node.run("host_in", ping).drop_reason == 133
    node.policy(allow(IN, 0, port(protocol, packets.ECHO[family])))
    assert node.run("host_in", ping).passed
    assert node.run("host_out", pong).passed


@families
def test_tunnels_between_nodes_always_pass(node: Node, family: int) -> None:
    node.policy(nothing())
    udp = packets.udp(55_555, TUNNEL, bytes(60))
    incoming = frames.sealed(OTHER_NODE[family], NODE[family], packets.UDP, udp)
    outgoing = frames.sealed(NODE[family], OTHER_NODE[family], packets.UDP, udp)
    assert node.run("host_in", incoming).passed
    assert node.run("host_out", outgoing).passed
    assert node.run("host_in", frames.error_about(CLIENT[family], outgoing)).passed
    assert node.connections() == {}
    stranger = frames.sealed(CLIENT[family], NODE[family], packets.UDP, udp)
    assert node.run("host_in", stranger).drop_reason == 133
    other = frames.sealed(OTHER_NODE[family], NODE[family], packets.UDP, packets.udp(TUNNEL, 99))
    assert node.run("host_in", other).drop_reason == 133


@families
def test_an_error_about_a_connection_is_part_of_it(node: Node, family: int) -> None:
    node.policy(allow(OUT, 0))
    asked = frames.sealed(NODE[family], CLIENT[family], packets.UDP, packets.udp(999, 53))
    assert node.run("host_in", frames.error_about(CLIENT[family], asked)).drop_reason == 133
    assert node.run("host_out", asked).passed
    assert node.run("host_in", frames.error_about(CLIENT[family], asked)).passed


@families
def test_leases_arrive(node: Node, family: int) -> None:
    node.policy(nothing())
    server, client, address = (67, 68, NODE[4]) if family == 4 else (547, 546, "fe80::5")
    source = CLIENT[4] if family == 4 else "fe80::1"
    lease = frames.sealed(source, address, packets.UDP, packets.udp(server, client))
    assert node.run("host_in", lease).passed
    assert (
        node.run("host_out", frames.sealed(address, source, packets.UDP, packets.udp(server, client))).answer
        == DROPPED
    )


def test_address_resolution_and_neighbours_always_pass(loaded: Node) -> None:
    set_scene(loaded, 6)
    loaded.configure(flags=nodemaps.NODE_HOST_FIREWALL, host_policy_generation=1)
    loaded.policy(nothing())
    solicit = packets.packet(
        CLIENT[6], NODE[6], packets.ICMP6, packets.icmp(135, payload=bytes(16)), hop_limit=255
    )
    assert loaded.run("host_in", packets.ethernet(bytes(28), ethertype=0x0806)).passed
    assert loaded.run("host_in", solicit).passed
    multicast = frames.sealed("fe80::2", "ff02::fb", packets.UDP, packets.udp(5353, 5353))
    assert loaded.run("host_in", multicast).passed


def test_without_a_policy_for_a_family_both_are_closed(loaded: Node) -> None:
    for family in (4, 6):
        set_scene(loaded, family)
        loaded.configure(flags=nodemaps.NODE_HOST_FIREWALL, host_policy_generation=1)
        loaded.policy(allow(IN, WORLD_IDENTITY[family]))
        assert loaded.run("host_in", tcp(POD[family], NODE[family])).drop_reason == 133
        assert loaded.run("host_in", tcp(CLIENT[family], NODE[family])).passed
