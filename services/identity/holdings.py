"""Which label sets each node refers to: for its quota, and to know what need not be written again.

Read from the node's leases at the first need, then kept up by this process alone. At the limit the leases
are read again, because a node may have called another replica meanwhile; so does a registration, which
comes first whenever a node changes its replica.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict

from axoneme.lib.kvstore import layout
from axoneme.lib.kvstore.port import Store
from services.identity import domain

RESERVED = 0
"""Stands for the lease of a reference that is being written."""


class Holdings:
    """References of nodes, by the key of their label set."""

    def __init__(self, store: Store, limit: int) -> None:
        self._store, self._limit = store, limit
        self._lease_by_labels: dict[str, dict[str, int]] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def check(self, node_name: str, labels_key: str, leases: tuple[int, ...]) -> None:
        """Raises NodeQuotaExceeded when the node may not refer to this label set too."""
        async with self._locks[node_name]:
            await self._admitted(node_name, labels_key, leases)

    async def reserve(self, node_name: str, labels_key: str, leases: tuple[int, ...]) -> bool:
        """Makes room for a reference; False when the node has it. Raises NodeQuotaExceeded.

        Every True is followed by `confirm` or `cancel`.
        """
        async with self._locks[node_name]:
            held = await self._admitted(node_name, labels_key, leases)
            if held.get(labels_key, RESERVED) != RESERVED:
                return False
            held[labels_key] = RESERVED
            return True

    def confirm(self, node_name: str, labels_key: str, lease: int) -> None:
        """The reference is written on this lease."""
        held = self._lease_by_labels.get(node_name)
        if held is not None:
            held[labels_key] = lease

    def cancel(self, node_name: str, labels_key: str) -> None:
        """The reference was not written."""
        held = self._held(node_name)
        if held.get(labels_key) == RESERVED:
            del held[labels_key]

    def release(self, node_name: str, labels_key: str) -> None:
        """The node dropped its reference."""
        self._held(node_name).pop(labels_key, None)

    def forget(self, node_name: str) -> None:
        """What is known of a node may be wrong: it is read again at the next need."""
        self._lease_by_labels.pop(node_name, None)
        if not self._locks[node_name].locked():
            del self._locks[node_name]

    def _held(self, node_name: str) -> dict[str, int]:
        return self._lease_by_labels.get(node_name, {})

    async def _admitted(self, node_name: str, labels_key: str, leases: tuple[int, ...]) -> dict[str, int]:
        held = self._lease_by_labels.get(node_name)
        if held is None or (labels_key not in held and len(held) >= self._limit):
            held = await self._read(node_name, leases)
        domain.check_identity_quota(node_name, held, labels_key, self._limit)
        return held

    async def _read(self, node_name: str, leases: tuple[int, ...]) -> dict[str, int]:
        in_flight = {key for key, lease in self._held(node_name).items() if lease == RESERVED}
        found: dict[str, int] = {}
        for lease in leases:
            state = await self._store.lease_state(lease, keys=True)
            for key in state.keys if state else ():
                labels_key, owner = layout.split_slave(key)
                if key.startswith(layout.SLAVES) and owner == node_name:
                    found[labels_key] = lease
        for labels_key, lease in self._held(node_name).items():
            if lease == RESERVED or labels_key in in_flight:
                found.setdefault(labels_key, lease)
        self._lease_by_labels[node_name] = found
        return found
