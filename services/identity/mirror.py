"""Keeps the state equal to etcd and tells everyone what changed: the streams to the shims, and the watchers.

    etcd ─ follow ─► ClusterState ─► ipcache host, nodes host   (intent streams)
                          └────────► change logs                (Watch… calls)

Only this module writes to the state. Writers wait here until their own revision has come back.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from axoneme.lib.errors import NotReady, RevisionCompacted, StoreUnavailable
from axoneme.lib.intentstream import StreamHost
from axoneme.lib.kvstore import layout
from axoneme.lib.kvstore.follow import Snapshot, Synced, follow
from axoneme.lib.kvstore.port import Delete, Put, Store
from services.identity.state import Changes, ClusterState
from services.identity.wire import IpcacheItem, NodeItem, ipcache_item, node_item

K = TypeVar("K")
T = TypeVar("T")

CHANGE_LOG = 10_000
CATCH_UP_SECONDS = 5.0
CANARY = layout.PROGRESS + "identity"


class ChangeLog(Generic[K]):
    """The last changes of one kind, for watchers that resume."""

    def __init__(self) -> None:
        self.floor = 0
        self._entries: deque[tuple[int, K]] = deque()

    def reset(self, revision: int) -> None:
        """Forgets everything up to a revision."""
        self._entries.clear()
        self.floor = revision

    def add(self, revision: int, keys: set[K]) -> None:
        """Notes changes."""
        self._entries.extend((revision, key) for key in keys)
        while len(self._entries) > CHANGE_LOG:
            self.floor = self._entries.popleft()[0]

    def since(self, revision: int) -> set[K]:
        """Keys that changed after a revision. Raises RevisionCompacted when that is too long ago."""
        if revision < self.floor:
            raise RevisionCompacted(f"changes since revision {revision} are not kept; watch again from 0")
        found: set[K] = set()
        for at, key in reversed(self._entries):
            if at <= revision:
                break
            found.add(key)
        return found


class Mirror:
    """The state of the cluster, alive."""

    def __init__(
        self,
        store: Store,
        state: ClusterState,
        new_epoch: Callable[[], int],
    ) -> None:
        self.state = state
        self.identities: ChangeLog[int] = ChangeLog()
        self.nodes: ChangeLog[str] = ChangeLog()
        self.addresses: ChangeLog[str] = ChangeLog()
        self.restores = 0
        """How often etcd went back in time under this process."""
        self.ipcache_revision = 0
        self.synced = asyncio.Event()
        self._store = store
        self._new_epoch = new_epoch
        self._ipcache: StreamHost[IpcacheItem] | None = None
        self._nodes: StreamHost[NodeItem] | None = None
        self._changed = asyncio.Condition()
        self._catching_up: asyncio.Lock = asyncio.Lock()

    def attach(self, ipcache: StreamHost[IpcacheItem], nodes: StreamHost[NodeItem]) -> None:
        """Sets the streams; before the first `run`."""
        self._ipcache, self._nodes = ipcache, nodes

    async def run(self) -> None:
        """Follows etcd for ever."""
        events: list[Put | Delete] = []
        async with contextlib.aclosing(
            follow(self._store, ClusterState.prefixes(self.state.cluster))
        ) as steps:
            async for step in steps:
                if isinstance(step, Snapshot):
                    if step.restored:
                        self._start_over(step.revision)
                    changes = self.state.replace(step.rows, step.revision)
                    self.identities.reset(step.revision)
                    self.nodes.reset(step.revision)
                    self.addresses.reset(step.revision)
                    await self._tell(changes)
                elif isinstance(step, Synced):
                    await self._tell(self.state.apply(events, step.revision))
                    events = []
                    self.synced.set()
                else:
                    events.append(step)

    def _start_over(self, revision: int) -> None:
        """After a restore all positions of subscribers are void."""
        self.state.revision = 0
        self.restores += 1
        if self._ipcache is not None and self._nodes is not None:
            self._ipcache.reset(epoch=self._new_epoch(), store_revision=revision)
            self._nodes.reset(epoch=self._new_epoch(), store_revision=revision)

    async def _tell(self, changes: Changes) -> None:
        state, revision = self.state, self.state.revision
        ipcache: dict[str, IpcacheItem | None] = {}
        for number in changes.identities:
            row = state.identities.get(number)
            ipcache[f"identity:{number}"] = row.value if row else None
        for ip in changes.addresses:
            address = state.addresses.get(ip)
            key, item = ipcache_item(ip, address.value if address else None, state.cluster)
            ipcache[key] = item
        nodes: dict[str, NodeItem | None] = {}
        for name in changes.nodes:
            node = state.nodes.get(name)
            nodes[f"node:{name}"] = node_item(node.value) if node else None
        if self._ipcache is not None:
            self.ipcache_revision = _apply(self._ipcache, ipcache, revision)
        if self._nodes is not None:
            _apply(self._nodes, nodes, revision)
        self.identities.add(revision, changes.identities)
        self.nodes.add(revision, changes.nodes)
        self.addresses.add(revision, changes.addresses)
        async with self._changed:
            self._changed.notify_all()

    async def reached(self, revision: int) -> None:
        """Waits until the state holds a revision. Raises StoreUnavailable when it takes too long."""
        try:
            async with asyncio.timeout(CATCH_UP_SECONDS), self._changed:
                await self._changed.wait_for(lambda: self.state.revision >= revision)
        except TimeoutError:
            raise StoreUnavailable(f"the watch of etcd has not reached revision {revision} yet") from None

    async def catch_up(self) -> int:
        """Makes sure that the state is as new as the store is now; returns a revision that proves it.

        Other keys may have moved the store on, of which this watch hears nothing; one write of our own makes
        it hear.
        """
        wanted = await self._store.revision()
        async with self._catching_up:
            if self.state.revision < wanted:
                written = await self._store.put(CANARY, b"")
                await self.reached(written)
        return wanted

    async def beyond(self, revision: int, restores: int) -> None:
        """Waits until the state has moved on from a revision.

        Raises RevisionCompacted when etcd was restored more often than the caller knows.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: self.state.revision > revision or self.restores != restores)
        if self.restores != restores:
            raise RevisionCompacted("an older backup of etcd was restored; watch again from 0")

    def check_ready(self) -> None:
        """Raises NotReady before the first listing."""
        if not self.synced.is_set():
            raise NotReady("the service has not read etcd yet")


def _apply(host: StreamHost[T], items: dict[str, T | None], revision: int) -> int:
    upserts = {key: item for key, item in items.items() if item is not None}
    removals = [key for key, item in items.items() if item is None]
    return host.apply(upserts, removals, store_revision=revision)
