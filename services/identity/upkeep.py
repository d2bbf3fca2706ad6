"""What the service does by itself: readiness, nodes that are gone, unused numbers, the description."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from axoneme.lib import log
from axoneme.lib.errors import AxonemeError, FailedPrecondition
from axoneme.lib.kvstore import layout
from axoneme.lib.kvstore.port import (
    DeleteOp,
    LeaseLost,
    PutOp,
    Store,
    empty,
    unchanged,
)
from services.identity import records
from services.identity.grace import Grace
from services.identity.mirror import Mirror
from services.identity.nodes import NodeRegistry

logger = logging.getLogger(__name__)

Sleep = Callable[[float], Awaitable[None]]

TICK_SECONDS = 1.0
TOMBSTONE_SECONDS = 24 * 3600
TOMBSTONE_LEASE_SECONDS = 600
"""A tombstone lease takes new numbers for so long, and lives longer by the same time."""
TOMBSTONES_PER_LEASE = 1_000
DESCRIPTION_LEASE_SECONDS = 900


class Settling:
    """Decides when the streams may start, and when a node is given up."""

    def __init__(
        self,
        store: Store,
        mirror: Mirror,
        registry: NodeRegistry,
        connected: Callable[[], bool],
        set_ready: Callable[[], None],
        *,
        grace_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._store, self._mirror, self._registry = store, mirror, registry
        self._connected, self._set_ready = connected, set_ready
        self._clock, self._sleep = clock, sleep
        self.grace = Grace(grace_seconds, clock())
        self.ready = False
        self._reachable = True

    def heard(self) -> None:
        """A node called."""
        self.grace.heard(self._clock())

    async def run(self) -> None:
        """Ticks for ever."""
        await self._mirror.synced.wait()
        for name in sorted(self._mirror.state.records):
            await self._registry.doubt(name)
        while True:
            try:
                await self.tick()
            except AxonemeError as error:
                logger.warning("nodes could not be settled", extra={log.ERROR: str(error)})
            await self._sleep(TICK_SECONDS)

    async def tick(self) -> None:
        """Looks once."""
        await self._ask_store()
        if not self._reachable:
            return
        if self._connected():
            self.heard()
        unsettled = self._mirror.state.unsettled()
        for name in self.grace.due(unsettled, self._clock()):
            logger.warning("node did not declare itself again", extra={log.NODE: name})
            await self._registry.settle(name)
        if not self.ready and not self._mirror.state.unsettled():
            self.ready = True
            self._set_ready()

    def waiting(self) -> str | None:
        """Why the streams do not start yet, in words."""
        if not self._mirror.synced.is_set():
            return "etcd was not read yet"
        if not self.ready:
            names = ", ".join(sorted(self._mirror.state.unsettled())[:5])
            return f"waiting for nodes to declare themselves again: {names}"
        return None

    async def _ask_store(self) -> None:
        try:
            await self._store.revision()
        except AxonemeError:
            self._reachable = False
            return
        if not self._reachable:
            self.grace.interrupted(self._clock())
        self._reachable = True


class Collector:
    """Deletes numbers that nobody refers to in two rounds, and buries them for a day."""

    def __init__(self, store: Store, mirror: Mirror, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._mirror, self._clock = store, mirror, clock
        self._candidates: dict[int, int] = {}
        self._lease, self._lease_start, self._buried = 0, 0.0, 0

    async def run(self, seconds: float, sleep: Sleep = asyncio.sleep) -> None:
        """Rounds for ever."""
        while True:
            await sleep(seconds)
            try:
                await self.round()
            except AxonemeError as error:
                logger.warning("collection failed", extra={log.ERROR: str(error)})

    async def round(self) -> int:
        """One round; returns the numbers deleted. Does nothing while nodes may still come back."""
        state = self._mirror.state
        if not self._mirror.synced.is_set() or state.unsettled():
            self._candidates = {}
            return 0
        slaves, _ = await self._store.list(layout.SLAVES, keys_only=True)
        referred = {layout.split_slave(row.key)[0] for row in slaves}
        unused = {
            number: row.mod_revision
            for number, row in state.identities.items()
            if row.value.key not in referred
        }
        doomed = [number for number, revision in unused.items() if self._candidates.get(number) == revision]
        deleted = 0
        for number in doomed:
            deleted += await self._delete(number, unused[number])
        self._candidates = unused
        return deleted

    async def _delete(self, number: int, mod_revision: int) -> bool:
        row = self._mirror.state.identities.get(number)
        if row is None:
            return False
        key, lease = row.value.key, await self._tombstone_lease()
        outcome = await self._store.transaction(
            [
                empty(layout.slave_prefix(key)),
                empty(layout.lock_prefix(key)),
                unchanged(layout.master_key(number), mod_revision),
            ],
            [DeleteOp(layout.master_key(number)), PutOp(layout.tombstone_key(number), b"", lease)],
        )
        self._buried += outcome.succeeded
        if outcome.succeeded:
            logger.info("identity collected", extra={log.IDENTITY: number})
        return outcome.succeeded

    async def _tombstone_lease(self) -> int:
        now = self._clock()
        old = now - self._lease_start >= TOMBSTONE_LEASE_SECONDS
        if not self._lease or old or self._buried >= TOMBSTONES_PER_LEASE:
            self._lease = await self._store.grant(TOMBSTONE_SECONDS + TOMBSTONE_LEASE_SECONDS)
            self._lease_start, self._buried = now, 0
        return self._lease


async def describe_cluster(store: Store, cluster: str, cluster_id: int) -> None:
    """Writes the cluster's description, which remote clusters ask for first.

    Raises FailedPrecondition when etcd belongs to a cluster with another id.
    """
    row = await store.get(layout.CLUSTER_CONFIG + cluster)
    if row is None:
        return
    try:
        known = records.decode_cluster_id(row.value)
    except records.MalformedValueError:
        return
    if known != cluster_id:
        raise FailedPrecondition(
            f"etcd says that cluster {cluster} has id {known}, this service was given {cluster_id}",
            reason="CLUSTER_ID_MISMATCH",
        )


async def keep_description(store: Store, cluster: str, cluster_id: int, sleep: Sleep = asyncio.sleep) -> None:
    """Keeps the description of the cluster in etcd, on a lease of its own."""
    lease = 0
    while True:
        try:
            if lease:
                await store.keep_alive(lease)
            else:
                lease = await store.grant(DESCRIPTION_LEASE_SECONDS)
                value = records.encode_cluster_config(cluster_id)
                await store.put(layout.CLUSTER_CONFIG + cluster, value, lease=lease)
        except LeaseLost:
            lease = 0
            continue
        except AxonemeError as error:
            logger.warning("the cluster's description is not renewed", extra={log.ERROR: str(error)})
        await sleep(DESCRIPTION_LEASE_SECONDS / 3 if lease else 5.0)
