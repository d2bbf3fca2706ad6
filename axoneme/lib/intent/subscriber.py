"""The subscriber's side of one intent stream: updates in, exact changes and answers out, no I/O.

The subscriber holds what is desired; whoever applies it holds what is actual, retries, and reports failures
(R6). It outlives streams: after a break `hello()` says from where to go on, and the next snapshot is
compared with what is desired, so that unchanged resources cause no write.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from axoneme.lib.intent.messages import Ack, Change, Failure, Header, Hello, Interest, Resync, Update

V = TypeVar("V")

REVISION_GAP = "REVISION_GAP"
SNAPSHOT_GAP = "SNAPSHOT_GAP"
DUPLICATE_KEY = Failure("INVALID_ARGUMENT", "DUPLICATE_KEY", "the key occurs twice in one update")


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta(Generic[V]):
    """What changed against everything told before. `complete`: whatever was never told is stale now (R5)."""

    upserts: Mapping[str, V]
    removals: frozenset[str]
    complete: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Step(Generic[V]):
    """What to do with one update: apply `delta`, then answer with `ack(nonce, …)`, then send `resync`.

    `goodbye` ends the stream instead.
    """

    nonce: int
    delta: Delta[V] | None = None
    resync: Resync | None = None
    goodbye: Failure | None = None


@dataclass(slots=True)
class _Staging(Generic[V]):
    """Parts of a snapshot: nothing of it counts before the last one."""

    part: int = 0
    values: dict[str, V] = field(default_factory=dict)
    refused: dict[str, Failure] = field(default_factory=dict)


class Subscriber(Generic[V]):
    """Desired resources of one stream and the position they stand for."""

    def __init__(self, *, node_name: str, interest: bool = False) -> None:
        self.node_name = node_name
        self.epoch = 0
        self.revision = 0
        self.store_revision = 0
        self.desired: dict[str, V] = {}
        self.interest: set[str] | None = set() if interest else None
        self.resyncs = 0
        self._uncertain: set[str] = (
            set()
        )  # removed and wanted again in one stream: may be older than `revision`
        self._dropped: set[str] = set()
        self._refused: dict[str, Failure] = {}
        self._nonce = 0
        self._staging: _Staging[V] | None = None
        self._awaits_snapshot = False
        self._retell = False

    @property
    def synced(self) -> bool:
        """True once a complete snapshot was received in this process."""
        return self.revision > 0

    @property
    def in_step(self) -> bool:
        """True when the last update of this stream left nothing open: no staged part, no snapshot asked
        for.
        """
        return self._nonce > 0 and self.revision > 0 and self._staging is None and not self._awaits_snapshot

    # --- opening a stream

    def hello(self) -> Hello:
        """Starts a new stream: staged parts are dropped (R1), the position is kept."""
        self._nonce = 0
        self._discard_staging()
        self._awaits_snapshot = False
        return Hello(
            node_name=self.node_name,
            epoch=self.epoch,
            revision=self.revision,
            store_revision=self.store_revision,
        )

    def opening_interest(self) -> list[Interest]:
        """Returns the Interest messages that follow Hello: keys complete at its position, then the others."""
        if self.interest is None:
            return []
        held = (
            self.interest.intersection(self.desired) - self._uncertain
            if self.revision
            else set(self.interest)
        )
        rest = self.interest - held
        self._uncertain, self._dropped = set(), set()
        opening = [Interest(added=tuple(sorted(held)))]
        return [*opening, Interest(added=tuple(sorted(rest)))] if rest else opening

    def forget(self, *, retell: bool = False) -> None:
        """Gives up the position: the next stream starts with a snapshot; `retell` reports every resource
        again.
        """
        self.epoch = self.revision = self.store_revision = 0
        self._retell = self._retell or retell

    # --- interest

    def want(self, keys: set[str]) -> Interest | None:
        """Adds keys to the interest; returns what to send on a running stream."""
        if self.interest is None:
            raise ValueError("this stream knows no interest")
        added = keys - self.interest
        self.interest |= added
        self._uncertain |= added & self._dropped
        return Interest(added=tuple(sorted(added))) if added else None

    def drop(self, keys: set[str]) -> tuple[Interest | None, Delta[V] | None]:
        """Removes keys from the interest; returns what to send and what the applier has to take away."""
        if self.interest is None:
            raise ValueError("this stream knows no interest")
        removed = keys & self.interest
        self.interest -= removed
        self._dropped |= removed
        held = frozenset(key for key in removed if key in self.desired)
        for key in removed:
            self.desired.pop(key, None)
            self._refused.pop(key, None)
        message = Interest(removed=tuple(sorted(removed))) if removed else None
        delta: Delta[V] | None = Delta(upserts={}, removals=held) if held else None
        return message, delta

    # --- updates

    def receive(self, update: Update[V]) -> Step[V]:
        """Takes one update and returns what to do with it."""
        header = update.header
        if header.goodbye is not None:
            return Step(nonce=header.nonce, goodbye=header.goodbye)
        in_order = header.nonce == self._nonce + 1
        self._nonce = header.nonce
        if not in_order:
            return self._resync(header, REVISION_GAP)
        if header.snapshot_part:
            return self._on_part(header, update)
        if self._awaits_snapshot:
            return Step(nonce=header.nonce)
        if header.epoch != self.epoch or header.base_revision != self.revision:
            return self._resync(header, REVISION_GAP)
        return self._on_delta(header, update)

    def ack(self, nonce: int, failures: Mapping[str, Failure] | None = None) -> Ack:
        """Returns the answer to an update (nonce 0: failures changed meanwhile); `failures` are the
        applier's.
        """
        return Ack(nonce=nonce, revision=self.revision, failures={**(failures or {}), **self._refused})

    @property
    def refused(self) -> Mapping[str, Failure]:
        """Resources that could not be understood and keep their last good value."""
        return self._refused

    def _resync(self, header: Header, reason: str) -> Step[V]:
        """Asks for a snapshot once; what arrives before it is acknowledged and ignored."""
        self._discard_staging()
        if self._awaits_snapshot:
            return Step(nonce=header.nonce)
        self._awaits_snapshot = True
        self.resyncs += 1
        return Step(nonce=header.nonce, resync=Resync(reason=reason))

    def _on_part(self, header: Header, update: Update[V]) -> Step[V]:
        if header.snapshot_part == 1:
            self._begin_staging()
        staging = self._staging
        if staging is None or header.snapshot_part != staging.part + 1:
            return self._resync(header, SNAPSHOT_GAP)
        staging.part = header.snapshot_part
        changes, refused = self._sorted_out(update)
        staging.refused.update(refused)
        staging.values.update((change.key, change.value) for change in changes if change.value is not None)
        if not header.snapshot_last:
            return Step(nonce=header.nonce)
        self._awaits_snapshot = False
        return Step(nonce=header.nonce, delta=self._finish_snapshot(header, staging))

    def _begin_staging(self) -> None:
        """Part 1 discards parts received before (R1)."""
        self._staging = _Staging()

    def _discard_staging(self) -> None:
        self._staging = None

    def _finish_snapshot(self, header: Header, staging: _Staging[V]) -> Delta[V]:
        if self.interest is not None:  # interest may have gone while the parts were under way
            staging.values = {key: value for key, value in staging.values.items() if key in self.interest}
        stale = self._stale(staging)
        upserts = {
            key: value
            for key, value in staging.values.items()
            if self._retell or key not in self.desired or self.desired[key] != value
        }
        if self._retell:
            upserts = {**{key: value for key, value in self.desired.items() if key not in stale}, **upserts}
        self.desired.update(staging.values)
        for key in stale:
            del self.desired[key]
        self._refused = staging.refused
        self.epoch, self.revision = header.epoch, header.revision
        self.store_revision = header.store_revision or self.store_revision
        self._discard_staging()
        self._retell = False
        return Delta(upserts=upserts, removals=stale, complete=True)

    def _stale(self, staging: _Staging[V]) -> frozenset[str]:
        """Returns what the snapshot did not name (R5); a refused resource was named and keeps its last good
        value.
        """
        return frozenset(
            key for key in self.desired if key not in staging.values and key not in staging.refused
        )

    def _on_delta(self, header: Header, update: Update[V]) -> Step[V]:
        changes, refused = self._sorted_out(update)
        upserts: dict[str, V] = {}
        removals: set[str] = set()
        for change in changes:
            self._refused.pop(change.key, None)
            if change.value is None:
                if change.key in self.desired:
                    del self.desired[change.key]
                    removals.add(change.key)
            elif change.key not in self.desired or self.desired[change.key] != change.value:
                self.desired[change.key] = upserts[change.key] = change.value
        self._refused.update(refused)
        self.revision = header.revision
        self.store_revision = max(self.store_revision, header.store_revision)
        delta = Delta(upserts=upserts, removals=frozenset(removals)) if upserts or removals else None
        return Step(nonce=header.nonce, delta=delta)

    def _sorted_out(self, update: Update[V]) -> tuple[list[Change[V]], dict[str, Failure]]:
        """Splits an update into changes that count and resources that fail alone; unwanted keys are left
        out.
        """
        wanted = [change for change in update.changes if self.interest is None or change.key in self.interest]
        refused = {
            key: failure
            for key, failure in update.failures.items()
            if self.interest is None or key in self.interest
        }
        if len({change.key for change in wanted}) < len(wanted):
            counts = Counter(change.key for change in wanted)
            refused.update((key, DUPLICATE_KEY) for key, count in counts.items() if count > 1)
        return [change for change in wanted if change.key not in refused], refused
