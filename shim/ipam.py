"""Addresses and numbers of a node's endpoints, without I/O.

The node's PodCIDRs come from the identity service, the owners are endpoint numbers. Numbers and addresses
are handed out round robin, so that one that was just released (and may still stand in a conntrack entry, a
neighbour cache or a flow) comes back as late as possible.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from axoneme.lib.errors import AlreadyExists, AxonemeError, InvalidArgument, PoolExhausted

FIRST_ENDPOINT_ID, LAST_ENDPOINT_ID = 1, 65_534
HEALTH_ENDPOINT_ID = 65_535
"""Number of the node's health endpoint, which is never given to another."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def parse_address(text: str) -> Address:
    """An address; text of another form raises ValueError."""
    return ipaddress.ip_address(text)


def decode_ips(texts: Iterable[str]) -> tuple[str, ...]:
    """Addresses that a workload asks for, in canonical text, IPv4 first. Raises InvalidArgument."""
    text_by_version: dict[int, str] = {}
    for text in texts:
        try:
            address = parse_address(text)
        except ValueError as error:
            raise InvalidArgument.of_field("ips", f"{text[:64]!r} is not an IPv4 or IPv6 address") from error
        if address.is_multicast or address.is_loopback or address.is_unspecified or address.is_link_local:
            raise InvalidArgument.of_field("ips", f"{address} is not an address of a workload")
        if text_by_version.setdefault(address.version, str(address)) != str(address):
            raise InvalidArgument.of_field("ips", "has two addresses of one family; keep one")
    return tuple(text_by_version[version] for version in sorted(text_by_version))


class NumberPool:
    """Numbers of workloads' endpoints, round robin."""

    def __init__(self, first: int = FIRST_ENDPOINT_ID, last: int = LAST_ENDPOINT_ID) -> None:
        self._first, self._last = first, last
        self._next = first
        self._taken: set[int] = set()
        self.last_given = 0

    def allocate(self) -> int:
        """Raises PoolExhausted when every number is taken."""
        if len(self._taken) > self._last - self._first:
            raise PoolExhausted(f"all {self._last - self._first + 1} endpoint numbers of the node are taken")
        while self._next in self._taken:
            self._advance()
        number = self.last_given = self._next
        self._taken.add(number)
        self._advance()
        return number

    def adopt(self, number: int) -> None:
        """Takes a number that was given out before a restart, and goes on after it; leaves foreign ones."""
        if not self._first <= number <= self._last:
            return
        self._taken.add(number)
        if number >= self._next:
            self._next = number
            self._advance()

    def resume(self, last_given: int) -> None:
        """Goes on after the number that was given out last before a restart; call it after the adoptions."""
        if self._first <= last_given <= self._last:
            self.last_given = self._next = last_given
            self._advance()

    def release(self, number: int) -> None:
        """Gives a number back; releasing a free one changes nothing."""
        self._taken.discard(number)

    def _advance(self) -> None:
        self._next = self._first if self._next >= self._last else self._next + 1


