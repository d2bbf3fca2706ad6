"""Takes the node stream: routes to other nodes' pods, identities of nodes and of their PodCIDRs, peers for
Hubble.

With a tunnel, everything inside a node's PodCIDRs has that node as its tunnel endpoint; without one nothing
has, since the network carries it.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Collection, Mapping

from axoneme.lib import identities
from axoneme.lib.intent import Failure
from shim.ipcache import Contribution, IpcacheValue, Rank
from shim.nodeipcache import NODE_STREAM, NodeIpcache, failure_of, host_prefix
from shim.reconciler import Reconciler, Table
from shim.routes import NodeEntry, canonical, desired_routes


class NodeSink:
    """All nodes as this node sees them. One task at a time applies; routes are written in a thread."""

    def __init__(
        self,
        *,
        own_key: str,
        ipcache: NodeIpcache,
        routes: Table[str, str],
        clock: Callable[[], float],
        on_change: Callable[[Mapping[str, NodeEntry]], None],
        tunnel: bool = False,
        own_ips: tuple[str, ...] = (),
    ) -> None:
        self.nodes: dict[str, NodeEntry] = {}
        self.routes = Reconciler("routes", routes, clock=clock)
        self.complete = False
        self._own_key = own_key
        self._own_cidrs: tuple[str, ...] = ()
        self._ipcache = ipcache
        self._on_change = on_change
        self._tunnel = tunnel
        self._own_families = [ipaddress.ip_address(ip).version for ip in own_ips] or [4, 6]
        self._lock = asyncio.Lock()

    async def load(self) -> None:
        """Reads the routes of an earlier life."""
        async with self._lock:
            await asyncio.to_thread(self.routes.load)

    async def set_own_cidrs(self, cidrs: tuple[str, ...]) -> None:
        """The own node's pools, as soon as they are known."""
        self._own_cidrs = cidrs
        await self._write_routes(prune=False)

    async def apply(
        self, upserts: Mapping[str, NodeEntry], removals: Collection[str], *, complete: bool
    ) -> Mapping[str, Failure]:
        """New routes come before old ones go; returns nodes that are not reached yet."""
        gone = [key.partition(":")[2] for key in removals]
        for node in upserts.values():
            self.nodes[node.key] = node
            self._speak(node)
        for key in gone:
            self.nodes.pop(key, None)
            self._silence(key)
        self.complete = self.complete or complete
        if complete:
            self._ipcache.commit()
            self._ipcache.heard(NODE_STREAM)
        self._ipcache.commit()
        await self._write_routes(prune=complete)
        self._on_change(self.nodes)
        return self.failures()

    async def retry(self) -> None:
        """Tries failed routes that are due."""
        async with self._lock:
            await asyncio.to_thread(self.routes.flush)

    async def audit(self) -> list[str]:
        """Compares the kernel's routes with the wanted ones and repairs."""
        async with self._lock:
            found = await asyncio.to_thread(self.routes.audit, prune=self.complete)
        return [f"routes: {key}: {what}" for key, what in found]

    def failures(self) -> dict[str, Failure]:
        """Nodes with a route or an address that is not in the kernel."""
        faults = {**self.routes.faults(), **self._ipcache.reconciler.faults()}
        found = {}
        for key, node in self.nodes.items():
            names = [
                *map(canonical, node.pod_cidrs),
                *map(host_prefix, (*node.internal_ips, *node.router_ips, *node.health_ips)),
            ]
            fault = next((faults[name] for name in names if name in faults), None)
            if fault is not None:
                found[f"node:{key}"] = failure_of(fault)
        return found

    async def _write_routes(self, *, prune: bool) -> None:
        nodes = list(self.nodes.values())
        wanted = desired_routes(nodes, self._own_key, self._own_cidrs, tunnel=self._tunnel)
        async with self._lock:
            self.routes.put(
                {cidr: via for cidr, via in wanted.items() if self.routes.desired.get(cidr) != via}
            )
            self.routes.discard([cidr for cidr in self.routes.desired if cidr not in wanted])
            if prune:
                self.routes.prune()
            await asyncio.to_thread(self.routes.flush)

    def _speak(self, node: NodeEntry) -> None:
        """What a node says about prefixes: its addresses, and its pools as the fallback `unmanaged`."""
        merge, own = self._ipcache.merge, node.key == self._own_key
        tunnel = "" if own else self._tunnel_endpoint(node)
        if not own:
            said = [(ip, identities.REMOTE_NODE, "") for ip in node.internal_ips]
            said += [(ip, identities.REMOTE_NODE, tunnel) for ip in node.router_ips]
            said += [(ip, identities.HEALTH, tunnel) for ip in node.health_ips]
            statements = {host_prefix(ip): _of_node(node, number, via) for ip, number, via in said}
            merge.replace(Rank.NODE, node.key, statements)
        pools = {}
        for cidr in node.pod_cidrs:
            value = IpcacheValue(identity=identities.UNMANAGED, tunnel_endpoint=tunnel)
            pools[canonical(cidr)] = Contribution(rank=Rank.POD_CIDR, source=node.key, value=value)
        merge.replace(Rank.POD_CIDR, node.key, pools)

    def _tunnel_endpoint(self, node: NodeEntry) -> str:
        """The node's address in a family that both have, IPv4 first; empty without a tunnel."""
        if not self._tunnel:
            return ""
        found = (node.address_for(version) for version in (4, 6) if version in self._own_families)
        return next((address for address in found if address), "")

    def _silence(self, key: str) -> None:
        for rank in (Rank.NODE, Rank.POD_CIDR):
            self._ipcache.merge.replace(rank, key, {})


def _of_node(node: NodeEntry, identity: int, tunnel: str) -> Contribution:
    value = IpcacheValue(identity=identity, tunnel_endpoint=tunnel)
    return Contribution(rank=Rank.NODE, source=node.key, value=value)
