"""A pod, a node with the DNS proxy, and a resolver, each in a network namespace; no programs in the kernel.

    pod 10.77.1.2, fd77:1::2 ── to-pod │ node │ to-dns ── 10.77.2.2, fd77:2::2 resolver (and .3, ::3)

Routing stands for the redirect: whatever comes to the node from either side is local to it, so the proxy's
listeners get the pod's queries and its upstream sockets, which have the pod's address, the answers.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from tests.bpf.namespaces import inside, set_sysctl
from tests.bpf.socketlab import network, run, unique

POD = {4: "10.77.1.2", 6: "fd77:1::2"}
RESOLVER = {4: "10.77.2.2", 6: "fd77:2::2"}
OTHER_RESOLVER = {4: "10.77.2.3", 6: "fd77:2::3"}
MTU = 1_500
_TABLE = "100"
_SIDES = {"pod": {4: "10.77.1", 6: "fd77:1:"}, "dns": {4: "10.77.2", 6: "fd77:2:"}}


@dataclass(frozen=True)
class DnsNetwork:
    """Names of the namespaces."""

    pod: str
    node: str
    resolver: str

    def client(self, v: int, kind: socket.SocketKind = socket.SOCK_DGRAM, *, port: int = 0) -> socket.socket:
        """A socket of the pod, bound to its address and any port, or this one."""
        return inside(self.pod, lambda: _socket(v, kind, (POD[v], port)))

    def server(
        self, v: int, kind: socket.SocketKind = socket.SOCK_DGRAM, address: str = "", port: int = 53
    ) -> socket.socket:
        """A socket of the resolver's machine."""
        return inside(self.resolver, lambda: _socket(v, kind, (address or RESOLVER[v], port)))


def _socket(v: int, kind: socket.SocketKind, address: tuple[str, int]) -> socket.socket:
    one = socket.socket({4: socket.AF_INET, 6: socket.AF_INET6}[v], kind)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.settimeout(5)
    one.bind(address)
    return one


@contextmanager
def dns_network() -> Iterator[DnsNetwork]:
    """The three namespaces; nothing is left of them."""
    with ExitStack() as stack:
        node = stack.enter_context(network(unique("dn")))
        sides = {side: stack.enter_context(network(unique(f"d{side[0]}"))) for side in _SIDES}
        for netns in (node, *sides.values()):
            set_sysctl(netns, "net/ipv6/conf/default/accept_dad", "0")  # link-local at once
        for side, netns in sides.items():
            _cable(node, side, netns)
        for v in (4, 6):
            run("ip", "-n", node, f"-{v}", "route", "add", "local", "default", "dev", "lo", "table", _TABLE)
        run("ip", "-n", sides["dns"], "address", "add", f"{OTHER_RESOLVER[4]}/24", "dev", "eth0")
        run("ip", "-n", sides["dns"], "address", "add", f"{OTHER_RESOLVER[6]}/64", "dev", "eth0", "nodad")
        yield DnsNetwork(sides["pod"], node, sides["dns"])


def _cable(node: str, side: str, netns: str) -> None:
    device = f"to-{side}"
    run("ip", "-n", node, "link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", netns)
    for where, name in ((node, device), (netns, "eth0")):
        run("ip", "-n", where, "link", "set", name, "mtu", str(MTU), "up")
    for v, prefix in _SIDES[side].items():
        bits, extra = (24, []) if v == 4 else (64, ["nodad"])
        separator = "." if v == 4 else ":"
        for where, name, last in ((node, device, "1"), (netns, "eth0", "2")):
            address = f"{prefix}{separator}{last}/{bits}"
            run("ip", "-n", where, "address", "add", address, "dev", name, *extra)
        gateway = f"{prefix}{separator}1"
        run("ip", "-n", netns, f"-{v}", "route", "add", "default", "via", gateway)
        run("ip", "-n", node, f"-{v}", "rule", "add", "iif", device, "lookup", _TABLE)
    for name in ("all", device):
        set_sysctl(node, f"net/ipv4/conf/{name}/rp_filter", "0")