class AddressPool:
    """Addresses of one PodCIDR; network address, router and (IPv4) broadcast address stay free."""

    def __init__(self, cidr: str, reserved: Iterable[str] = ()) -> None:
        self.network: Network = ipaddress.ip_network(cidr)
        self._base = int(self.network.network_address)
        size = self.network.num_addresses
        # A /31, /32, /127 or /128 has no room for anything but endpoints.
        self._first = 0 if size <= 2 else 1
        self._last = size - 1 if size <= 2 or self.network.version == 6 else size - 2
        self._reserved = {int(parse_address(text)) - self._base for text in reserved if text in self}
        self._next = self._first
        self._owner_by_offset: dict[int, int] = {}

    def __contains__(self, text: object) -> bool:
        try:
            return parse_address(str(text)) in self.network
        except ValueError:
            return False

    def allocate(self, owner: int) -> str:
        """Raises PoolExhausted when no address is free."""
        blocked = len(self._owner_by_offset) + len(self._reserved)
        for _ in range(min(blocked + 1, self._last - self._first + 1)):
            offset = self._next
            self._next = self._first if offset >= self._last else offset + 1
            if offset not in self._owner_by_offset and offset not in self._reserved:
                self._owner_by_offset[offset] = owner
                return self._text(offset)
        raise PoolExhausted(
            f"every address of {self.network} is taken; give the node a larger PodCIDR or delete endpoints"
        )

    def take(self, text: str, owner: int) -> None:
        """Takes this address.

        Raises InvalidArgument when it is not for endpoints, AlreadyExists when another owner has it.
        """
        offset = int(parse_address(text)) - self._base
        if not self._first <= offset <= self._last or offset in self._reserved:
            raise InvalidArgument(
                f"ips: {text} is the router's, the network's or the broadcast address of {self.network};"
                " choose another, or none",
                reason="ADDRESS_NOT_USABLE",
            )
        holder = self._owner_by_offset.setdefault(offset, owner)
        if holder != owner:
            raise AlreadyExists(
                f"{text} is the address of endpoint {holder}; choose another, or none",
                reason="ADDRESS_NOT_USABLE",
            )

    def adopt(self, text: str, owner: int) -> None:
        """Takes an address that was given out before a restart, and goes on after it."""
        offset = int(parse_address(text)) - self._base
        self._owner_by_offset[offset] = owner
        if offset >= self._next:
            self._next = self._first if offset >= self._last else offset + 1

    def release(self, owner: int) -> None:
        """Gives back whatever the owner holds."""
        for offset in [offset for offset, holder in self._owner_by_offset.items() if holder == owner]:
            del self._owner_by_offset[offset]

    @property
    def free(self) -> int:
        """Addresses that can still be given out."""
        blocked = len(self._owner_by_offset.keys() | {o for o in self._reserved if o >= self._first})
        return self._last - self._first + 1 - blocked

    def _text(self, offset: int) -> str:
        return str(
            ipaddress.ip_address((self._base + offset).to_bytes(self.network.max_prefixlen // 8, "big"))
        )


class Ipam:
    """The pools of a node: one address of each family per endpoint."""

    def __init__(self, cidrs: Sequence[str] = (), router_ips: Iterable[str] = ()) -> None:
        reserved = tuple(router_ips)
        self._pools = [AddressPool(cidr, reserved) for cidr in cidrs]

    @property
    def cidrs(self) -> tuple[str, ...]:
        """PodCIDRs in the order in which they were given."""
        return tuple(str(pool.network) for pool in self._pools)

    def __contains__(self, text: object) -> bool:
        return any(text in pool for pool in self._pools)

    @property
    def families(self) -> int:
        """How many address families the PodCIDRs have: addresses that an owner gets."""
        return len({pool.network.version for pool in self._pools})

    def allocate(self, owner: int, wanted: Iterable[str] = ()) -> tuple[str, ...]:
        """One address of each family that the node has, the wanted ones among them; all of them or none.

        Raises PoolExhausted; InvalidArgument or AlreadyExists for a wanted address that cannot be had.
        """
        if not self._pools:
            raise PoolExhausted("the node has no PodCIDR yet: it is not registered with the identity service")
        try:
            chosen = self._take(owner, wanted)
        except AxonemeError:
            self.release(owner)
            raise
        return self._fill(owner, chosen)

    def _take(self, owner: int, wanted: Iterable[str]) -> dict[int, str]:
        chosen: dict[int, str] = {}
        for text in wanted:
            pool = next((pool for pool in self._pools if text in pool), None)
            if pool is None:
                raise InvalidArgument(
                    f"ips: {text} is outside the node's PodCIDRs {', '.join(self.cidrs)}; choose one of them",
                    reason="ADDRESS_NOT_USABLE",
                )
            pool.take(text, owner)
            chosen[pool.network.version] = text
        return chosen

    def _fill(self, owner: int, chosen: dict[int, str]) -> tuple[str, ...]:
        shortage: PoolExhausted | None = None
        for pool in self._pools:
            if pool.network.version in chosen:
                continue
            try:
                chosen[pool.network.version] = pool.allocate(owner)
            except PoolExhausted as error:
                shortage = error
        missing = {pool.network.version for pool in self._pools} - chosen.keys()
        if missing:
            self.release(owner)
            raise PoolExhausted(str(shortage)) from shortage
        return tuple(chosen[version] for version in sorted(chosen))

    def adopt(self, owner: int, ips: Iterable[str]) -> list[str]:
        """Takes addresses given out before; returns those that lie outside the node's PodCIDRs."""
        outside = []
        for text in ips:
            pool = next((pool for pool in self._pools if text in pool), None)
            if pool is None:
                outside.append(text)
            else:
                pool.adopt(text, owner)
        return outside

    def release(self, owner: int) -> None:
        """Gives back the addresses of an endpoint."""
        for pool in self._pools:
            pool.release(owner)
