"""Which routes lead to the pods of other nodes, without I/O.

Every node of the stream is reached under its internal address. Direct: its PodCIDRs go through that address
of the same family (the underlay carries pod addresses between nodes). Tunnel: they go to the overlay device,
whatever the family, and the ipcache says to which node. The own node's PodCIDRs have no route as a whole:
endpoints have host routes, everything else of them is unreachable, so a packet to a pod that does not exist
never leaves the node by the default route.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

UNREACHABLE, OVERLAY = "unreachable", "overlay"
"""Next hops that are no address: nowhere, and the device of the tunnel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeEntry:
    """A node as the node stream tells it."""

    cluster: str
    name: str
    internal_ips: tuple[str, ...] = ()
    pod_cidrs: tuple[str, ...] = ()
    router_ips: tuple[str, ...] = ()
    health_ips: tuple[str, ...] = ()
    observer_address: str = ""
    labels: tuple[tuple[str, str], ...] = ()  # key, value; sorted
    features: tuple[tuple[str, str], ...] = ()  # what the kernel can do: name, `yes` or why not; sorted

    @property
    def key(self) -> str:
        """`cluster/name`."""
        return f"{self.cluster}/{self.name}"

    def address_for(self, version: int) -> str | None:
        """The internal address of a family, if the node has one."""
        parsed = (ipaddress.ip_address(text) for text in self.internal_ips)
        return next((str(address) for address in parsed if address.version == version), None)


def desired_routes(
    nodes: Iterable[NodeEntry], own_key: str, own_cidrs: Iterable[str] = (), *, tunnel: bool = False
) -> dict[str, str]:
    """PodCIDR → next hop. Of two nodes that claim one PodCIDR the first by name has it."""
    routes = {canonical(cidr): UNREACHABLE for cidr in own_cidrs}
    for node in sorted(nodes, key=lambda node: node.key):
        if node.key == own_key:
            continue
        for cidr in node.pod_cidrs:
            via = OVERLAY if tunnel else node.address_for(ipaddress.ip_network(cidr).version)
            if via is not None:
                routes.setdefault(canonical(cidr), via)
    return routes


def canonical(cidr: str) -> str:
    """Canonical text of a network. Raises ValueError."""
    return str(ipaddress.ip_network(cidr))


def families_without_address(cidrs: Iterable[str], internal_ips: Iterable[str]) -> list[str]:
    """The PodCIDRs of a family in which the node has no internal address: nobody could route to them."""
    families = {ipaddress.ip_address(ip).version for ip in internal_ips}
    return [cidr for cidr in cidrs if ipaddress.ip_network(cidr).version not in families]
