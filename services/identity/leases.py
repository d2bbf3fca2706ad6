"""The leases of the nodes: which one takes the next keys, at most 1,000 each.

etcd's cost of a write grows with the keys on its lease. Counts live in this process; a lease met for the
first time, or one that seems full, is asked for its keys. The list of a node's leases is in its record, so
that any replica can renew them.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict

from axoneme.lib.kvstore.port import LeaseLost, Store

MAX_KEYS = 1_000


class LeaseBook:
    """How full each lease is."""

    def __init__(self, store: Store, ttl_seconds: int) -> None:
        self._store = store
        self.ttl_seconds = ttl_seconds
        self._used: dict[int, int] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def lock(self, node_name: str) -> asyncio.Lock:
        """Held while a node's list of leases is changed."""
        return self._locks[node_name]

    async def grant(self) -> int:
        """A new, empty lease."""
        lease = await self._store.grant(self.ttl_seconds)
        self._used[lease] = 0
        return lease

    async def take(self, leases: tuple[int, ...], keys: int) -> int | None:
        """The newest lease with room for so many keys, which are counted; None when all are full.

        Raises LeaseLost when a lease is gone.
        """
        for lease in reversed(leases):
            if self._used.get(lease, MAX_KEYS) + keys > MAX_KEYS:
                await self._recount(lease)
            if self._used[lease] + keys <= MAX_KEYS:
                self._used[lease] += keys
                return lease
        return None

    async def alive(self, leases: tuple[int, ...]) -> tuple[int, ...]:
        """Renews the leases; returns those that were still there."""
        found = []
        for lease in leases:
            try:
                await self._store.keep_alive(lease)
            except LeaseLost:
                self._used.pop(lease, None)
            else:
                found.append(lease)
        return tuple(found)

    async def _recount(self, lease: int) -> None:
        state = await self._store.lease_state(lease, keys=True)
        if state is None:
            self._used.pop(lease, None)
            raise LeaseLost("a lease of the node is gone; register the node again and declare everything")
        self._used[lease] = len(state.keys)
