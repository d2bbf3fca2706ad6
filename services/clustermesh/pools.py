"""Cluster IPs and node ports that are free, chosen at random. Pure.

At random, so that replicas which choose at the same time rarely choose the same one, and so that an address
that was just given back is not the next one given out: clients may still know it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from axoneme.lib.errors import InvalidArgument, PoolExhausted

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Draw = Callable[[int], int]
"""A number of [0, n)."""

_TRIES: Final = 64
_PORTS: Final = "-"
MAX_PORT: Final = 65_535


@dataclass(frozen=True, slots=True, kw_only=True)
class Pools:
    """What may be given out: at most one network of each family, and a range of ports."""

    networks: tuple[Network, ...] = ()
    first_node_port: int = 30_000
    last_node_port: int = 32_767

    @classmethod
    def parse(cls, cidrs: Collection[str], node_ports: str) -> Pools:
        """Reads the options. Raises InvalidArgument naming the wrong one."""
        networks = tuple(_network(text) for text in cidrs)
        if len({network.version for network in networks}) < len(networks):
            raise InvalidArgument.of_field("service_cidrs", "name at most one prefix of each family")
        first, last = _range(node_ports)
        return cls(networks=networks, first_node_port=first, last_node_port=last)

    def network(self, version: int) -> Network | None:
        """The network of a family."""
        return next((one for one in self.networks if one.version == version), None)

    def holds(self, ip: str) -> bool:
        """Whether an address is one that only cluster IPs may have."""
        return any(ipaddress.ip_address(ip) in network for network in self.networks)

    def may_be_cluster_ip(self, ip: str) -> bool:
        """Whether an address may be a cluster IP."""
        address = ipaddress.ip_address(ip)
        network = self.network(address.version)
        return network is not None and int(address) - int(network.network_address) in _usable(network)

    def is_node_port(self, port: int) -> bool:
        """Whether a port is in the range."""
        return self.first_node_port <= port <= self.last_node_port

    def choose_cluster_ip(self, network: Network, taken: Collection[str], draw: Draw) -> str:
        """A free address. Raises PoolExhausted; `taken` are canonical texts, whatever their network."""
        usable = _usable(network)
        base = int(network.network_address)
        for _ in range(_TRIES):
            found = str(network[usable[draw(len(usable))]])
            if found not in taken:
                return found
        # Nearly full: only a pool that can be filled gets here, and what is taken bounds the search.
        inside = {int(one) - base for one in map(ipaddress.ip_address, taken) if one in network}
        start = draw(len(usable))
        for step in range(min(len(usable), len(inside) + 1)):
            offset = usable[(start + step) % len(usable)]
            if offset not in inside:
                return str(network[offset])
        raise PoolExhausted(
            f"all {len(usable)} cluster IPs of {network} are taken; delete services or widen service_cidrs",
            reason="SERVICE_POOL_EXHAUSTED",
        )

    def choose_node_port(self, taken: Collection[int], draw: Draw) -> int:
        """A free port. Raises PoolExhausted."""
        free = [one for one in range(self.first_node_port, self.last_node_port + 1) if one not in taken]
        if not free:
            raise PoolExhausted(
                f"all node ports from {self.first_node_port} to {self.last_node_port} are taken; delete "
                "services or widen node_port_range",
                reason="SERVICE_POOL_EXHAUSTED",
            )
        return free[draw(len(free))]


def _usable(network: Network) -> range:
    """Offsets of the addresses that may be given out: neither the first nor an IPv4 broadcast address."""
    # len() of a larger range does not fit a C integer; nobody has so many services.
    count = min(network.num_addresses, 1 << 32)
    if count <= 2:
        return range(count)
    return range(1, count - 1 if network.version == 4 else count)


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise InvalidArgument.of_field("service_cidrs", str(error)) from error


def _range(text: str) -> tuple[int, int]:
    first, dash, last = text.partition(_PORTS)
    if not (dash and first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last) <= MAX_PORT):
        raise InvalidArgument.of_field(
            "node_port_range", f"{text[:40]!r} is no range; write FIRST-LAST within 1-{MAX_PORT}"
        )
    return int(first), int(last)
