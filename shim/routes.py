"""Which routes lead to the pods of other nodes, without I/O.

Every node of the stream is reached under its internal address; its PodCIDRs go through that address of the
same family (this is the routed mode: the underlay carries pod addresses between nodes). The own node's
PodCIDRs have no route as a whole: endpoints have host routes, everything else of them is unreachable, so a
packet to a pod that does not exist never leaves the node by the default route.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeEntry:
    """A node as the node stream tells it."""

    cluster: str
    name: str
    internal_ips: tuple[str, ...] = ()
    pod_cidrs: tuple[str, ...] = ()
    router_ips: tuple[str, ...] = ()
    observer_address: str = ""

    @property
    def key(self) -> str:
        """`cluster/name`."""
        return f"{self.cluster}/{self.name}"

    def address_for(self, version: int) -> str | None:
        """The internal address of a family, if the node has one."""
        parsed = (ipaddress.ip_address(text) for text in self.internal_ips)
        return next((str(address) for address in parsed if address.version == version), None)


def desired_routes(nodes: Iterable[NodeEntry], own_key: str, own_cidrs: Iterable[str] = ()) -> dict[str, str]:
    """PodCIDR → next hop. Of two nodes that claim one PodCIDR the first by name has it."""
    routes = {canonical(cidr): UNREACHABLE for cidr in own_cidrs}
    for node in sorted(nodes, key=lambda node: node.key):
        if node.key == own_key:
            continue
        for cidr in node.pod_cidrs:
            via = node.address_for(ipaddress.ip_network(cidr).version)
            if via is not None:
                routes.setdefault(canonical(cidr), via)
    return routes


def canonical(cidr: str) -> str:
    """Canonical text of a network. Raises ValueError."""
    return str(ipaddress.ip_network(cidr))
