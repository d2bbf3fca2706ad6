"""The publisher's table: what every subscriber shall hold, and the last changes for those who resume.

A service applies changes; each apply that changes something is one revision. Subscriptions (publisher.py)
are told which keys changed and read the values when they send, so that a slow subscriber gets the newest
value of each key once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, Mapping
from typing import Generic, Protocol, TypeVar

from axoneme.lib.intent.limits import Limits

V = TypeVar("V")


def fresh_epoch(draw_bits: Callable[[int], int]) -> int:
    """Returns a random epoch, never 0 (R4); `draw_bits` is `getrandbits` of a good source.

    A publisher whose revisions restart, because it restarts or its store was restored, must draw a new one:
    else a subscriber would resume at a revision that means something else now.
    """
    return draw_bits(63) | 1 << 63


class TableObserver(Protocol):
    """A subscription as the table sees it."""

    def on_changes(self, revision: int, keys: KeysView[str]) -> None:
        """Takes note of keys that changed at `revision`."""

    def on_reset(self) -> None:
        """Takes note of a new epoch: everything sent before is void."""


class IntentTable(Generic[V]):
    """Keys, their values, a revision that grows with each change, the epoch in which revisions compare."""

    def __init__(
        self,
        *,
        epoch: int,
        change_log: int = 10_000,
        keep_sent: bool = False,
        first_revision: int = 1,
        limits: Limits | None = None,
    ) -> None:
        if epoch == 0 or first_revision < 1:
            raise ValueError("epoch 0 and revision 0 mean that nothing was received; use fresh_epoch() and 1")
        self.epoch = epoch
        self.revision = first_revision
        self.store_revision = 0
        self.keep_sent = keep_sent
        self.limits = limits or Limits(change_log=change_log)
        self._values: dict[str, V] = {}
        self._log: deque[tuple[int, str]] = deque()
        self._log_floor = first_revision  # every change after this revision is in the log
        self._frozen: tuple[str, ...] | None = None
        self._observers: list[TableObserver] = []

    def apply(self, upserts: Mapping[str, V], removals: Iterable[str], *, store_revision: int) -> int:
        """Makes the changes one revision and returns it; values that are equal already change nothing.

        Raises ValueError when a key is both upserted and removed. `store_revision` alone may advance too:
        it says that the content is complete up to there.
        """
        gone = [key for key in dict.fromkeys(removals) if key in self._values]
        if not upserts.keys().isdisjoint(gone):
            raise ValueError("a key is both upserted and removed in one change")
        changed = [
            key for key, value in upserts.items() if key not in self._values or self._values[key] != value
        ]
        self.store_revision = max(self.store_revision, store_revision)
        if not changed and not gone:
            return self.revision
        self.revision += 1
        if gone or any(key not in self._values for key in changed):
            self._frozen = None
        self._values.update((key, upserts[key]) for key in changed)
        for key in gone:
            del self._values[key]
        self._publish(changed + gone)
        return self.revision

    def _publish(self, keys: list[str]) -> None:
        self._log.extend((self.revision, key) for key in keys)
        while len(self._log) > self.limits.change_log:
            self._log_floor = self._log.popleft()[0]
        # A view of keys meets an interest by the smaller of the two, however many keys changed.
        changed = dict.fromkeys(keys).keys()
        for observer in self._observers:
            observer.on_changes(self.revision, changed)

    def reset(self, *, epoch: int, store_revision: int) -> None:
        """Starts a new lineage after a restore of the store: every subscriber gets a snapshot."""
        self.epoch = epoch
        self.store_revision = store_revision
        self._log.clear()
        self._log_floor = self.revision
        for observer in self._observers:
            observer.on_reset()

    def get(self, key: str) -> V | None:
        """Returns the value of a key, None when there is none."""
        return self._values.get(key)

    def items(self) -> ItemsView[str, V]:
        """Returns all keys and values, live."""
        return self._values.items()

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __len__(self) -> int:
        return len(self._values)

    def frozen_keys(self) -> tuple[str, ...]:
        """Returns all keys of now; snapshots between two changes of the key set share one tuple."""
        if self._frozen is None:
            self._frozen = tuple(self._values)
        return self._frozen

    def resumable(self, epoch: int, revision: int) -> bool:
        """Tells whether the log holds every change after a position."""
        return epoch == self.epoch and self._log_floor <= revision <= self.revision

    def changes_since(self, revision: int) -> Iterator[tuple[int, str]]:
        """Yields (revision, key) of the changes after a resumable position, oldest first; keys may repeat."""
        newest_first = []
        for entry in reversed(self._log):
            if entry[0] <= revision:
                break
            newest_first.append(entry)
        return reversed(newest_first)

    def attach(self, observer: TableObserver) -> None:
        """Starts telling an observer what changes."""
        self._observers.append(observer)

    def detach(self, observer: TableObserver) -> None:
        """Stops telling an observer what changes."""
        if observer in self._observers:
            self._observers.remove(observer)
