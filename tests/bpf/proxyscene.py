"""A node whose pod's questions to port 53 are redirected, a small proxy on it, and servers that answer them.

pa ── a ── router ── b ── pb         a: the node with the programs of endpoints, and the proxy
qa ──┘        └── client             client: the world, masqueraded
"""

from __future__ import annotations

import itertools
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, Final

from axoneme.lib.bpf.create import create_map
from axoneme.lib.bpf.links import Hook
from axoneme.lib.policy.model import Action, Direction, MapEntry, MapKey, PortBlock, Redirect, one_port
from shim.maps import base, layout, node
from shim.maps.proxied import TCP, UDP, ProxiedPort, words_of
from shim.privileged import proxyroutes
from tests.bpf import packets as p
from tests.bpf.frames import sealed
from tests.bpf.namespaces import ifindex_in, mac_in, set_sysctl
from tests.bpf.nodenetwork import BITS, FAMILY, NODES, POD_GATEWAY, POD_IDS, PODS, Network
from tests.bpf.nodescene import CLIENT, POD, REMOTE_POD

PROXY_PORT, DNS_PORT = 10_053, 53
SECOND: Final = {4: "10.1.0.99", 6: "fd00:10:1::99"}
SECOND_ID, SECOND_IDENTITY = 79, 7001
SERVERS: Final = {
    "client": CLIENT,
    "b": NODES["b"],
    "pb": REMOTE_POD,
    "qa": SECOND,
    "a": NODES["a"],
}
"""Where a server is: beyond the router, another node, its pod, a pod of this node, this node itself."""
LISTENER: Final = {4: "127.0.0.1", 6: "::1"}
TRANSPARENT: Final = {4: (socket.IPPROTO_IP, 19), 6: (socket.IPPROTO_IPV6, 75)}
ORIGINAL: Final = {4: (socket.IPPROTO_IP, 20), 6: (socket.IPPROTO_IPV6, 74)}
HEADER_INCLUDED: Final = {4: (socket.IPPROTO_IP, socket.IP_HDRINCL), 6: (socket.IPPROTO_IPV6, 36)}
MARK_TO_PROXY, MARK_FROM_PROXY = 0xA300_0000, 0xA400_0000
SECONDS: Final = 5.0
LONG: Final = b"long"
LONG_ANSWER: Final = 4000
"""A question, and the bytes of its answer, which comes in fragments; the proxy then says their number."""
DNS: Final = (ProxiedPort(UDP, DNS_PORT), ProxiedPort(TCP, DNS_PORT))
OUT, IN = Direction.EGRESS, Direction.INGRESS
ANY: Final = PortBlock(0, 0, 0)
_ports = itertools.count(20_001)


def redirected(*protocols: int) -> dict[MapKey, MapEntry]:
    """A policy that sends questions to the proxy and knows nothing else."""
    entry = MapEntry(action=Action.REDIRECT, precedence=0xFEFFFF86, redirect=Redirect("dns"))
    return {MapKey(OUT, 0, one_port(protocol, DNS_PORT)): entry for protocol in protocols or (p.UDP, p.TCP)}


def allowed(direction: Direction) -> dict[MapKey, MapEntry]:
    return {MapKey(direction, 0, ANY): MapEntry(action=Action.ALLOW, precedence=0xFEFFFF01)}


def policy_bytes(entries: dict[MapKey, MapEntry]) -> list[tuple[bytes, bytes]]:
    return [
        (layout.policy_key(key), layout.policy_entry(key, one, cookie=0, proxy_port=PROXY_PORT))
        for key, one in entries.items()
    ]


