"""One open stream at the publisher's end: reads requests, writes updates, ends the stream in order.

The handler task of the call pumps updates out; one task beside it reads. A stream ends by goodbye in band,
because the status of a bidi call is lost while the client still writes (docs/intent-streams.md §4.4).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from axoneme.lib import grpcsettings, log  # isort: skip  (before grpc)
import grpc

from axoneme.lib.intent import Ack, Failure, ProtocolError, Subscription, Update
from axoneme.lib.intentstream.codec import PublisherCodec
from axoneme.lib.intentstream.metrics import HostMetrics
from axoneme.lib.intentstream.slots import SnapshotSlots
from axoneme.lib.intentstream.timing import Timing
from axoneme.lib.tasks import TaskScope

V = TypeVar("V")

logger = logging.getLogger(__name__)
assert grpcsettings.ENVIRONMENT

STALLED = Failure("ABORTED", "STALLED", "no acknowledgement came in time")
STORE_BEHIND = Failure(
    "UNAVAILABLE", "STORE_BEHIND", "this replica has not caught up with the store; try another one"
)
WRITE_STUCK = Failure("ABORTED", "STALLED", "the subscriber stopped reading")


class Session(Generic[V]):
    """The stream of one node."""

    def __init__(
        self,
        *,
        name: str,
        node_name: str,
        context: grpc.aio.ServicerContext[Any, Any],
        subscription: Subscription[V],
        codec: PublisherCodec[V],
        timing: Timing,
        metrics: HostMetrics,
        slots: SnapshotSlots,
        clock: Callable[[], float],
        on_ack: Callable[[], None],
        store_revision_now: Callable[[], Awaitable[int]] | None,
    ) -> None:
        self.node_name = node_name
        self.subscription = subscription
        self._name = name
        self._context = context
        self._codec = codec
        self._timing = timing
        self._metrics = metrics
        self._slots = slots
        self._clock = clock
        self._on_ack = on_ack
        self._store_revision_now = store_revision_now
        self._wake = asyncio.Event()
        self._half_closed = asyncio.Event()
        self._ending: Failure | None = None
        self._enabled = False
        self._last_ack = self._last_sent = self._started = clock()
        self._last_delta = float("-inf")
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    # --- from the host

    def enable(self) -> None:
        """Lets updates flow: the table is complete."""
        self._enabled = True
        self._wake.set()

    def wake(self) -> None:
        """Says that there may be something to send."""
        self._wake.set()

    def end(self, failure: Failure) -> None:
        """Says goodbye as soon as the current write is through; the first reason stands."""
        self._ending = self._ending or failure
        self._wake.set()

    async def run(self) -> None:
        """Serves the stream to its end. Raises AbortError with the reason of its goodbye, if any."""
        try:
            async with TaskScope(f"{self._name}/{self.node_name}") as scope:
                scope.start("reader", self._read_requests(), critical=False)
                await self._pump()
        finally:
            self._stop_timer()
            self._slots.release(self)
            self.subscription.close()
        if self._ending is not None:
            await self._context.abort(grpc.StatusCode[self._ending.code], self._ending.message)

    # --- requests

    async def _read_requests(self) -> None:
        while True:
            message = await self._context.read()
            if message is grpc.aio.EOF:
                self._half_closed.set()
                self._wake.set()
                return
            try:
                self._take(message)
            except (ProtocolError, ValueError) as error:
                logger.warning(
                    "stream broken by its node", extra={log.NODE: self.node_name, log.ERROR: str(error)[:256]}
                )
                self.end(Failure("INVALID_ARGUMENT", "STREAM_BROKEN", str(error)[:256]))

    def _take(self, message: Any) -> None:
        request = self._codec.decode(message)
        resyncs = self.subscription.resyncs
        self.subscription.receive(request)
        if self.subscription.resyncs > resyncs:
            self._metrics.resyncs.inc()
        if isinstance(request, Ack):
            self._last_ack = self._clock()
            self._release_slot()
            self._on_ack()
        if self.subscription.due:
            self._wake.set()

    # --- updates

    async def _pump(self) -> None:
        while not self._half_closed.is_set():
            self._wake.clear()
            await self._check_times()
            if self._ending is not None:
                await self._say_goodbye(self._ending)
                return
            update = await self._next_update()
            if update is not None:
                await self._write(update)
            else:
                await self._wait(self._until_next_deadline())

    async def _next_update(self) -> Update[V] | None:
        if not self._enabled:
            return None
        await self._pace()
        snapshots = self.subscription.snapshots
        if (self.subscription.snapshotting or not self.subscription.running) and not self._slots.take(
            self, self.wake
        ):
            return None
        if self.subscription.in_flight == 0:
            self._last_ack = self._clock()
        update = self.subscription.next_update()
        if self.subscription.snapshots > snapshots:
            self._metrics.snapshots.inc()
        self._release_slot()
        if update is None and self._clock() - self._last_sent >= self._timing.heartbeat_seconds:
            update = self.subscription.heartbeat()
        return update

    def _release_slot(self) -> None:
        """A snapshot holds its slot until it is acknowledged: what is under way takes memory here."""
        if not self.subscription.snapshot_open:
            self._slots.release(self)

    async def _pace(self) -> None:
        """Waits out the flush interval between two deltas, so that changes of a burst share a message."""
        wait = self._last_delta + self._timing.flush_seconds - self._clock()
        if wait > 0 and self.subscription.pending and not self.subscription.snapshotting:
            await asyncio.sleep(wait)

    async def _write(self, update: Update[V]) -> None:
        message = self._codec.encode(update)
        try:
            async with asyncio.timeout(self._timing.stall_seconds):  # wait_for would make a task
                await self._context.write(message)
        except TimeoutError:
            self._ending = self._ending or WRITE_STUCK
            self._half_closed.set()  # nothing more can be said to this subscriber
            return
        self._last_sent = self._clock()
        if update.header.snapshot_part == 0:
            self._last_delta = self._last_sent
        self._metrics.updates.inc()
        self._metrics.changes.inc(len(update.changes))

    async def _say_goodbye(self, failure: Failure) -> None:
        self._metrics.count_goodbye(failure.reason)
        await self._write(self.subscription.goodbye(failure))
        try:
            await asyncio.wait_for(self._half_closed.wait(), self._timing.goodbye_seconds)
        except TimeoutError:
            logger.info("node did not half-close after goodbye", extra={log.NODE: self.node_name})

    async def _wait(self, seconds: float) -> None:
        """Waits for a wake-up, at most this long. The timer stays when it is early enough: a thousand streams
        that get an update each 10 ms must not make a thousand timers each time.
        """
        now = self._clock()
        if self._timer is None or self._timer_at > now + seconds:
            self._stop_timer()
            self._timer_at = now + max(seconds, 0.001)
            self._timer = asyncio.get_running_loop().call_later(self._timer_at - now, self._on_timer)
        await self._wake.wait()

    def _on_timer(self) -> None:
        self._timer = None
        self._wake.set()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _until_next_deadline(self) -> float:
        now, timing = self._clock(), self._timing
        deadlines = [now + timing.heartbeat_seconds]
        if self.subscription.in_flight:
            deadlines.append(self._last_ack + timing.stall_seconds)
        elif self._enabled and self.subscription.running:
            deadlines.append(self._last_sent + timing.heartbeat_seconds)
        if self.subscription.behind_store:
            deadlines.append(self._started + timing.catch_up_seconds)
        if not self.subscription.running or self.subscription.snapshotting:
            deadlines.append(now + timing.snapshot_slot_seconds)
        return min(deadlines) - now

    async def _check_times(self) -> None:
        now = self._clock()
        if self.subscription.in_flight and now - self._last_ack >= self._timing.stall_seconds:
            self.end(STALLED)
        late = self.subscription.behind_store and now - self._started >= self._timing.catch_up_seconds
        if late and not await self._store_was_restored():
            self.end(STORE_BEHIND)

    async def _store_was_restored(self) -> bool:
        """Asks the store itself whether it is behind what this subscriber has seen; only a restore does
        that.
        """
        if self._store_revision_now is None or not self.subscription.behind_store:
            return False
        if await self._store_revision_now() >= self.subscription.behind_store:
            return False
        logger.warning("store was restored: sending a snapshot", extra={log.NODE: self.node_name})
        self.subscription.lag_store()
        return True
