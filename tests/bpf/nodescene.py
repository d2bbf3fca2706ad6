"""The scene of the node's test runs: addresses, identities, and a node that is set up with them."""

from __future__ import annotations

import pytest

from shim.maps import layout
from shim.maps import node as nodemaps
from tests.bpf import packets
from tests.bpf.nodeharness import Node

families = pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])
NODE = {4: "192.0.2.1", 6: "2001:db8::1"}
OTHER_NODE = {4: "192.0.2.2", 6: "2001:db8::2"}
CLIENT = {4: "203.0.113.9", 6: "2001:db8:c::9"}
VIP = {4: "198.51.100.7", 6: "2001:db8:f::7"}
POD = {4: "10.1.0.5", 6: "fd00:10:1::5"}
REMOTE_POD = {4: "10.1.9.9", 6: "fd00:10:1:9::9"}
ROUTER = {4: "203.0.113.1", 6: "2001:db8:c::1"}
WORLD = {4: "0.0.0.0/0", 6: "::/0"}
POD_NETWORK = {4: "10.1.0.0/16", 6: "fd00:10:1::/48"}
POD_ID, POD_IDENTITY, REMOTE_IDENTITY = 77, 5001, 6001
FIRST_PORT, LAST_PORT = 40_000, 40_999
UPLINK, OVERLAY = 1, 1
"""Test runs have only lo; a redirect's target is not looked up before it happens."""


def set_scene(node: Node, family: int) -> None:
    """A node with one pod; the pod network is not masqueraded, the rest is the world."""
    node.reset()
    node.configure(
        ipv4=NODE[4],
        ipv6=NODE[6],
        flags=nodemaps.NODE_MASQUERADE4 | nodemaps.NODE_MASQUERADE6,
        uplink_ifindex=UPLINK,
        overlay_ifindex=OVERLAY,
        nat_port_min=FIRST_PORT,
        nat_port_max=LAST_PORT,
    )
    node.node_ip(NODE[family], nodemaps.NODE_IP_OWN)
    node.node_ip(OTHER_NODE[family], nodemaps.NODE_IP_TUNNEL_PEER)
    node.local(POD[family], endpoint_id=POD_ID)
    node.identity(WORLD[family], 9 if family == 4 else 10)
    node.identity(NODE[family], 1)
    node.identity(OTHER_NODE[family], 6)
    node.identity(POD[family], POD_IDENTITY)
    node.identity(REMOTE_POD[family], REMOTE_IDENTITY, tunnel=OTHER_NODE[family])
    node.not_masqueraded(POD_NETWORK[family])


def ports(source: int, destination: int) -> dict[int, bytes]:
    """Transport headers by protocol, TCP as a SYN."""
    return {
        packets.TCP: packets.tcp(source, destination),
        packets.UDP: packets.udp(source, destination),
        packets.SCTP: packets.sctp(source, destination),
    }


def age(node: Node, seconds: int) -> None:
    """Makes all translations older."""
    for key, entry in node.translations().items():
        fields = {name: getattr(entry, name) for name in entry.__slots__}
        fields["last_seen_ns"] = max(entry.last_seen_ns - seconds * 10**9, 0)
        node.maps["axoneme_nat"].update(key.pack(), type(entry)(**fields).pack())


def connect(node: Node, key: layout.CtKey, *, last_seen_ns: int) -> None:
    """Puts an established connection in place."""
    entry = layout.CtEntry(last_seen_ns, 1, 2, 0, 2, 1, 0)
    node.maps["axoneme_ct"].update(key.pack(), entry.pack())
