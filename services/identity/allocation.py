"""Numbers for label sets in etcd, one transaction each, safe beside Cilium's own allocators.

A new number: If no lock of the label set ∧ no reference to it ∧ number free ∧ not buried Then number and
reference. Cilium's allocator holds the lock from before its last look until its reference is written, so
one of both sees the other. A number without references (a stale master) is taken over, and rewritten so
that a collector that saw it unreferenced finds it changed.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from axoneme.lib import identities
from axoneme.lib.errors import NotFound, StoreConflict
from axoneme.lib.kvstore import layout
from axoneme.lib.kvstore.port import (
    DeleteOp,
    GetOp,
    KeyRange,
    PutOp,
    Row,
    Store,
    absent,
    empty,
    holds,
    not_empty,
    unchanged,
)
from axoneme.lib.labels import LabelSet
from services.identity import domain
from services.identity.state import ClusterState

ATTEMPTS = 16
FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS = 0.002, 0.1

Sleep = Callable[[float], Awaitable[None]]


class Allocation(NamedTuple):
    """A number, whether this call made it, and the revision at which that holds."""

    number: int
    allocated: bool
    revision: int


class Allocator:
    """Gives out and takes back numbers of one cluster."""

    def __init__(
        self, store: Store, state: ClusterState, *, rng: random.Random, sleep: Sleep = asyncio.sleep
    ) -> None:
        self._store, self._state, self._rng, self._sleep = store, state, rng, sleep

    async def allocate(self, labels: LabelSet, node_name: str, lease: int) -> Allocation:
        """The number of a label set, with a reference of the node on its lease.

        Raises StoreConflict when other allocators win every time, PoolExhausted, LeaseLost.
        """
        reserved = identities.RESERVED_NUMBER_BY_LABELS.get(labels)
        if reserved is not None:
            return Allocation(reserved, False, self._state.revision)
        attempt = _Attempt(self._store, self._state, labels, node_name, lease)
        pause = FIRST_PAUSE_SECONDS
        for _ in range(ATTEMPTS):
            found = await attempt.run(self._rng.randrange)
            if found is not None:
                return found
            if attempt.locked:
                await self._sleep(self._rng.uniform(pause / 2, pause))
                pause = min(2 * pause, LAST_PAUSE_SECONDS)
        raise StoreConflict("other allocators were faster every time; try again")

    async def refer(self, number: int, node_name: str, lease: int) -> None:
        """Makes sure that the node has a reference to a number. Raises NotFound for an unknown number."""
        row = self._state.identities.get(number)
        if row is None:
            raise NotFound(f"identity {number} is not known; allocate it again", reason="IDENTITY_UNKNOWN")
        label_key = row.value.key
        master, slave = layout.master_key(number), layout.slave_key(label_key, node_name)
        outcome = await self._store.transaction(
            [holds(master, label_key.encode())], [PutOp(slave, str(number).encode(), lease)]
        )
        if not outcome.succeeded:
            raise NotFound(f"identity {number} is gone; allocate it again", reason="IDENTITY_UNKNOWN")

    async def release(self, number: int, node_name: str) -> int:
        """Drops the reference of a node; returns the revision. Success when there is none."""
        row = self._state.identities.get(number)
        if row is None:
            return self._state.revision
        slave = layout.slave_key(row.value.key, node_name)
        outcome = await self._store.transaction([holds(slave, str(number).encode())], [DeleteOp(slave)])
        return outcome.revision


class _Attempt:
    """One call of allocate: what it learned so far, beyond the state."""

    def __init__(
        self, store: Store, state: ClusterState, labels: LabelSet, node_name: str, lease: int
    ) -> None:
        self._store, self._state, self._labels = store, state, labels
        self._key = labels.key
        self._value = self._key.encode()
        self._slave = layout.slave_key(self._key, node_name)
        self._lease = lease
        self._useless: set[int] = set()
        self.locked = False

    async def run(self, draw: Callable[[int], int]) -> Allocation | None:
        """One round; None when something else changed meanwhile."""
        self.locked = False
        known = self._state.number_of(self._labels)
        if known is not None and known not in self._useless:
            return await self._refer(known)
        return await self._create(draw)

    def _reference(self, number: int) -> PutOp:
        return PutOp(self._slave, str(number).encode(), self._lease)

    async def _refer(self, number: int) -> Allocation | None:
        """Adds a reference to a number that the state knows; takes it over when nobody refers to it."""
        master, references = layout.master_key(number), layout.slave_prefix(self._key)
        outcome = await self._store.transaction(
            [holds(master, self._value), not_empty(references)], [self._reference(number)], [GetOp(master)]
        )
        if not outcome.succeeded and _holds(outcome.rows[0], self._value):
            outcome = await self._store.transaction(
                [holds(master, self._value)], [PutOp(master, self._value), self._reference(number)]
            )
        if outcome.succeeded:
            return Allocation(number, False, outcome.revision)
        self._useless.add(number)
        return None

    async def _create(self, draw: Callable[[int], int]) -> Allocation | None:
        state = self._state
        taken = state.identities.keys() | self._useless
        number = domain.choose_number(state.block, taken, state.tombstones, draw)
        master, tombstone = layout.master_key(number), layout.tombstone_key(number)
        references, locks = layout.slave_prefix(self._key), layout.lock_prefix(self._key)
        outcome = await self._store.transaction(
            [empty(locks), empty(references), absent(master), absent(tombstone)],
            [PutOp(master, self._value), self._reference(number)],
            [GetOp(KeyRange.prefix(references), 1), GetOp(KeyRange.prefix(locks), 1)],
        )
        if outcome.succeeded:
            return Allocation(number, True, outcome.revision)
        slaves, held_locks = outcome.rows
        if slaves:
            return await self._follow(slaves[0])
        self.locked = bool(held_locks)
        if not self.locked:
            self._useless.add(number)
        return None

    async def _follow(self, slave: Row) -> Allocation | None:
        """Another node refers to a number of this label set: take it, with its master if that was lost."""
        number = layout.number_of(slave.value.decode("ascii", "replace"), "")
        if number is None or number not in self._state.block:
            raise StoreConflict(f"{slave.key[:128]} holds no number of this cluster; remove it")
        master, same = layout.master_key(number), unchanged(slave.key, slave.mod_revision)
        outcome = await self._store.transaction(
            [same, holds(master, self._value)], [self._reference(number)], [GetOp(master)]
        )
        if not outcome.succeeded and not outcome.rows[0]:
            outcome = await self._store.transaction(
                [same, absent(master)], [PutOp(master, self._value), self._reference(number)]
            )
        return Allocation(number, False, outcome.revision) if outcome.succeeded else None


def _holds(rows: tuple[Row, ...], value: bytes) -> bool:
    return bool(rows) and rows[0].value == value
