"""One node with two pods behind veths and a machine beyond its uplink, each in a namespace of its own."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable
from typing import Final, TypeVar

from shim.maps import base, node
from tests.bpf.attachment import Attachment, attach
from tests.bpf.harness import PEER, PEER_IDENTITY, POD, POD_ID, POD_IDENTITY, Datapath
from tests.bpf.namespaces import TX_CHECKSUMS, ifindex_in, inside, mac_in, set_feature, set_sysctl

T = TypeVar("T")
FAMILY: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
BITS: Final = {4: "32", 6: "128"}
GATEWAY: Final = {4: "169.254.1.1", 6: "fe80::1"}
NODE: Final = {4: "192.0.2.1", 6: "2001:db8::1"}
FAR: Final = {4: "192.0.2.2", 6: "2001:db8::2"}
PODS: Final = {"p1": (POD, POD_ID, POD_IDENTITY), "p2": (PEER, 78, PEER_IDENTITY)}


class PodNetwork:
    """Machines: n (the node), p1 and p2 (pods), far. `close` removes everything."""

    def __init__(self, datapath: Datapath) -> None:
        self.datapath = datapath
        self.prefix = f"axt-c-{os.getpid()}"
        self.links: list[Attachment] = []
        self.machines = ("n", "p1", "p2", "far")
        for machine in self.machines:
            subprocess.run(["ip", "netns", "add", self.name(machine)], check=True)
            self.ip(machine, "link", "set", "lo", "up")
        set_sysctl(self.name("n"), "net/ipv4/ip_forward", "1")
        set_sysctl(self.name("n"), "net/ipv6/conf/all/forwarding", "1")
        self._uplink()
        for pod in PODS:
            self._pod(pod)
        for pod in PODS:
            self._attach(pod)

    def name(self, machine: str) -> str:
        return f"{self.prefix}-{machine}"

    def ip(self, machine: str, *words: str) -> None:
        subprocess.run(["ip", "-n", self.name(machine), *words], check=True, capture_output=True)

    def inside(self, machine: str, work: Callable[[], T]) -> T:
        return inside(self.name(machine), work)

    def uplink(self) -> int:
        return ifindex_in(self.name("n"), "eth0")

    def checksums_by_software(self, *, on: bool) -> None:
        """Whether pods and node fill in every checksum themselves; else veths pass them on half done."""
        for machine, device in (
            ("p1", "eth0"),
            ("p2", "eth0"),
            ("n", "lxc-p1"),
            ("n", "lxc-p2"),
            ("far", "eth0"),
        ):
            set_feature(self.name(machine), device, TX_CHECKSUMS, 0 if on else 1)

    def close(self) -> None:
        for link in self.links:
            link.close()
        for machine in self.machines:
            subprocess.run(["ip", "netns", "del", self.name(machine)], check=False)

    def _veth(self, machine: str, device: str) -> None:
        names = (device, "type", "veth", "peer", "name", "eth0", "netns", self.name(machine))
        self.ip("n", "link", "add", *names)
        self.ip("n", "link", "set", device, "up")
        self.ip(machine, "link", "set", "eth0", "up")

    def _address(self, machine: str, device: str, address: str, bits: str) -> None:
        extra = ["nodad"] if ":" in address else []
        self.ip(machine, "address", "add", f"{address}/{bits}", "dev", device, *extra)

    def _uplink(self) -> None:
        self._veth("far", "eth0")
        for family, bits in ((4, "24"), (6, "64")):
            self._address("n", "eth0", NODE[family], bits)
            self._address("far", "eth0", FAR[family], bits)
            for addresses, _, _ in PODS.values():
                self.ip("far", f"-{family}", "route", "add", addresses[family], "via", NODE[family])

    def _pod(self, pod: str) -> None:
        device = f"lxc-{pod}"
        self._veth(pod, device)
        for family in (4, 6):
            self._address("n", device, GATEWAY[family], "32" if family == 4 else "64")
            self._address(pod, "eth0", PODS[pod][0][family], BITS[family])
            if family == 4:
                self.ip(pod, "-4", "route", "add", GATEWAY[4], "dev", "eth0", "scope", "link")
            self.ip(pod, f"-{family}", "route", "add", "default", "via", GATEWAY[family], "dev", "eth0")
            self.ip("n", f"-{family}", "route", "add", PODS[pod][0][family], "dev", device)

    def _attach(self, pod: str) -> None:
        netns, device = self.name("n"), f"lxc-{pod}"
        index = ifindex_in(netns, device)
        for program in ("axoneme_from_ep", "axoneme_to_ep"):
            chosen = self.datapath.programs[program]
            self.links.append(attach(chosen, netns=netns, ifindex=index))

    def describe(self) -> None:
        """Tells the programs of the pods; policies are up to the test."""
        for pod, (addresses, endpoint_id, identity) in PODS.items():
            index = ifindex_in(self.name("n"), f"lxc-{pod}")
            mac, host_mac = mac_in(self.name(pod), "eth0"), mac_in(self.name("n"), f"lxc-{pod}")
            self.datapath.endpoint(
                endpoint_id=endpoint_id,
                identity=identity,
                ipv4=addresses[4],
                ipv6=addresses[6],
                ifindex=index,
            )
            for family in (4, 6):
                local = node.LocalEntry(index, endpoint_id, mac, host_mac)
                key = base.address_bytes(addresses[family])
                self.datapath.maps["axoneme_local"].update(key, local.pack())
                self.datapath.identity(f"{addresses[family]}/{BITS[family]}", identity)
        for family in (4, 6):
            self.datapath.identity(f"{NODE[family]}/{BITS[family]}", 1)
            self.datapath.identity({4: "0.0.0.0/0", 6: "::/0"}[family], 9 if family == 4 else 10)
