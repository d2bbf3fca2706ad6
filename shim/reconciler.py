"""Makes a table of the kernel equal a desired table, keeps what failed, and tries it again.

Desired and actual are two tables: a write that fails stays pending and is repeated after 100 ms, doubling
to 60 s. Upserts go before removals, so that nothing is missing in between; only when the table is full,
removals make room first. Nothing that was found in the kernel at start and is not desired goes away before
`prune`, which the caller runs after a complete snapshot. Every map and the routes go through here; nothing
here knows what a key means.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

K = TypeVar("K")
V = TypeVar("V")

FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 0.1, 60.0


@dataclass(frozen=True, slots=True)
class WriteFault:
    """Why one key could not be written; `full` when the table has no room."""

    message: str
    full: bool = False


class Table(Protocol[K, V]):
    """What a reconciler writes to. Faults come per key; an exception means that nothing can be said."""

    def items(self) -> Iterable[tuple[K, V]]:
        """Everything that is in the kernel now."""

    def upsert(self, pairs: Sequence[tuple[K, V]]) -> Mapping[K, WriteFault]:
        """Writes pairs and returns those that failed."""

    def remove(self, keys: Sequence[K]) -> Mapping[K, WriteFault]:
        """Removes keys and returns those that failed; removing what is absent succeeds."""


@dataclass(slots=True)
class _Retry:
    delay_seconds: float
    due: float
    fault: WriteFault


class Reconciler(Generic[K, V]):
    """Desired against actual for one table. Not safe for concurrent use: one task owns it."""

    def __init__(self, name: str, table: Table[K, V], *, clock: Callable[[], float]) -> None:
        self.name = name
        self.desired: dict[K, V] = {}
        self.actual: dict[K, V] = {}
        self._table = table
        self._clock = clock
        self._pending: set[K] = set()
        self._retries: dict[K, _Retry] = {}

    def load(self) -> None:
        """Reads what the kernel holds, so that equal entries cause no write. Found ones wait for `prune`."""
        self.actual = dict(self._table.items())

    def put(self, upserts: Mapping[K, V]) -> None:
        """Declares wanted entries; `flush` writes them."""
        for key, value in upserts.items():
            self.desired[key] = value
            self._mark(key)

    def discard(self, keys: Iterable[K]) -> None:
        """Declares entries unwanted; `flush` removes them."""
        for key in keys:
            self.desired.pop(key, None)
            self._mark(key)

    def prune(self) -> int:
        """Marks everything that is in the kernel and not desired for removal; returns how many."""
        stale = [key for key in self.actual if key not in self.desired]
        for key in stale:
            self._mark(key)
        return len(stale)

    def flush(self) -> None:
        """Writes what is pending and whatever is due for another try."""
        now = self._clock()
        due = self._pending | {key for key, retry in self._retries.items() if retry.due <= now}
        self._pending.clear()
        upserts = [key for key in due if key in self.desired and self.actual.get(key) != self.desired[key]]
        removals = [key for key in due if key not in self.desired and key in self.actual]
        faults = self._upsert(upserts)
        self._settle(self._remove(removals), removals)
        full = [key for key, fault in faults.items() if fault.full]
        if full and removals:
            still = self._upsert(full)
            faults = {key: fault for key, fault in faults.items() if not fault.full} | dict(still)
        self._settle(faults, upserts)
        for key in due - set(upserts) - set(removals):
            self._retries.pop(key, None)

    def faults(self) -> dict[K, WriteFault]:
        """Keys that are not as desired because a write failed."""
        return {key: retry.fault for key, retry in self._retries.items()}

    def next_due(self) -> float | None:
        """Time of the next try, by the injected clock; None when nothing waits."""
        if self._pending:
            return self._clock()
        return min((retry.due for retry in self._retries.values()), default=None)

    def audit(self, *, prune: bool) -> list[tuple[K, str]]:
        """Compares the kernel with desired, repairs, and says what differed. Own failures are not drift."""
        self.actual = dict(self._table.items())
        found: list[tuple[K, str]] = []
        for key, value in self.desired.items():
            if key in self._retries:
                continue
            if key not in self.actual:
                found.append((key, "missing, written again"))
            elif self.actual[key] != value:
                found.append((key, "changed, written again"))
        if prune:
            found += [(key, "unknown, removed") for key in self.actual if key not in self.desired]
        for key, _ in found:
            self._mark(key)
        self.flush()
        return found

    def _mark(self, key: K) -> None:
        self._pending.add(key)
        self._retries.pop(key, None)

    def _upsert(self, keys: Collection[K]) -> Mapping[K, WriteFault]:
        if not keys:
            return {}
        pairs = [(key, self.desired[key]) for key in keys]
        faults = self._table.upsert(pairs)
        self.actual.update((key, value) for key, value in pairs if key not in faults)
        return faults

    def _remove(self, keys: Collection[K]) -> Mapping[K, WriteFault]:
        if not keys:
            return {}
        faults = self._table.remove(list(keys))
        for key in keys:
            if key not in faults:
                self.actual.pop(key, None)
        return faults

    def _settle(self, faults: Mapping[K, WriteFault], tried: Iterable[K]) -> None:
        now = self._clock()
        for key in tried:
            fault = faults.get(key)
            if fault is None:
                self._retries.pop(key, None)
                continue
            known = self._retries.get(key)
            delay = min(known.delay_seconds * 2, LAST_RETRY_SECONDS) if known else FIRST_RETRY_SECONDS
            self._retries[key] = _Retry(delay, now + delay, fault)
