"""Two pods on one node, with the endpoints' programs on their interfaces and processes in a cgroup."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from axoneme.lib.bpf import KernelMap
from axoneme.lib.bpf.create import create_map
from axoneme.lib.bpf.features import is_bpffs
from axoneme.lib.bpf.links import Hook, TcxLink
from axoneme.lib.bpf.object import BpfObject
from axoneme.lib.bpf.program import BpfProgram
from axoneme.lib.policy.model import Direction, MapEntry, MapKey
from shim.bpf.manifest import object_path
from shim.maps import base, layout, node, sockets
from tests.bpf.harness import allow
from tests.bpf.namespaces import ifindex_in, inside, mac_in, set_sysctl
from tests.bpf.socketlab import BPFFS, Worker, network, run, unique, workload_cgroup

PORT = 8080
PODS = {"a": {4: "10.1.0.1", 6: "fd01::1"}, "b": {4: "10.1.0.2", 6: "fd01::2"}}
NUMBERS = {"a": 101, "b": 102}
OPEN = allow(Direction.EGRESS, 0) | allow(Direction.INGRESS, 0)
EXCHANGES = 50
PINS = BPFFS / unique("sockmap")


@dataclass
class Lab:
    """Two pods on a node whose endpoint programs judge all their packets."""

    node: str
    workers: dict[str, Worker]
    outsider: Worker
    maps: dict[str, KernelMap]
    programs: dict[str, BpfProgram]
    cgroup: Path
    generation: int = 1
    cookies: dict[str, int] = field(default_factory=dict)
    listeners: dict[str, int] = field(default_factory=dict)

    def ifindex(self, pod: str) -> int:
        return ifindex_in(self.node, f"to-{pod}")

    def policy(self, pod: str, entries: dict[MapKey, MapEntry]) -> None:
        """As the shim does: the inner map, then the generation."""
        inner = create_map(layout.POLICY_INNER)
        inner.update_batch(
            [
                (layout.policy_key(key), layout.policy_entry(key, one, cookie=0))
                for key, one in entries.items()
            ]
        )
        self.maps["axoneme_policy"].set_inner(layout.policy_outer_key(NUMBERS[pod]), inner)
        inner.close()
        self.generation += 1
        entry = layout.EndpointEntry(
            NUMBERS[pod],
            identity=5000 + NUMBERS[pod],
            policy_generation=self.generation,
            ipv4=base.address_bytes(PODS[pod][4])[12:],
            ipv6=base.address_bytes(PODS[pod][6]),
        )
        self.maps["axoneme_ep"].update(layout.endpoint_key(self.ifindex(pod)), entry.pack())

    def register(self, pod: str) -> None:
        entry = sockets.NetnsEntry(self.ifindex(pod), NUMBERS[pod])
        self.maps["axoneme_netns"].update(sockets.cookie_key(self.cookies[pod]), entry.pack())

    def fill(self) -> None:
        """Both pods known to the node, and allowed everything; no connection."""
        for name in ("axoneme_ct", "axoneme_pairs", "axoneme_local", "axoneme_netns"):
            self.maps[name].delete_batch([key for key, _ in self.maps[name].items()])
        for pod in PODS:
            self.policy(pod, OPEN)
            self.register(pod)
            for v in (4, 6):
                address = base.address_bytes(PODS[pod][v])
                entry = node.LocalEntry(self.ifindex(pod), NUMBERS[pod], bytes(6), bytes(6))
                self.maps["axoneme_local"].update(address, entry.pack())
                identity = layout.IpcacheEntry(5000 + NUMBERS[pod])
                self.maps["axoneme_ipexact"].update(address, identity.pack())

    def packets(self, pod: str = "a") -> int:
        """Both directions of the pod's interface."""
        shown = json.loads(run("ip", "-n", self.node, "-json", "-s", "link", "show", f"to-{pod}"))
        return int(shown[0]["stats64"]["rx"]["packets"] + shown[0]["stats64"]["tx"]["packets"])

    def states(self) -> list[int]:
        return [sockets.SocketPair.unpack(value).state for _, value in self.maps["axoneme_pairs"].items()]

    def in_hash(self) -> int:
        """Sockets in the hash."""
        return len(self.maps["axoneme_sockhash"].items())

    def connect(self, v: int, client: str = "a", server: str = "b", address: str = "") -> tuple[int, int]:
        """One connection: the client's number of it, and the server's."""
        address = address or PODS[server][v]
        if address not in self.listeners:
            self.listeners[address] = self.workers[server].call("open_listener", address, PORT)
        ours = self.workers[client].call("keep", "stream", address, PORT)
        return ours, self.workers[server].call("accept", self.listeners[address])

    def talk(self, ours: int, theirs: int, count: int = EXCHANGES, client: str = "a") -> None:
        """Question and answer."""
        a, b = self.workers[client], self.workers["b"]
        for number in range(count):
            a.call("say", ours, f"question {number:04d}")
            assert b.call("hear", theirs, 13) == {"text": f"question {number:04d}"}
            b.call("say", theirs, f"answer {number:04d}")
            assert a.call("hear", ours, 11) == {"text": f"answer {number:04d}"}


