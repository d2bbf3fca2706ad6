"""Everything the service knows, fed by one watch of its etcd.

    etcd ──follow──> MeshState ──> WorkloadIndex ──> backends ──> StreamHost (services to the nodes)
                         │
                         └──> views (Get, List, Watch), change log, what is taken

One task owns the feeding (`run`), one the publishing (`publish`); the servicer reads.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final

from axoneme.lib import log
from axoneme.lib.errors import NotReady, StoreUnavailable
from axoneme.lib.intent import fresh_epoch
from axoneme.lib.intentstream.host import StreamHost
from axoneme.lib.kvstore import layout
from axoneme.lib.kvstore.follow import Snapshot, Synced, follow
from axoneme.lib.kvstore.port import Delete, Put, ReadStore, Store
from services.clustermesh import intake
from services.clustermesh.backends import backends_of
from services.clustermesh.changes import ChangeLog
from services.clustermesh.index import WorkloadIndex
from services.clustermesh.intake import Intake
from services.clustermesh.messages import MAX_BYTES
from services.clustermesh.model import Service, ServiceKey
from services.clustermesh.records import PREFIX
from services.clustermesh.stored import StoredServices
from services.clustermesh.streamcodec import stream_key, stream_value
from services.clustermesh.view import View

logger = logging.getLogger(__name__)

CANARY: Final = layout.PROGRESS + "clustermesh"
CATCH_UP_SECONDS: Final = 5.0
LONGEST_REST_SECONDS: Final = 0.2


class MeshState:
    """Services and their backends as of `revision` of the store."""

    def __init__(
        self,
        *,
        cluster: str,
        host: StreamHost[bytes],
        draw_bits: Callable[[int], int] = secrets.randbits,
    ) -> None:
        self.cluster = cluster
        self.host = host
        self.views: dict[ServiceKey, View] = {}
        self.oversized: set[ServiceKey] = set()
        self.changes = ChangeLog()
        self.revision = 0
        self.restores = 0
        self._draw_bits = draw_bits
        self._index = WorkloadIndex()
        self.stored = StoredServices(self._index)
        self._intake = Intake(self._index, cluster)
        self._fed = 0
        self._feeding = asyncio.Event()
        self._synced = asyncio.Event()
        self._changed = asyncio.Condition()

    # --- answers

    @property
    def ready(self) -> bool:
        """Whether the first snapshot of the store is in."""
        return self._synced.is_set()

    def check_ready(self) -> None:
        """Raises NotReady before the first snapshot."""
        if not self.ready:
            raise NotReady("the services were not read from the store yet")

    def synced(self) -> Awaitable[object]:
        """Waits for the first snapshot."""
        return self._synced.wait()

    @property
    def features(self) -> Mapping[str, Mapping[str, str]]:
        """What the kernels of the nodes can do, by node."""
        return self._intake.features

    @property
    def held(self) -> int:
        """Addresses whose lease ran out, kept for their node."""
        return self._intake.held

    @property
    def unreadable(self) -> int:
        """Rows that cannot be used: services, and what selectors choose from."""
        return len(self.stored.malformed) + len(self._intake.malformed)

    def preview(self, service: Service, revision: int) -> View:
        """A service as it would be shown if it were stored."""
        found = backends_of(service, self._index)
        return View(service, revision, found.backends, found.unnamed)

    async def reached(self, revision: int, seconds: float = CATCH_UP_SECONDS) -> bool:
        """Waits until everything up to a revision is in; False when the time passed first."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._changed:
                await self._changed.wait_for(lambda: self.ready and self.revision >= revision)
        return self.ready and self.revision >= revision

    async def catch_up(self, store: Store) -> int:
        """Makes sure that the state is as new as the store is now; returns a revision that proves it.

        Keys that are not followed may have moved the store on; one write of our own makes the watch say so.
        """
        wanted = await store.revision()
        if self.revision < wanted and not await self.reached(await store.put(CANARY, b"")):
            raise StoreUnavailable(f"the watch of etcd has not reached revision {wanted} yet")
        return wanted

    async def beyond(self, revision: int, restores: int) -> bool:
        """Waits until the state has moved on; False when the store went back in time meanwhile."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.revision > revision or self.restores != restores)
        return self.restores == restores

    # --- feeding

    async def run(self, store: ReadStore) -> None:
        """Feed the state until cancelled; `publish` beside it makes it visible."""
        events: list[Put | Delete] = []
        prefixes = (PREFIX, *intake.prefixes(self.cluster))
        async with contextlib.aclosing(follow(store, prefixes)) as steps:
            async for step in steps:
                if isinstance(step, Snapshot):
                    self._start_over(step)
                elif isinstance(step, Synced):
                    self._apply(events)
                    events = []
                    self._fed = max(self._fed, step.revision)
                    self._feeding.set()
                else:
                    events.append(step)

    def _start_over(self, snapshot: Snapshot) -> None:
        if snapshot.restored:
            self.restores += 1
            self.revision = self._fed = 0
            self.host.reset(epoch=fresh_epoch(self._draw_bits), store_revision=snapshot.revision)
        old = set(self.stored.services)
        self._index = WorkloadIndex()
        self.stored.start_over(self._index)
        self._intake = Intake(self._index, self.cluster)
        self.changes.reset(snapshot.revision)
        self._apply([Put(row) for row in snapshot.rows], one_step=True)
        self._publish(snapshot.revision, old - set(self.stored.services))

    def _apply(self, events: Sequence[Put | Delete], *, one_step: bool = False) -> None:
        services = [event for event in events if event.key.startswith(PREFIX)]
        for event in services:
            if isinstance(event, Put):
                self.stored.put(event.row)
            else:
                self.stored.remove(event.key)
        others = [event for event in events if not event.key.startswith(PREFIX)]
        if one_step:
            # A listing: nothing in it is a deletion, so its order does not matter.
            self._intake.apply(others)
            return
        for _, group in itertools.groupby(others, key=lambda event: event.mod_revision):
            self._intake.apply(group)

    # --- publishing

    async def publish(self) -> None:
        """Publish whenever something was fed; rests as long as it worked, so that churn is worked out in
        batches and a large service cannot keep the feeding from going on."""
        while True:
            await self._feeding.wait()
            self._feeding.clear()
            begun = time.monotonic()
            self._publish(self._fed, ())
            self.revision = max(self.revision, self._fed)
            if not self.ready:
                self._synced.set()
                self.host.set_ready(True)
            async with self._changed:
                self._changed.notify_all()
            await asyncio.sleep(min(time.monotonic() - begun, LONGEST_REST_SECONDS))

    def _publish(self, revision: int, gone: Iterable[ServiceKey]) -> None:
        """Work out what changed, and tell the nodes and the watchers."""
        upserts: dict[str, bytes] = {}
        removals: list[str] = []
        changed = []
        for key in sorted(self._index.drain() | set(gone)):
            view, before = self._view(key), self.views.get(key)
            if view == before:
                continue
            changed.append(key)
            if view is None:
                self.views.pop(key, None)
            else:
                self.views[key] = view
            if view is None or view.service.headless:
                self.oversized.discard(key)
                removals.append(stream_key(key))
            elif self._fits(key, value := stream_value(view, self.cluster)):
                upserts[stream_key(key)] = value
        self.changes.add(revision, changed)
        self.host.apply(upserts, removals, store_revision=revision)

    def _fits(self, key: ServiceKey, value: bytes) -> bool:
        """One service too large for a message must not end the streams: nodes keep what they have of it."""
        if len(value) <= MAX_BYTES:
            self.oversized.discard(key)
            return True
        if key not in self.oversized:
            self.oversized.add(key)
            logger.error(
                "a service has too many backends for its nodes",
                extra={log.KEY: str(key), log.COUNT: len(value)},
            )
        return False

    def _view(self, key: ServiceKey) -> View | None:
        if key not in self.stored.services:
            return None
        return self.preview(*self.stored.services[key])
