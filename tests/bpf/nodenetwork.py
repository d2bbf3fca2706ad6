"""Two nodes, a router and a client in namespaces of their own, with real devices between them.

client -- (router) -- A, B (one network)        each node has one pod behind a veth
"""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
from collections.abc import Callable
from typing import ClassVar, Final, TypeVar

from axoneme.lib.bpf.links import Hook, TcxLink
from shim.maps import node as nodemaps
from tests.bpf.namespaces import TX_CHECKSUMS, ifindex_in, inside, set_feature, set_sysctl
from tests.bpf.nodeharness import Node
from tests.bpf.nodescene import CLIENT, NODE, OTHER_NODE, POD, REMOTE_POD, ROUTER, WORLD

T = TypeVar("T")
_numbers = itertools.count()
FAMILY: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
TUNNEL_DEVICE, TUNNEL_PORT, TUNNEL_MAC = "axo_vxlan", 8472, "0a:61:78:6f:00:01"
TUNNEL_MTU: Final = 1430  # as much as fits into IPv6 of 1500
GATEWAY: Final = {4: "192.0.2.254", 6: "2001:db8::fe"}
POD_GATEWAY: Final = {4: "169.254.1.1", 6: "fe80::1"}
BITS: Final = {4: "32", 6: "128"}
POD_IDS: Final = {"a": (77, 5001), "b": (78, 6001)}
PODS: Final = {"a": POD, "b": REMOTE_POD}
NODES: Final = {"a": NODE, "b": OTHER_NODE}
POD_NETWORKS: Final = {
    "a": {4: "10.1.0.0/24", 6: "fd00:10:1::/64"},
    "b": {4: "10.1.9.0/24", 6: "fd00:10:1:9::/64"},
}


def ip(netns: str, *words: str) -> None:
    subprocess.run(["ip", "-n", netns, *words], check=True, capture_output=True)