class ProxyNetwork(Network):
    """Adds the endpoints' programs of node a, a second pod there, and the way to the proxy."""

    objects: ClassVar[tuple[str, ...]] = ("endpoint.o", "netdev.o", "overlay.o")
    machines: ClassVar[tuple[str, ...]] = (*Network.machines, "qa")

    def begin(self, folder: Path, *, tunnel: bool = False, last_hook: bool = True) -> None:
        """Without the last hook, at the pod's own interface, answers must have been taken out before."""
        self.generation = 1
        set_sysctl(self.name("a"), "net/ipv4/conf/all/rp_filter", "1")
        if tunnel:
            self.tunnel()
        else:
            self.route_directly()
        self._second_pod()
        self.start(tunnel=tunnel)
        for device in ("lxc0", "lxc1"):
            self.attach("a", device, "from_ep", Hook.TCX_INGRESS)
            if last_hook or device != "lxc0":
                self.attach("a", device, "to_ep", Hook.TCX_EGRESS)
        self.inside("a", lambda: proxyroutes.make(folder))
        self.describe()

    @property
    def programs(self) -> Any:
        return self.nodes["a"]

    def _second_pod(self) -> None:
        self._veth("a", "lxc1", "qa", "eth0")
        for family in (4, 6):
            gateway = POD_GATEWAY[family]
            self._address("a", "lxc1", gateway, BITS[family] if family == 4 else "64")
            self._address("qa", "eth0", SECOND[family], BITS[family])
            if family == 4:
                self.ip("qa", "-4", "route", "add", gateway, "dev", "eth0", "scope", "link")
            self.ip("qa", f"-{family}", "route", "add", "default", "via", gateway, "dev", "eth0")
            self.ip("a", f"-{family}", "route", "add", SECOND[family], "dev", "lxc1")

    def describe(self) -> None:
        """Both pods of node a to its programs; no policy yet."""
        held, netns = self.programs, self.name("a")
        for pod, device, addresses, (number, identity) in (
            ("pa", "lxc0", PODS["a"], POD_IDS["a"]),
            ("qa", "lxc1", SECOND, (SECOND_ID, SECOND_IDENTITY)),
        ):
            index = ifindex_in(netns, device)
            macs = mac_in(self.name(pod), "eth0"), mac_in(netns, device)
            for family in (4, 6):
                local = node.LocalEntry(index, number, *macs)
                held.maps["axoneme_local"].update(base.address_bytes(addresses[family]), local.pack())
                held.identity(f"{addresses[family]}/{BITS[family]}", identity)

    def policy(self, pod: str, entries: dict[MapKey, MapEntry]) -> None:
        """As the shim does: the inner map, then the generation."""
        number, identity = POD_IDS["a"] if pod == "pa" else (SECOND_ID, SECOND_IDENTITY)
        addresses = PODS["a"] if pod == "pa" else SECOND
        inner = create_map(layout.POLICY_INNER)
        inner.update_batch(policy_bytes(entries))
        self.programs.maps["axoneme_policy"].set_inner(layout.policy_outer_key(number), inner)
        inner.close()
        self.generation += 1
        entry = layout.EndpointEntry(
            number,
            identity=identity,
            policy_generation=self.generation,
            ipv4=base.address_bytes(addresses[4])[12:],
            ipv6=base.address_bytes(addresses[6]),
        )
        index = ifindex_in(self.name("a"), "lxc0" if pod == "pa" else "lxc1")
        self.programs.maps["axoneme_ep"].update(layout.endpoint_key(index), entry.pack())

    def reset(self, *, host_routing: bool = False) -> None:
        """The pod's questions go to the proxy; nobody else is restrained. No connection is known."""
        self.forget()
        held = self.programs
        held.clear("axoneme_ct")
        held.maps["axoneme_proxied"].update_batch(list(words_of(DNS).items()))
        flags = held.config.flags | node.NODE_PROXY
        flags = flags | node.NODE_HOST_ROUTING if host_routing else flags & ~node.NODE_HOST_ROUTING
        held.configure(flags=flags)
        self.policy("pa", redirected())
        self.policy("qa", allowed(OUT) | allowed(IN))

    def events(self, *kinds: int) -> list[tuple[int, int, int]]:
        """Type, verdict and drop reason of the pod's events of these types."""
        return [
            (int(e["event_type"]), int(e["verdict"]), int(e["drop_reason"]))
            for e in self.programs.drain()
            if e["event_type"] in kinds and e["endpoint_id"] == POD_IDS["a"][0]
        ]


def is_local(address: str, family: int) -> bool:
    """Whether the namespace of the caller has an address."""
    with socket.socket(FAMILY[family], socket.SOCK_DGRAM) as trying:
        try:
            trying.bind((address, 0))
        except OSError:
            return False
    return True


