"""What endpoints looked up, bounded and without I/O: endpoint → name → address → when it expires.

    learn ─► names and addresses ─► the addresses that were touched: who calls settles them in the kernel
    expire ─┘ (a heap with one due time per name)

An address knows all its names, and how many of them have which set of selectors, so that a name more or less
costs the same however many there are. Times are ns of CLOCK_BOOTTIME unless they say otherwise. What is over
a limit goes oldest first: of a name the address that was not seen for longest, of an endpoint the name that
was not looked up for longest.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

NO_SELECTORS: Final[frozenset[str]] = frozenset()
MAX_KINDS: Final = 4
"""Types of query whose last answer is remembered, a name."""

Touched = list["CachedAddress"]
Select = Callable[[bytes], frozenset[str]]


@dataclass(slots=True, eq=False)
class CachedAddress:
    """An address of an endpoint. `number` and `written_ns` are what the kernel holds; 0: nothing."""

    endpoint_id: int
    address: bytes
    names: dict[bytes, None] = field(default_factory=dict)
    sets: dict[frozenset[str], int] = field(default_factory=dict)
    expiry_ns: int = 0  # latest that a name with selectors had; a name that ends settles the address anew
    number: int = 0
    written_ns: int = 0
    settled: tuple[object, frozenset[str]] | None = None  # table and selectors that `number` is of

    def union(self) -> frozenset[str]:
        """All selectors that match one of its names."""
        if len(self.sets) == 1:
            return next(iter(self.sets))
        return NO_SELECTORS.union(*self.sets)


@dataclass(slots=True, eq=False)
class CachedName:
    """A name of an endpoint, in wire form; `addresses` are in the order in which they were last seen."""

    name: bytes
    selectors: frozenset[str] = NO_SELECTORS
    addresses: dict[bytes, int] = field(default_factory=dict)
    ttl: int = 0
    looked_up: float = 0.0  # wall clock
    source: int = 0
    due_ns: int = 0  # its time in the heap
    # Type of query → addresses of the last answer, until when they last, table by which the kernel knows them
    last: dict[int, tuple[tuple[bytes, ...], int, object]] = field(default_factory=dict)


@dataclass(slots=True)
class Endpoint:
    """Names by the time of their last lookup, addresses by the time they were last seen.

    A plain dict would have to step over all that was moved to its end to find its first.
    """

    names: OrderedDict[bytes, CachedName] = field(default_factory=OrderedDict)
    addresses: OrderedDict[bytes, CachedAddress] = field(default_factory=OrderedDict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much is kept of each endpoint."""

    ips_per_name: int = 1_000
    names: int = 20_000
    addresses: int = 8_192


