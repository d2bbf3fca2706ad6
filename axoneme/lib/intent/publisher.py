"""The publisher's side of one intent stream: requests in, updates out, no I/O.

                       table.apply
                            │ on_changes(revision, keys)
    Hello, Interest ──► Subscription ──► next_update(): snapshot parts, then deltas
    Ack, Resync     ──►     │ pending: key → revision of its oldest unsent change

The caller asks for updates until None and says when something happened; it owns clock, wire and pacing.
Rules R1–R8 are those of docs/intent-streams.md.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, KeysView, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from axoneme.lib.intent.messages import Ack, Change, Failure, Header, Hello, Interest, Request, Resync, Update
from axoneme.lib.intent.table import IntentTable

V = TypeVar("V")


class ProtocolError(Exception):
    """A subscriber broke the envelope; the stream has to end. The text says what was wrong."""


@dataclass(slots=True)
class _Snapshot:
    keys: tuple[str, ...]
    revision: int
    position: int = 0
    parts: int = 0


@dataclass(frozen=True, slots=True)
class _InFlight:
    """An update without its Ack: its keys with the revision of their oldest change in it."""

    nonce: int
    since: Mapping[str, int] = field(default_factory=dict)
    snapshot: bool = False


class Subscription(Generic[V]):
    """One subscriber of a table. `interest=True` waits for Interest and shows only the keys named there."""

    def __init__(
        self,
        table: IntentTable[V],
        *,
        interest: bool = False,
        weigh: Callable[[Change[V]], int] = lambda _change: 0,
    ) -> None:
        self._table = table
        self._limits = table.limits
        self._weigh = weigh
        self._hello: Hello | None = None
        self._keyed = interest
        self._interest: set[str] | None = None
        self._late_interest: set[str] = (
            set()
        )  # declared before the start, but not complete at Hello's position
        self._running = False
        self._may_lag_store = False
        self._confirm = False  # a resumed subscriber is told at once that it is in step
        self._nonce = 0
        self._revision = 0  # what the subscriber holds once everything sent is applied
        self._snapshot: _Snapshot | None = None
        self._pending: dict[str, int] = {}
        self._sent: dict[str, V] = {}
        self._repeated: set[str] = set()
        self._in_flight: deque[_InFlight] = deque()
        self.failures: dict[str, Failure] = {}
        self.snapshots = 0
        self.resyncs = 0

    # --- what the subscriber says

    def receive(self, request: Request) -> None:
        """Takes one request. Raises ProtocolError when it is not allowed at this point."""
        if isinstance(request, Hello):
            self._on_hello(request)
        elif self._hello is None:
            raise ProtocolError("the first message must be hello")
        elif isinstance(request, Ack):
            self._on_ack(request)
        elif isinstance(request, Resync):
            self._on_resync()
        else:
            self._on_interest(request)

    def _on_hello(self, hello: Hello) -> None:
        if self._hello is not None:
            raise ProtocolError("hello may come only once")
        self._hello = hello
        self._table.attach(self)

    def _on_ack(self, ack: Ack) -> None:
        if ack.nonce > self._nonce:
            raise ProtocolError(f"ack of nonce {ack.nonce}, but the last one sent is {self._nonce}")
        if ack.error is not None:
            raise ProtocolError(f"update {ack.nonce} was refused: {ack.error.message or ack.error.reason}")
        while self._in_flight and self._in_flight[0].nonce <= ack.nonce:
            self._in_flight.popleft()
        self.failures = dict(ack.failures)
        refused = {key for key, failure in ack.failures.items() if failure.code == "INVALID_ARGUMENT"}
        self._repeated &= refused
        for key in sorted(refused - self._repeated):
            self._repeat_whole(key)

    def _repeat_whole(self, key: str) -> None:
        """Sends a refused resource whole, once: the difference it came as may have missed its base."""
        self._sent.pop(key, None)
        if self._running and self._shows(key):
            self._repeated.add(key)
            self._pending.setdefault(key, self._table.revision)

    def _on_resync(self) -> None:
        self.resyncs += 1
        if self._running:
            self._begin_snapshot()

    def _on_interest(self, interest: Interest) -> None:
        if not self._keyed:
            raise ProtocolError("this stream knows no interest")
        if self._interest is None:
            self._interest = set(interest.added)
            return
        for key in interest.removed:
            self._interest.discard(key)
            self._forget(key)
        for key in interest.added:
            self._interest.add(key)
            self._forget(key)
            if not self._running:
                self._late_interest.add(key)
            else:  # also when there is no such resource: the subscriber may hold one of an earlier stream
                self._pending[key] = self._table.revision

    def _forget(self, key: str) -> None:
        self._pending.pop(key, None)
        self._sent.pop(key, None)
        self._repeated.discard(key)
        self.failures.pop(key, None)

    # --- what the table says

    def on_changes(self, revision: int, keys: KeysView[str]) -> None:
        """Takes note of changed keys; a key keeps its place by its oldest unsent change."""
        if not self._running:
            return
        shown = keys if self._interest is None else keys & self._interest
        for key in shown:
            self._pending.setdefault(key, revision)

    def on_reset(self) -> None:
        """Takes note of a new epoch."""
        if self._running:
            self._begin_snapshot()
        self._may_lag_store = True

    def close(self) -> None:
        """Ends the subscription: the table forgets it."""
        self._table.detach(self)
        self._running = False

    # --- what goes out

    def next_update(self) -> Update[V] | None:
        """Returns the next update, or None while there is nothing to say or the window is full (R8)."""
        if not self._ready() or len(self._in_flight) >= self._limits.window:
            return None
        if self._snapshot is None and self._limits.prefers_snapshot(
            len(self._pending), self._visible_count()
        ):
            self._begin_snapshot()
        if self._snapshot is not None:
            return self._snapshot_part(self._snapshot)
        return self._delta() if self._pending or self._confirm else None

    def heartbeat(self) -> Update[V] | None:
        """Returns an empty delta that says "in step until here", or None while real updates are due."""
        busy = self._snapshot is not None or self._pending or len(self._in_flight) >= self._limits.window
        return None if busy or not self._running else self._delta()

    def goodbye(self, failure: Failure) -> Update[V]:
        """Returns the last update of the stream."""
        self._nonce += 1
        return Update(Header(nonce=self._nonce, epoch=self._table.epoch, goodbye=failure))

    def lag_store(self) -> None:
        """Lets the stream start although the subscriber has seen a later store revision (the store was
        restored).
        """
        self._may_lag_store = True

    @property
    def behind_store(self) -> int:
        """The store revision that this table has to reach before the stream may start; 0 when it has."""
        seen = 0 if self._hello is None or self._may_lag_store else self._hello.store_revision
        return seen if seen > self._table.store_revision else 0

    @property
    def due(self) -> bool:
        """True while `next_update` may have something to say; False holds until a request or a change."""
        if not self._running:
            return True
        waits = self._pending or self._confirm or self._snapshot is not None
        return bool(waits) and len(self._in_flight) < self._limits.window

    @property
    def running(self) -> bool:
        """True once updates may flow."""
        return self._running

    @property
    def snapshotting(self) -> bool:
        """True while parts of a snapshot are still to be sent."""
        return self._snapshot is not None

    @property
    def snapshot_open(self) -> bool:
        """True until the last part of a snapshot is acknowledged."""
        return self._snapshot is not None or any(sent.snapshot for sent in self._in_flight)

    @property
    def pending(self) -> int:
        """Number of keys that wait to be sent."""
        return len(self._pending)

    @property
    def in_flight(self) -> int:
        """Number of updates without their Ack."""
        return len(self._in_flight)

    def interested(self, keys: Collection[str]) -> bool:
        """Tells whether the subscriber sees one of the keys."""
        return not self._keyed or (self._interest is not None and not self._interest.isdisjoint(keys))

    def acknowledged(self, revision: int, keys: Collection[str] | None = None) -> bool:
        """Tells whether every change up to a revision (of these keys) is applied by the subscriber.

        With `keys`, a reported failure of one of them counts as not applied; without, failures are left
        aside.
        """
        if not self._running or self.snapshot_open:
            return False
        open_changes = [self._pending, *(sent.since for sent in self._in_flight)]
        if keys is None:
            return all(since > revision for changes in open_changes for since in changes.values())
        if any(key in self.failures for key in keys):
            return False
        return all(changes.get(key, revision + 1) > revision for changes in open_changes for key in keys)

    @property
    def settled(self) -> int:
        """The last revision up to which the subscriber has applied everything that it sees; 0 before that."""
        if not self._running or self.snapshot_open:
            return 0
        open_changes = [self._pending, *(sent.since for sent in self._in_flight)]
        oldest = min((since for changes in open_changes for since in changes.values()), default=None)
        return self._table.revision if oldest is None else oldest - 1

    def _ready(self) -> bool:
        if self._running:
            return True
        if self._hello is None or self.behind_store or (self._keyed and self._interest is None):
            return False
        self._running = True
        self._begin(self._hello)
        return True

    def _begin(self, hello: Hello) -> None:
        if hello.revision == 0 or not self._table.resumable(hello.epoch, hello.revision):
            self._begin_snapshot()
            return
        self._revision = hello.revision
        self._confirm = True
        for revision, key in self._table.changes_since(hello.revision):
            if self._shows(key):
                self._pending.setdefault(key, revision)
        for key in sorted(self._late_interest):
            if self._shows(key):
                self._pending.setdefault(key, self._table.revision)

    def _begin_snapshot(self) -> None:
        """Freezes the key list (R2): what changes from now on is sent again after the snapshot."""
        keys = self._table.frozen_keys()
        if self._interest is not None:
            keys = tuple(key for key in sorted(self._interest) if key in self._table)
        self._snapshot = _Snapshot(keys, self._table.revision)
        self.snapshots += 1
        self._pending.clear()
        self._sent.clear()

    def _snapshot_part(self, snapshot: _Snapshot) -> Update[V]:
        changes: list[Change[V]] = []
        weight = 0
        while snapshot.position < len(snapshot.keys) and self._has_room(len(changes), weight):
            key = snapshot.keys[snapshot.position]
            snapshot.position += 1
            value = self._table.get(key)
            if value is None or not self._shows(key):
                continue  # went away since; its removal is pending, or it is unnamed and therefore stale
            change = Change(key, value)
            self._remember(change)
            changes.append(change)
            weight += self._weigh(change)
        snapshot.parts += 1
        last = snapshot.position >= len(snapshot.keys)
        header = self._header(
            base_revision=0,
            revision=self._snapshot_revision(snapshot),
            snapshot_part=snapshot.parts,
            snapshot_last=last,
        )
        self._in_flight.append(_InFlight(header.nonce, snapshot=True))
        if last:
            self._snapshot, self._revision, self._confirm = None, header.revision, False
        return Update(header, tuple(changes))

    def _snapshot_revision(self, snapshot: _Snapshot) -> int:
        return snapshot.revision

    def _delta(self) -> Update[V]:
        changes: list[Change[V]] = []
        since: dict[str, int] = {}
        weight = 0
        # A change of a cluster-wide rule comes here for each subject of each of a thousand subscribers.
        pending, sent, get, weigh = self._pending, self._sent, self._table.get, self._weigh
        resources, limit = self._limits.batch_resources, self._limits.batch_bytes
        while pending and weight < limit and len(changes) < resources:
            key = next(iter(pending))
            since[key] = pending.pop(key)
            value, previous = get(key), sent.get(key)
            if value is not None and value is previous:
                continue  # it changed and changed back; equal but different objects cost an empty difference
            change = Change(key, value, previous)
            self._remember(change)
            changes.append(change)
            weight += weigh(change)
        base, self._revision = self._revision, max(self._revision, self._settled_revision())
        self._confirm = False
        header = self._header(base_revision=base, revision=self._revision)
        self._in_flight.append(_InFlight(header.nonce, since))
        return Update(header, tuple(changes))

    def _settled_revision(self) -> int:
        """Returns the last revision with no older change pending (R3): pending is in order of revisions."""
        oldest = next(iter(self._pending.values()), None)
        return self._table.revision if oldest is None else oldest - 1

    def _header(
        self, *, base_revision: int, revision: int, snapshot_part: int = 0, snapshot_last: bool = False
    ) -> Header:
        self._nonce += 1
        complete = revision == self._table.revision and (snapshot_part == 0 or snapshot_last)
        return Header(
            nonce=self._nonce,
            epoch=self._table.epoch,
            base_revision=base_revision,
            revision=revision,
            snapshot_part=snapshot_part,
            snapshot_last=snapshot_last,
            store_revision=self._table.store_revision if complete else 0,
        )

    def _remember(self, change: Change[V]) -> None:
        if not self._table.keep_sent:
            return
        key, value, _ = change
        if value is None or key in self._repeated:
            self._sent.pop(key, None)  # nothing to build on, until the subscriber says that it holds it
        else:
            self._sent[key] = value

    def _has_room(self, resources: int, weight: int) -> bool:
        return resources < self._limits.batch_resources and weight < self._limits.batch_bytes

    def _shows(self, key: str) -> bool:
        return self._interest is None or key in self._interest

    def _visible_count(self) -> int:
        return len(self._table) if self._interest is None else len(self._interest)
