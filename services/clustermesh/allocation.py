"""What a service still needs before it can be stored: cluster IPs and node ports. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import msgspec

from axoneme.lib.errors import PoolExhausted
from services.clustermesh.claims import CLUSTER_IPS, FRONTENDS, cluster_ip_claim, node_port_claim
from services.clustermesh.model import Port, Protocol, Service
from services.clustermesh.pools import Draw, Pools


@dataclass(frozen=True, slots=True)
class Completed:
    """A service with everything allocated, and the claims that were chosen here rather than asked for."""

    service: Service
    chosen: frozenset[str] = frozenset()


@dataclass(slots=True)
class Allocation:
    """Chooses for one service. `taken_ips` and `taken_ports` are what the state knows; `refused` are claims
    that turned out to be somebody else's meanwhile."""

    pools: Pools
    draw: Draw
    taken_ips: Collection[str]
    taken_ports: Collection[tuple[Protocol, int]]
    refused: set[str] = field(default_factory=set)

    def complete(self, wanted: Service, before: Service | None) -> Completed:
        """The service with what it leaves open: what it had before, else something free.

        Raises PoolExhausted.
        """
        chosen: set[str] = set()
        cluster_ips = self._cluster_ips(wanted, before, chosen)
        ports = self._ports(wanted, before, chosen)
        made = msgspec.structs.replace(wanted, cluster_ips=cluster_ips, ports=ports)
        return Completed(made, frozenset(chosen))

    def _cluster_ips(self, wanted: Service, before: Service | None, chosen: set[str]) -> tuple[str, ...]:
        if wanted.headless or wanted.cluster_ips:
            return wanted.cluster_ips
        kept = () if before is None else before.cluster_ips
        if kept and all(map(self.pools.may_be_cluster_ip, kept)):
            return kept
        if not self.pools.networks:
            raise PoolExhausted(
                "no cluster IP can be allocated: option service_cidrs of the clustermesh service is empty",
                reason="SERVICE_POOL_EXHAUSTED",
            )
        refused = {one.removeprefix(CLUSTER_IPS) for one in self.refused if one.startswith(CLUSTER_IPS)}
        taken = refused.union(self.taken_ips) if refused else self.taken_ips
        found = tuple(self.pools.choose_cluster_ip(one, taken, self.draw) for one in self.pools.networks)
        chosen.update(map(cluster_ip_claim, found))
        return found

    def _ports(self, wanted: Service, before: Service | None, chosen: set[str]) -> tuple[Port, ...]:
        if not wanted.on_nodes:
            return wanted.ports
        had = {} if before is None else {one.slot: one.node_port for one in before.ports}
        asked = {(one.protocol, one.node_port) for one in wanted.ports if one.node_port}
        return tuple(self._port(one, had, asked, chosen) for one in wanted.ports)

    def _port(
        self,
        port: Port,
        had: Mapping[tuple[Protocol, int], int],
        asked: set[tuple[Protocol, int]],
        chosen: set[str],
    ) -> Port:
        if port.node_port:
            return port
        kept = had.get(port.slot, 0)
        if not kept or (port.protocol, kept) in asked or not self.pools.is_node_port(kept):
            kept = self.pools.choose_node_port(self._taken(port.protocol, asked), self.draw)
            chosen.add(node_port_claim(port.protocol, kept))
        asked.add((port.protocol, kept))
        return msgspec.structs.replace(port, node_port=kept)

    def _taken(self, protocol: Protocol, asked: set[tuple[Protocol, int]]) -> set[int]:
        prefix = f"{FRONTENDS}node/{protocol.name.lower()}/"
        refused = {int(one.removeprefix(prefix)) for one in self.refused if one.startswith(prefix)}
        return refused | {number for one, number in (*self.taken_ports, *asked) if one is protocol}