class NameCache:
    """Not safe for threads: the learner holds its lock."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.endpoints: dict[int, Endpoint] = {}
        self.name_count = self.address_count = 0
        self.evicted = 0
        self._due: list[tuple[int, int, bytes]] = []
        self._interned: dict[bytes, tuple[bytes, int]] = {}

    def name(self, endpoint_id: int, name: bytes) -> CachedName | None:
        """What is known of a name."""
        endpoint = self.endpoints.get(endpoint_id)
        return endpoint.names.get(name) if endpoint else None

    def address(self, endpoint_id: int, address: bytes) -> CachedAddress | None:
        """What is known of an address."""
        endpoint = self.endpoints.get(endpoint_id)
        return endpoint.addresses.get(address) if endpoint else None

    def learn(
        self, endpoint_id: int, name: bytes, addresses: Iterable[bytes], expiry_ns: int, select: Select
    ) -> tuple[CachedName, Touched]:
        """Adds addresses to a name, or lets them last longer; all that changed, evicted ones included."""
        endpoint = self.endpoints.setdefault(endpoint_id, Endpoint())
        known = endpoint.names.get(name)
        touched: Touched = []
        if known is None:
            known = CachedName(self._intern(name))
            endpoint.names[known.name] = known
            self.name_count += 1
        else:
            endpoint.names.move_to_end(name)  # now the one looked up last
        touched += self.reselect(endpoint_id, known, select(known.name))
        for address in addresses:
            touched.append(self._link(endpoint_id, endpoint, known, address, expiry_ns))
        touched += self._trim(endpoint_id, endpoint, known)
        if known.addresses and (not known.due_ns or expiry_ns < known.due_ns):
            self._schedule(endpoint_id, known)
        return known, touched

    def prolong(
        self, endpoint_id: int, known: CachedName, addresses: Iterable[bytes], expiry_ns: int
    ) -> Touched:
        """Lets addresses that a name has last longer; those that somebody may connect to."""
        endpoint = self.endpoints[endpoint_id]
        endpoint.names.move_to_end(known.name)
        of_name, of_endpoint = known.addresses, endpoint.addresses
        found = []
        for address in addresses:
            one = of_endpoint[address]
            of_endpoint.move_to_end(address)
            of_name[one.address] = max(expiry_ns, of_name.pop(address))
            if known.selectors:
                one.expiry_ns = max(one.expiry_ns, expiry_ns)
                found.append(one)
        return found

    def reselect(self, endpoint_id: int, known: CachedName, selectors: frozenset[str]) -> Touched:
        """Takes over that other selectors match a name now."""
        if known.selectors == selectors:
            return []
        before, known.selectors = known.selectors, selectors
        addresses = self.endpoints[endpoint_id].addresses
        touched = [addresses[address] for address in known.addresses]
        for one in touched:
            _count(one, before, -1)
            _count(one, selectors, 1)
            if selectors:
                one.expiry_ns = max(one.expiry_ns, known.addresses[one.address])
        return touched

    def next_due_ns(self) -> int | None:
        """When `expire` may have something to do."""
        return self._due[0][0] if self._due else None

    def expire(self, now_ns: int, limit: int) -> tuple[Touched, int]:
        """Forgets what expired, of at most `limit` names; what was touched, and how many names ended."""
        touched: Touched = []
        gone = 0
        while self._due and self._due[0][0] <= now_ns and limit > 0:
            due, endpoint_id, name = heapq.heappop(self._due)
            known = self.name(endpoint_id, name)
            if known is None or known.due_ns != due:
                continue
            limit -= 1
            endpoint = self.endpoints[endpoint_id]
            for address in [one for one, expiry in known.addresses.items() if expiry <= now_ns]:
                touched.append(self._unlink(endpoint, known, address))
            if known.addresses:
                self._schedule(endpoint_id, known)
            else:
                gone += 1
                self._drop_name(endpoint_id, endpoint, known)
        return touched, gone

    def forget_name(self, endpoint_id: int, name: bytes) -> Touched:
        """Forgets a name with all of its addresses."""
        known = self.name(endpoint_id, name)
        if known is None:
            return []
        endpoint = self.endpoints[endpoint_id]
        touched = [self._unlink(endpoint, known, address) for address in list(known.addresses)]
        self._drop_name(endpoint_id, endpoint, known)
        return touched

    def forget_address(self, endpoint_id: int, address: bytes) -> Touched:
        """Forgets an address whatever its names."""
        endpoint = self.endpoints[endpoint_id]
        one = endpoint.addresses[address]
        for name in list(one.names):
            known = endpoint.names[name]
            self._unlink(endpoint, known, address)
            if not known.addresses:
                self._drop_name(endpoint_id, endpoint, known)
        return [one]

    def entries(self) -> Iterator[tuple[int, CachedName]]:
        """All names by endpoint."""
        for endpoint_id, endpoint in self.endpoints.items():
            for known in endpoint.names.values():
                yield endpoint_id, known

    def _link(
        self, endpoint_id: int, endpoint: Endpoint, known: CachedName, address: bytes, expiry_ns: int
    ) -> CachedAddress:
        one = endpoint.addresses.get(address)
        if one is None:
            one = endpoint.addresses[address] = CachedAddress(endpoint_id, address)
            self.address_count += 1
        else:
            endpoint.addresses.move_to_end(address)
        if known.name not in one.names:
            one.names[known.name] = None
            _count(one, known.selectors, 1)
        known.addresses[one.address] = max(expiry_ns, known.addresses.pop(one.address, 0))
        if known.selectors:
            one.expiry_ns = max(one.expiry_ns, expiry_ns)
        return one

    def _unlink(self, endpoint: Endpoint, known: CachedName, address: bytes) -> CachedAddress:
        one = endpoint.addresses[address]
        known.addresses.pop(address, None)
        known.last.clear()
        if one.names.pop(known.name, 0) is None:
            _count(one, known.selectors, -1)
        if not one.names:
            del endpoint.addresses[address]
            self.address_count -= 1
        return one

    def _trim(self, endpoint_id: int, endpoint: Endpoint, known: CachedName) -> Touched:
        """Brings an endpoint back under its limits; each answer adds little, so little has to go."""
        touched: Touched = []
        while len(known.addresses) > self.limits.ips_per_name:
            touched.append(self._unlink(endpoint, known, next(iter(known.addresses))))
            self.evicted += 1
        while len(endpoint.names) > self.limits.names:
            touched += self.forget_name(endpoint_id, next(iter(endpoint.names)))
            self.evicted += 1
        while len(endpoint.addresses) > self.limits.addresses:
            touched += self.forget_address(endpoint_id, next(iter(endpoint.addresses)))
            self.evicted += 1
        return touched

    def _drop_name(self, endpoint_id: int, endpoint: Endpoint, known: CachedName) -> None:
        known.due_ns = 0
        if endpoint.names.pop(known.name, None) is not None:
            self.name_count -= 1
            self._release(known.name)
        if not endpoint.names:
            self.endpoints.pop(endpoint_id, None)

    def _schedule(self, endpoint_id: int, known: CachedName) -> None:
        known.due_ns = min(known.addresses.values())
        heapq.heappush(self._due, (known.due_ns, endpoint_id, known.name))
        if len(self._due) > 2 * self.name_count + 1_024:
            self._due = [(one.due_ns, number, one.name) for number, one in self.entries() if one.due_ns]
            heapq.heapify(self._due)

    def _intern(self, name: bytes) -> bytes:
        kept, users = self._interned.get(name, (bytes(name), 0))
        self._interned[kept] = (kept, users + 1)
        return kept

    def _release(self, name: bytes) -> None:
        kept, users = self._interned[name]
        if users > 1:
            self._interned[kept] = (kept, users - 1)
        else:
            del self._interned[kept]


def _count(one: CachedAddress, selectors: frozenset[str], step: int) -> None:
    if not selectors:
        return
    left = one.sets.get(selectors, 0) + step
    if left:
        one.sets[selectors] = left
    else:
        del one.sets[selectors]
