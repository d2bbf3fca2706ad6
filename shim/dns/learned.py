"""`axoneme_learned`: what endpoints learned from DNS. The proxy writes it; the shim only takes away.

    endpoint comes or goes ─► its entries go
    no proxy is connected ──► entries are moved to the identities of the file as it is, or go

Nothing of a former endpoint is ever found by a new one with its number: entries go when the old one is
removed, after its last packet, and again before the new one's first, since the proxy may write an answer that
was under way. That answer is at most 10 s old, and a number comes back only after all 65,533 others, across
restarts too (`NumberPool.resume`). An address that comes back changes nothing: the map is by number, which
programs and proxy take from `axoneme_ep` and `axoneme_local`, and these never lead to an endpoint that was
removed.

A scan of a full map takes tens of milliseconds and runs in a worker thread; endpoints that go together share
one. A sweep beside a living proxy that lost its session could meet entries in the making: the proxy brings
them into line when it connects, before any number is used again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import NamedTuple

from axoneme.lib.bpf.maps import BpfMap
from axoneme.lib.dns.prefixes import PrefixFinder
from shim.dns.table import IdentityTable
from shim.localidentities import LocalKey
from shim.maps import base
from shim.maps.layout import LearnedEntry, LearnedKey


class Sweep(NamedTuple):
    """What brings the map into line with a table."""

    updates: list[tuple[bytes, bytes]]
    deletions: list[bytes]


class LearnedAddresses:
    """The map of one node. Methods raise BpfError."""

    def __init__(self, bpf_map: BpfMap) -> None:
        self._map = bpf_map
        self._going: set[int] = set()
        self._lock = asyncio.Lock()

    async def forget(self, endpoint_id: int) -> None:
        """Takes away what an endpoint learned."""
        self._going.add(endpoint_id)
        async with self._lock:
            if endpoint_id not in self._going:
                return  # another's scan took it along
            batch, self._going = self._going, set()
            try:
                await asyncio.to_thread(self._delete_of, frozenset(batch))
            except BaseException:
                self._going |= batch
                raise

    async def sweep(self, table: IdentityTable) -> None:
        """Every entry gets the identity that the table has for its selectors and address, or goes."""
        async with self._lock:
            await asyncio.to_thread(self._sweep, table)

    async def used(self) -> frozenset[int]:
        """Numbers under which something is learned."""
        return await asyncio.to_thread(self._used)

    def _delete_of(self, endpoints: frozenset[int]) -> None:
        keys = [key for key, _ in self._map.items() if LearnedKey.unpack(key).endpoint_id in endpoints]
        self._map.delete_batch(keys)

    def _sweep(self, table: IdentityTable) -> None:
        steps = sweep_of(table, self._map.items())
        self._map.delete_batch(steps.deletions)
        self._map.update_batch(steps.updates)

    def _used(self) -> frozenset[int]:
        return frozenset(LearnedEntry.unpack(raw).identity for _, raw in self._map.items())


def sweep_of(table: IdentityTable, entries: Iterable[tuple[bytes, bytes]]) -> Sweep:
    """Entries under a number that the table lacks go; those inside another prefix move to its number."""
    names_of = {number: key.names for key, number in table.named.items()}
    around = PrefixFinder(table.prefixes)
    updates, deletions = [], []
    for raw_key, raw in entries:
        entry = LearnedEntry.unpack(raw)
        names = names_of.get(entry.identity)
        address = base.address_from_bytes(LearnedKey.unpack(raw_key).address)
        number = table.numbers.get(LocalKey(around.find(address.packed), names)) if names else None
        if number is None:
            deletions.append(raw_key)
        elif number != entry.identity:
            updates.append((raw_key, LearnedEntry(number, entry.expiry_ns).pack()))
    return Sweep(updates, deletions)