class Proxy:
    """Asks servers in its clients' names and puts `proxied ` before what they say. One thread a socket."""

    def __init__(self, network: ProxyNetwork, family: int, *, mark: int = MARK_FROM_PROXY) -> None:
        self.family, self.mark = family, mark
        self.asked: list[tuple[str, str]] = []  # client, server
        self._stop = threading.Event()
        with ExitStack() as stack:
            self._datagrams = network.inside("a", self._udp_listener)
            stack.callback(self._datagrams.close)
            self._streams = network.inside("a", self._tcp_listener)
            stack.pop_all()
        self._threads = [
            threading.Thread(target=network.inside, args=("a", work))
            for work in (self._serve_datagrams, self._serve_streams)
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._datagrams.close()
        self._streams.close()

    def _socket(self, kind: int, address: tuple[str, int]) -> socket.socket:
        made = socket.socket(FAMILY[self.family], kind)
        made.setsockopt(*TRANSPARENT[self.family], 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, struct.pack("=I", self.mark))
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.settimeout(SECONDS)
        return made

    def _udp_listener(self) -> socket.socket:
        made = self._socket(socket.SOCK_DGRAM, (LISTENER[self.family], PROXY_PORT))
        made.setsockopt(*ORIGINAL[self.family], 1)
        made.settimeout(0.05)
        return made

    def _tcp_listener(self) -> socket.socket:
        made = self._socket(socket.SOCK_STREAM, (LISTENER[self.family], PROXY_PORT))
        made.listen()
        made.settimeout(0.05)
        return made

    def _serve_datagrams(self) -> None:
        while not self._stop.is_set():
            with suppress(TimeoutError):
                question, ancillary, _, client = self._datagrams.recvmsg(65_535, 256)
                server = self._original(ancillary)
                self.asked.append((client[0], server[0]))
                with suppress(TimeoutError), self._socket(socket.SOCK_DGRAM, client[:2]) as upstream:
                    upstream.connect(server)
                    upstream.send(question)
                    answer = upstream.recv(65_535)
                    told = answer if len(answer) < 1000 else str(len(answer)).encode()
                    self._answer(server, client[:2], b"proxied " + told)

    def _original(self, ancillary: list[tuple[int, int, bytes]]) -> tuple[str, int]:
        raw = next(data for level, kind, data in ancillary if (level, kind) == ORIGINAL[self.family])
        port = struct.unpack("!H", raw[2:4])[0]
        text = socket.inet_ntop(FAMILY[self.family], raw[4:8] if self.family == 4 else raw[8:24])
        return text, port

    def _answer(self, server: tuple[str, int], client: tuple[str, int], answer: bytes) -> None:
        """Raw: another process may have the server's address and port."""
        whole = sealed(server[0], client[0], p.UDP, p.udp(server[1], client[1], answer))[14:]
        with socket.socket(FAMILY[self.family], socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, struct.pack("=I", self.mark))
            raw.setsockopt(*HEADER_INCLUDED[self.family], 1)
            raw.sendto(whole, (client[0], 0))

    def _serve_streams(self) -> None:
        while not self._stop.is_set():
            with suppress(TimeoutError):
                accepted, client = self._streams.accept()
                with accepted, suppress(TimeoutError):
                    accepted.settimeout(SECONDS)
                    server = accepted.getsockname()[:2]
                    self.asked.append((client[0], server[0]))
                    self._relay(accepted, client[:2], server)

    def _relay(self, accepted: socket.socket, client: tuple[str, int], server: tuple[str, int]) -> None:
        # Between an address of this node and the client there is one tuple only, and the client has it.
        own = (server[0], 0) if is_local(server[0], self.family) else client
        with self._socket(socket.SOCK_STREAM, own) as upstream:
            upstream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            upstream.connect(server)
            while question := accepted.recv(65_535):
                upstream.sendall(question)
                accepted.sendall(b"proxied " + upstream.recv(65_535))


class Server:
    """Answers by UDP and TCP with whom it saw, and the question."""

    def __init__(self, network: ProxyNetwork, machine: str, family: int, port: int = DNS_PORT) -> None:
        self._stop = threading.Event()
        address = (SERVERS[machine][family], port)

        def listener(kind: int) -> socket.socket:
            made = socket.socket(FAMILY[family], kind)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(address)
            made.settimeout(0.05)
            if kind == socket.SOCK_STREAM:
                made.listen()
            return made

        self._datagrams = network.inside(machine, lambda: listener(socket.SOCK_DGRAM))
        self._streams = network.inside(machine, lambda: listener(socket.SOCK_STREAM))
        self._threads = [
            threading.Thread(target=work) for work in (self._serve_datagrams, self._serve_streams)
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._datagrams.close()
        self._streams.close()

    def _serve_datagrams(self) -> None:
        while not self._stop.is_set():
            with suppress(TimeoutError):
                question, peer = self._datagrams.recvfrom(65_535)
                self._datagrams.sendto(said(peer, question), peer)

    def _serve_streams(self) -> None:
        while not self._stop.is_set():
            with suppress(TimeoutError, ConnectionError):
                accepted, peer = self._streams.accept()
                with accepted:
                    accepted.settimeout(SECONDS)
                    while question := accepted.recv(65_535):
                        accepted.sendall(said(peer, question))


def said(peer: tuple[Any, ...], question: bytes) -> bytes:
    if question == LONG:
        return bytes(LONG_ANSWER)
    return f"{peer[0]} {peer[1]} ".encode() + question


class Client:
    """The pod's socket to a server, which takes answers from there only."""

    def __init__(
        self,
        network: ProxyNetwork,
        family: int,
        server: tuple[str, int],
        *,
        stream: bool,
        seconds: float = SECONDS,
    ) -> None:
        self.port = next(_ports)

        def made() -> socket.socket:
            one = socket.socket(FAMILY[family], socket.SOCK_STREAM if stream else socket.SOCK_DGRAM)
            one.settimeout(seconds)
            one.bind((POD[family], self.port))
            one.connect(server)
            return one

        self.socket = network.inside("pa", made)

    def ask(self, question: bytes) -> str:
        self.socket.sendall(question)
        return self.socket.recv(65_535).decode()

    def close(self) -> None:
        self.socket.close()


@contextmanager
def closing(*makers: Callable[[], Any]) -> Iterator[list[Any]]:
    """What was made, closed in the opposite order."""
    with ExitStack() as stack:
        made = []
        for make in makers:
            one = make()
            stack.callback(one.close)
            made.append(one)
        yield made