class Network:
    """Builds everything; `close` removes it. Names of machines: client, router, a, b, pa, pb."""

    objects: ClassVar[tuple[str, ...]] = ("netdev.o", "overlay.o")
    machines: ClassVar[tuple[str, ...]] = ("router", "client", "a", "b", "pa", "pb")

    def __init__(self) -> None:
        self.number = f"{os.getpid()}-{next(_numbers)}"
        self.prefix = f"axt-d-{self.number}"
        self.nodes: dict[str, Node] = {}
        self.links: list[TcxLink] = []
        for name in self.machines:
            subprocess.run(["ip", "netns", "add", self.name(name)], check=True)
            ip(self.name(name), "link", "set", "lo", "up")
            set_sysctl(self.name(name), "net/ipv4/ip_forward", "1")
            set_sysctl(self.name(name), "net/ipv6/conf/all/forwarding", "1")
        self._routers_devices()
        for letter in "ab":
            self._pod(letter)

    def name(self, machine: str) -> str:
        return f"{self.prefix}-{machine}"

    def inside(self, machine: str, work: Callable[[], T]) -> T:
        return inside(self.name(machine), work)

    def ip(self, machine: str, *words: str) -> None:
        ip(self.name(machine), *words)

    def close(self) -> None:
        for link in self.links:
            link.close()
        for node in self.nodes.values():
            node.close()
        for name in self.machines:
            subprocess.run(["ip", "netns", "del", self.name(name)], check=False)

    def _veth(self, one: str, device: str, other: str, far: str) -> None:
        self.ip(one, "link", "add", device, "type", "veth", "peer", "name", far, "netns", self.name(other))
        self.ip(one, "link", "set", device, "up")
        self.ip(other, "link", "set", far, "up")

    def _address(self, machine: str, device: str, address: str, bits: str) -> None:
        extra = ["nodad"] if ":" in address else []
        self.ip(machine, "address", "add", f"{address}/{bits}", "dev", device, *extra)

    def _routers_devices(self) -> None:
        self.ip("router", "link", "add", "lan", "type", "bridge")
        self.ip("router", "link", "set", "lan", "up")
        for letter in "ab":
            self._veth("router", f"lan{letter}", letter, "eth0")
            self.ip("router", "link", "set", f"lan{letter}", "master", "lan")
        self._veth("router", "far", "client", "eth0")
        for family, bits in ((4, "24"), (6, "64")):
            self._address("router", "lan", GATEWAY[family], bits)
            self._address("router", "far", ROUTER[family], bits)
            self._address("client", "eth0", CLIENT[family], bits)
            self.ip("client", f"-{family}", "route", "add", "default", "via", ROUTER[family])
            for letter in "ab":
                self._address(letter, "eth0", NODES[letter][family], bits)
                self.ip(letter, f"-{family}", "route", "add", "default", "via", GATEWAY[family])

    def _pod(self, letter: str) -> None:
        pod = f"p{letter}"
        self._veth(letter, "lxc0", pod, "eth0")
        for family in (4, 6):
            self._address(letter, "lxc0", POD_GATEWAY[family], BITS[family] if family == 4 else "64")
            self._address(pod, "eth0", PODS[letter][family], BITS[family])
            gateway, route = POD_GATEWAY[family], ("-4" if family == 4 else "-6", "route", "add")
            if family == 4:
                self.ip(pod, *route, gateway, "dev", "eth0", "scope", "link")
            self.ip(pod, *route, "default", "via", gateway, "dev", "eth0")
            self.ip(letter, *route, PODS[letter][family], "dev", "lxc0")

    def route_directly(self) -> None:
        """Routes to the other node's pods by the shared network."""
        for one, other in (("a", "b"), ("b", "a")):
            for family in (4, 6):
                route = (POD_NETWORKS[other][family], "via", NODES[other][family])
                self.ip(one, f"-{family}", "route", "replace", *route)

    def tunnel(self) -> None:
        """A tunnel device on both nodes, and routes by it."""
        for one, other in (("a", "b"), ("b", "a")):
            words = ("type", "vxlan", "external", "dstport", str(TUNNEL_PORT), "nolearning")
            self.ip(one, "link", "add", TUNNEL_DEVICE, "mtu", str(TUNNEL_MTU), "address", TUNNEL_MAC, *words)
            self.ip(one, "link", "set", TUNNEL_DEVICE, "arp", "off")
            self.ip(one, "link", "set", TUNNEL_DEVICE, "up")
            for family in (4, 6):
                route = (POD_NETWORKS[other][family], "dev", TUNNEL_DEVICE)
                self.ip(one, f"-{family}", "route", "replace", *route)

    def attach(self, letter: str, device: str, program: str, hook: Hook) -> None:
        node, netns = self.nodes[letter], self.name(letter)
        index = ifindex_in(netns, device)
        chosen = node.programs[f"axoneme_{program}"]
        self.links.append(inside(netns, lambda: TcxLink.create(chosen, ifindex=index, hook=hook)))

    def start(self, *, tunnel: bool = False, underlay: int = 4) -> None:
        """Loads both nodes' programs and describes the network to them."""
        for letter in "ab":
            node = Node(f"{self.number}-{letter}", self.objects)
            self.nodes[letter] = node
            self._describe(letter, tunnel=tunnel, underlay=underlay)
            self.attach(letter, "eth0", "from_netdev", Hook.TCX_INGRESS)
            self.attach(letter, "eth0", "to_netdev", Hook.TCX_EGRESS)
            if tunnel:
                self.attach(letter, TUNNEL_DEVICE, "from_overlay", Hook.TCX_INGRESS)
                self.attach(letter, TUNNEL_DEVICE, "to_overlay", Hook.TCX_EGRESS)

    def _describe(self, letter: str, *, tunnel: bool, underlay: int) -> None:
        node, netns, other = self.nodes[letter], self.name(letter), "b" if letter == "a" else "a"
        masquerading = nodemaps.NODE_MASQUERADE4 | nodemaps.NODE_MASQUERADE6
        node.configure(
            ipv4=NODES[letter][4],
            ipv6=NODES[letter][6],
            flags=masquerading | (nodemaps.NODE_TUNNEL if tunnel else 0),
            uplink_ifindex=ifindex_in(netns, "eth0"),
            overlay_ifindex=ifindex_in(netns, TUNNEL_DEVICE) if tunnel else 0,
            nat_port_min=61_000,
            nat_port_max=65_535,
        )
        for family in (4, 6):
            node.node_ip(NODES[letter][family], nodemaps.NODE_IP_OWN)
            node.node_ip(NODES[other][family], nodemaps.NODE_IP_TUNNEL_PEER)
            node.identity(WORLD[family], 9 if family == 4 else 10)
            node.identity(f"{NODES[letter][family]}/{BITS[family]}", 1)
            node.identity(f"{NODES[other][family]}/{BITS[family]}", 6)
            node.local(PODS[letter][family], endpoint_id=POD_IDS[letter][0])
            node.identity(f"{PODS[letter][family]}/{BITS[family]}", POD_IDS[letter][1])
            there = NODES[other][underlay] if tunnel else None
            node.identity(f"{PODS[other][family]}/{BITS[family]}", POD_IDS[other][1], tunnel=there)

    def forget(self) -> None:
        """No services, no translations, nothing to read."""
        for node in self.nodes.values():
            for name in (
                "axoneme_lb",
                "axoneme_lb_slots",
                "axoneme_lb_backends",
                "axoneme_nat",
                "axoneme_frag",
            ):
                node.clear(name)
            node.drain()

    def checksums_by_software(self, *places: tuple[str, str]) -> None:
        """Machines and devices that fill in every checksum themselves, so that receivers check it."""
        for machine, device in places:
            set_feature(self.name(machine), device, TX_CHECKSUMS, 0)


ENDS: Final = (("client", "eth0"), ("pa", "eth0"), ("pb", "eth0"))
HOPS: Final = (
    *(("a", "eth0"), ("b", "eth0"), ("a", "lxc0"), ("b", "lxc0")),
    *(("router", "far"), ("router", "lana"), ("router", "lanb")),
)
