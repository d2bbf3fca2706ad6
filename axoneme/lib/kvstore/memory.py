"""The port in memory, for unit tests and demonstrations without etcd; verified by the contract tests.

Single process, one dictionary, full history until `compact`. Leases run on the event loop's clock.
"""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import AsyncGenerator, Sequence

from axoneme.lib.errors import RevisionCompacted, StoreConflict
from axoneme.lib.kvstore.port import (
    Batch,
    Compare,
    Delete,
    DeleteOp,
    GetOp,
    KeyRange,
    LeaseLost,
    LeaseState,
    Operation,
    Outcome,
    Put,
    PutOp,
    Relation,
    Row,
    StoreRestored,
    Target,
    absent,
    check_size,
    unchanged,
)

_MISSING = Row("", b"", 0, 0, 0, 0)
Rows = list[Row]
Events = list[Put | Delete]


class MemoryStore:
    """A store that dies with its process."""

    def __init__(self) -> None:
        self._rows: dict[str, Row] = {}
        self._revision = 1
        self._compacted = 0
        self._history: list[tuple[int, tuple[Put | Delete, ...]]] = []
        self._leases: dict[int, tuple[int, asyncio.TimerHandle]] = {}
        self._next_lease = 1
        self._changed = asyncio.Event()
        self._base: dict[str, Row] = {}  # what the history builds on

    async def revision(self) -> int:
        """The newest revision."""
        return self._revision

    async def get(self, key: str) -> Row | None:
        """The row of a key."""
        return self._rows.get(key)

    async def list(self, prefix: str, *, revision: int = 0, keys_only: bool = False) -> tuple[Rows, int]:
        """Rows as of a revision."""
        rows = self._range(KeyRange.prefix(prefix), self._at(revision))
        if keys_only:
            rows = [Row(r.key, b"", r.mod_revision, r.create_revision, r.version, r.lease) for r in rows]
        return rows, revision or self._revision

    async def watch(self, keys: str | KeyRange, start_revision: int) -> AsyncGenerator[Batch, None]:
        """Changes from a revision on."""
        wanted = KeyRange.prefix(keys) if isinstance(keys, str) else keys
        position = start_revision
        while True:
            if position <= self._compacted:
                raise RevisionCompacted(f"revision {position} is forgotten")
            if self._revision < position - 1:
                raise StoreRestored(f"the store is at revision {self._revision}, before {position - 1}")
            changed, newest = self._changed, self._revision
            first = bisect.bisect_left(self._history, position, key=lambda entry: entry[0])
            for revision, events in self._history[first:]:
                chosen = tuple(event for event in events if wanted.first <= event.key < wanted.end)
                if chosen:
                    yield Batch(chosen, revision)
            position = max(position, newest + 1)
            await changed.wait()

    async def create(self, key: str, value: bytes, *, lease: int = 0) -> int:
        """Writes a new key."""
        return await self._conditional(absent(key), PutOp(key, value, lease), f"{key} exists already")

    async def swap(self, key: str, value: bytes, mod_revision: int, *, lease: int = 0) -> int:
        """Replaces a value."""
        condition = unchanged(key, mod_revision)
        return await self._conditional(condition, PutOp(key, value, lease), f"{key} changed meanwhile")

    async def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        """Writes."""
        return (await self.transaction((), [PutOp(key, value, lease)])).revision

    async def delete(self, key: str, mod_revision: int | None = None) -> int:
        """Deletes."""
        if mod_revision is not None:
            condition = unchanged(key, mod_revision)
            return await self._conditional(condition, DeleteOp(key), f"{key} changed meanwhile")
        return (await self.transaction((), [DeleteOp(key)])).revision

    async def transaction(
        self, compares: Sequence[Compare], success: Sequence[Operation], failure: Sequence[Operation] = ()
    ) -> Outcome:
        """All or nothing; there is no await inside, so nothing comes between."""
        check_size(compares, success, failure)
        succeeded = all(self._holds(condition) for condition in compares)
        operations = success if succeeded else failure
        for operation in operations:
            if isinstance(operation, PutOp) and operation.lease and operation.lease not in self._leases:
                raise LeaseLost(f"lease {operation.lease:x} is gone")
        events: Events = []
        rows = tuple(self._run(operation, self._revision + 1, events) for operation in operations)
        self._commit(events)
        return Outcome(succeeded, self._revision, rows)

    async def grant(self, ttl_seconds: int) -> int:
        """A new lease."""
        lease = self._next_lease
        self._next_lease += 1
        self._arm(lease, ttl_seconds)
        return lease

    async def keep_alive(self, lease: int) -> int:
        """Starts the time of the lease again."""
        if lease not in self._leases:
            raise LeaseLost(f"lease {lease:x} is gone")
        ttl_seconds, timer = self._leases[lease]
        timer.cancel()
        self._arm(lease, ttl_seconds)
        return ttl_seconds

    async def revoke(self, lease: int) -> None:
        """Ends a lease; tests call it `expire` in their minds."""
        self._expire(lease)

    async def lease_state(self, lease: int, *, keys: bool = False) -> LeaseState | None:
        """What is left of a lease."""
        if lease not in self._leases:
            return None
        ttl_seconds, timer = self._leases[lease]
        left = int(max(0.0, min(ttl_seconds, timer.when() - asyncio.get_running_loop().time())))
        held = tuple(sorted(row.key for row in self._rows.values() if row.lease == lease)) if keys else ()
        return LeaseState(lease, left, held)

    async def compact(self, revision: int) -> None:
        """Forgets revisions below this one."""
        self._compacted = revision - 1
        self._base = self._at(revision - 1)
        self._history = [entry for entry in self._history if entry[0] >= revision]
        self._wake()

    def restore(self, rows: Sequence[Row], revision: int) -> None:
        """Goes back to a backup."""
        self._rows = {row.key: row for row in rows}
        self._base = dict(self._rows)
        self._revision, self._compacted, self._history = revision, 0, []
        self._wake()

    def _at(self, revision: int) -> dict[str, Row]:
        """The rows as of a revision, by playing the history."""
        if not revision or revision == self._revision:
            return self._rows
        if revision < self._compacted:
            raise RevisionCompacted(f"revision {revision} is forgotten")
        if revision > self._revision:
            raise StoreRestored(f"revision {revision} is in the future")
        rows = dict(self._base)
        for at, events in self._history:
            for event in events if at <= revision else ():
                if isinstance(event, Put):
                    rows[event.key] = event.row
                else:
                    rows.pop(event.key, None)
        return rows

    def _range(self, keys: str | KeyRange, rows: dict[str, Row] | None = None) -> Rows:
        rows = self._rows if rows is None else rows
        if isinstance(keys, str):
            return [rows[keys]] if keys in rows else []
        return [rows[key] for key in sorted(rows) if keys.first <= key < keys.end]

    def _holds(self, condition: Compare) -> bool:
        rows = self._range(condition.keys)
        if not rows:
            return condition.target is not Target.VALUE and _related(condition, _MISSING)
        return all(_related(condition, row) for row in rows)

    def _run(self, operation: Operation, revision: int, events: Events) -> tuple[Row, ...]:
        match operation:
            case GetOp(keys, limit):
                rows = self._range(keys)
                return tuple(rows[:limit] if limit else rows)
            case PutOp(key, value, lease):
                old = self._rows.get(key, _MISSING)
                row = Row(key, value, revision, old.create_revision or revision, old.version + 1, lease)
                self._rows[key] = row
                events.append(Put(row))
            case DeleteOp(keys):
                for row in self._range(keys):
                    del self._rows[row.key]
                    events.append(Delete(row.key, revision))
        return ()

    def _commit(self, events: Events) -> None:
        if events:
            self._revision += 1
            self._history.append((self._revision, tuple(events)))
            self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _arm(self, lease: int, ttl_seconds: int) -> None:
        timer = asyncio.get_running_loop().call_later(ttl_seconds, self._expire, lease)
        self._leases[lease] = (ttl_seconds, timer)

    def _expire(self, lease: int) -> None:
        if lease not in self._leases:
            return
        self._leases.pop(lease)[1].cancel()
        events: Events = []
        for key in sorted(row.key for row in self._rows.values() if row.lease == lease):
            del self._rows[key]
            events.append(Delete(key, self._revision + 1))
        self._commit(events)

    async def _conditional(self, condition: Compare, operation: Operation, conflict: str) -> int:
        outcome = await self.transaction([condition], [operation])
        if not outcome.succeeded:
            raise StoreConflict(conflict)
        return outcome.revision


def _related(condition: Compare, row: Row) -> bool:
    stored = _stored(condition.target, row)
    wanted = condition.wanted
    if condition.relation is Relation.EQUAL:
        return stored == wanted
    if condition.relation is Relation.NOT_EQUAL:
        return stored != wanted
    greater = stored > wanted  # type: ignore[operator]
    return greater if condition.relation is Relation.GREATER else not greater and stored != wanted


def _stored(target: Target, row: Row) -> int | bytes:
    if target is Target.VALUE:
        return row.value
    numbers = (row.version, row.create_revision, row.mod_revision, 0, row.lease)
    return numbers[target]
