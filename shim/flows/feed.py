"""Where events enter the flow store, and where those who follow it wait.

The event loop calls `drain()` when the ring becomes readable and `count_losses()` now and then; every reader
is woken by one event, so nobody polls. Losses are remembered with their position, so that a query that spans
one says so. Everything runs in the event loop's thread.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from axoneme.api.hubble.flow import flow_pb2
from shim.flows.bell import Bell
from shim.flows.record import Records
from shim.flows.store import FlowStore

MAX_LOSSES: Final = 1024
BATCH: Final = 65_536
LOSS_INTERVAL_SECONDS: Final = 1.0


class EventSource(Protocol):
    """What `RingReader` offers."""

    def read(self, max_records: int = BATCH) -> Records:
        """Return the records that are there, perhaps none."""

    def fileno(self) -> int:
        """A descriptor that becomes readable when records arrive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Events that never reached the store, noticed before the record `position` arrived.

    `index` numbers the losses from 0; `before` counts the events that all earlier losses took.
    """

    index: int
    before: int
    position: int
    count: int
    first_ns: int
    last_ns: int


class FlowFeed:
    """A flow store with those who wait for its next record."""

    def __init__(
        self,
        store: FlowStore,
        *,
        boot_clock_ns: Callable[[], int],
        bell: Bell | None = None,
        loss_source: flow_pb2.LostEventSource.ValueType = flow_pb2.PERF_EVENT_RING_BUFFER,
    ) -> None:
        """Take the clock that counts since boot, as records do, and where events are lost on their way."""
        self.store = store
        self.bell = bell if bell is not None else Bell()
        self.loss_source = loss_source
        self.losses: deque[Loss] = deque(maxlen=MAX_LOSSES)
        self.loss_count = 0
        """Losses so far, also those that `losses` no longer holds."""
        self._boot_clock_ns = boot_clock_ns
        self._last_check_ns = boot_clock_ns()

    def append(self, records: Records) -> None:
        """Append records and wake the readers."""
        if len(records):
            self.store.append(records)
            self.wake()

    def add_lost(self, count: int) -> None:
        """Remember that `count` events were lost since the last call."""
        now_ns = self._boot_clock_ns()
        first_ns, self._last_check_ns = self._last_check_ns, now_ns
        if count > 0:
            loss = Loss(
                index=self.loss_count,
                before=self.store.lost,
                position=self.store.seen,
                count=count,
                first_ns=first_ns,
                last_ns=now_ns,
            )
            self.store.count_lost(count)
            self.losses.append(loss)
            self.loss_count += 1
            self.wake()

    def has_news(self, seen: int, losses: int) -> bool:
        """Whether more than `seen` records or `losses` losses were noticed."""
        return self.store.seen > seen or self.loss_count > losses

    async def wait(self, seen: int, losses: int, timeout_seconds: float | None = None) -> None:
        """Return once more than `seen` records were seen, on another loss, or at the timeout."""
        await self.bell.wait(lambda: self.has_news(seen, losses), timeout_seconds)

    def wake(self) -> None:
        """Tell those who wait to look."""
        self.bell.ring()


async def pump(feed: FlowFeed, source: EventSource, lost_total: Callable[[], int]) -> None:
    """Move events from the ring into the store until cancelled; `lost_total` reads the datapath's counter.

    The counter may start above zero (a ring outlives the process); what it says first is the base.
    """
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    counted = lost_total()
    loop.add_reader(source.fileno(), readable.set)
    try:
        while True:
            records = source.read(BATCH)
            feed.append(records)
            if len(records) == 0:
                readable.clear()
                if len(records := source.read(BATCH)) == 0:  # between the read and the clear
                    await _wait(readable, LOSS_INTERVAL_SECONDS)
                feed.append(records)
            else:
                await asyncio.sleep(0)
            total = lost_total()
            feed.add_lost(max(0, total - counted))
            counted = max(counted, total)
    finally:
        loop.remove_reader(source.fileno())


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