def cable(node_netns: str, pod: str, netns: str) -> None:
    """The pod's interface, as the shim makes it."""
    device = f"to-{pod}"
    words = ("type", "veth", "peer", "name", "eth0", "netns", netns)
    run("ip", "-n", node_netns, "link", "add", device, *words)
    for where, name in ((node_netns, device), (netns, "eth0")):
        run("ip", "-n", where, "link", "set", name, "addrgenmode", "none", "up")
    ours, theirs = mac_in(node_netns, device), mac_in(netns, "eth0")
    for v, gateway in ((4, "169.254.1.1"), (6, "fe80::1")):
        address, bits = PODS[pod][v], {4: 32, 6: 128}[v]
        extra = ["nodad"] if v == 6 else []
        run("ip", "-n", netns, "address", "add", f"{address}/{bits}", "dev", "eth0", *extra)
        run("ip", "-n", netns, "route", "add", f"{gateway}/{bits}", "dev", "eth0")
        run("ip", "-n", netns, f"-{v}", "route", "add", "default", "via", gateway, "dev", "eth0")
        run("ip", "-n", node_netns, "route", "add", f"{address}/{bits}", "dev", device)
        permanent(netns, gateway, ours, "eth0")
        permanent(node_netns, address, theirs, device)


def permanent(netns: str, address: str, mac: bytes, device: str) -> None:
    words = ("neighbour", "replace", address, "lladdr", mac.hex(":"), "dev", device, "nud", "permanent")
    run("ip", "-n", netns, *words)


def loaded(*names: str, **constants: int) -> tuple[dict[str, KernelMap], dict[str, BpfProgram]]:
    maps: dict[str, KernelMap] = {}
    programs: dict[str, BpfProgram] = {}
    for name in names:
        with BpfObject(object_path(name)) as one:
            if name == "sockmap.o":
                one.set_constants(**constants)
            one.load(pins=PINS)
            programs |= one.programs()
            maps |= {key: one.map(key) for key in one.map_specs()}
    return maps, programs


@contextmanager
def pods(**constants: int) -> Iterator[Lab]:
    """The laboratory; whoever calls removes the pins. The programs of sockets are loaded, not attached."""
    if not is_bpffs(BPFFS):
        subprocess.run(["mount", "-t", "bpf", "bpf", str(BPFFS)], check=True)
    with ExitStack() as stack:
        cgroup = stack.enter_context(workload_cgroup(unique("sockmap")))
        middle = stack.enter_context(network(unique("n")))
        netns = {pod: stack.enter_context(network(unique(f"p{pod}"))) for pod in PODS}
        for pod, name in netns.items():
            cable(middle, pod, name)
        set_sysctl(middle, "net/ipv4/ip_forward", "1")
        set_sysctl(middle, "net/ipv6/conf/all/forwarding", "1")
        workers = {pod: Worker(name, cgroup) for pod, name in netns.items()}
        outsider = Worker(netns["a"])
        for worker in (*workers.values(), outsider):
            stack.callback(worker.close)
        maps, programs = loaded("endpoint.o", "sockmap.o", **constants)
        for pod in PODS:
            for name, hook in (("axoneme_from_ep", Hook.TCX_INGRESS), ("axoneme_to_ep", Hook.TCX_EGRESS)):
                index = ifindex_in(middle, f"to-{pod}")
                attach = partial(TcxLink.create, programs[name], ifindex=index, hook=hook)
                stack.callback(inside(middle, attach).close)
        cookies = {pod: worker.call("netns_cookie") for pod, worker in workers.items()}
        yield Lab(middle, workers, outsider, maps, programs, cgroup, cookies=cookies)
