"""PodCIDRs: the pools of a cluster, the blocks that nodes get, and the nodes' own addresses in them. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from axoneme.lib.errors import FailedPrecondition, InvalidArgument, PoolExhausted

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class PodCidrOverlap(FailedPrecondition):
    """Two nodes cannot own one address."""

    default_reason = "POD_CIDR_OVERLAP"


@dataclass(frozen=True, slots=True)
class Pool:
    """Addresses of a cluster, given to nodes in blocks."""

    network: Network
    block: int

    @classmethod
    def parse(cls, text: str) -> Pool:
        """Reads `10.1.0.0/16/24`. Raises InvalidArgument."""
        pool, slash, block = text.rpartition("/")
        try:
            network = ipaddress.ip_network(pool)
            if not slash or not network.prefixlen <= int(block) <= network.max_prefixlen:
                raise ValueError("the block must be within the pool")
            return cls(network, int(block))
        except ValueError as error:
            raise InvalidArgument.of_field("pod_cidr_pools", f"{text!r}: {error}; write POOL/BLOCK") from None

    def blocks(self) -> Iterator[Network]:
        """All blocks in order."""
        yield from self.network.subnets(new_prefix=self.block)


def choose_pod_cidrs(
    name: str, wanted: Sequence[str], pools: Sequence[Pool], cidrs_by_node: Mapping[str, Sequence[str]]
) -> tuple[str, ...]:
    """PodCIDRs of a node: the wanted ones, else those it has, else the first free block of each family.

    Raises PodCidrOverlap naming the other node, PoolExhausted when a family has no free block.
    """
    others = [
        (node, ipaddress.ip_network(cidr))
        for node, cidrs in cidrs_by_node.items()
        if node != name
        for cidr in cidrs
    ]
    chosen = tuple(wanted) or tuple(cidrs_by_node.get(name, ()))
    if not chosen:
        return _free_blocks(pools, {network for _, network in others})
    for position, cidr in enumerate(chosen):
        network = ipaddress.ip_network(cidr)
        for node, other in others:
            if _overlap(network, other):
                raise PodCidrOverlap(f"PodCIDR {cidr} overlaps {other} of node {node}; choose another")
        for second in chosen[position + 1 :]:
            if _overlap(network, ipaddress.ip_network(second)):
                raise InvalidArgument.of_field("node.pod_cidrs", f"{cidr} and {second} overlap")
    return chosen


def _overlap(one: Network, other: Network) -> bool:
    return one.version == other.version and one.overlaps(other)


def _free_blocks(pools: Sequence[Pool], taken: set[Network]) -> tuple[str, ...]:
    found: list[str] = []
    for version in (4, 6):
        candidates = [pool for pool in pools if pool.network.version == version]
        block = next((b for pool in candidates for b in pool.blocks() if _is_free(b, taken)), None)
        if candidates and block is None:
            raise PoolExhausted(
                f"no free IPv{version} PodCIDR is left; add a pool or delete nodes that are gone"
            )
        if block is not None:
            found.append(str(block))
    return tuple(found)


def _is_free(block: Network, taken: set[Network]) -> bool:
    return block not in taken and not any(_overlap(block, other) for other in taken)


def choose_router_ips(wanted: Sequence[str], pod_cidrs: Sequence[str]) -> tuple[str, ...]:
    """The node's own addresses inside its PodCIDRs: wanted, else the first one of each family.

    Raises InvalidArgument for an address outside.
    """
    networks = [ipaddress.ip_network(cidr) for cidr in pod_cidrs]
    for ip in wanted:
        if not any(inside(ipaddress.ip_address(ip), network) for network in networks):
            raise InvalidArgument.of_field("node.router_ips", f"{ip} is outside the PodCIDRs of the node")
    if wanted:
        return tuple(wanted)
    first_by_version: dict[int, str] = {}
    for network in networks:
        if network.num_addresses > 1:
            first_by_version.setdefault(network.version, str(network[1]))
    return tuple(first_by_version.values())


def addresses_inside(ips: Sequence[str], pod_cidrs: Sequence[str]) -> tuple[str, ...]:
    """Those that lie in the PodCIDRs, IPv4 first: a node with new PodCIDRs still names its old addresses."""
    networks = [ipaddress.ip_network(cidr) for cidr in pod_cidrs]
    parsed = sorted((ipaddress.ip_address(ip) for ip in ips), key=lambda ip: ip.version)
    return tuple(str(ip) for ip in parsed if any(inside(ip, network) for network in networks))


def inside(ip: IpAddress, network: Network) -> bool:
    """Whether an address lies in a network; never across families."""
    return ip.version == network.version and ip in network
