"""The feed and the pump that fills it."""

from __future__ import annotations

import asyncio
import os

import numpy as np
import pytest

from shim.flows.feed import pump
from shim.flows.record import EVENT_DTYPE, Records
from tests.unit.shim.flows.scene import event, events, make_feed
from tests.waiting import eventually


class FakeSource:
    """Records behind a pipe that is readable while there are some."""

    def __init__(self) -> None:
        self.readable, self._writable = os.pipe()
        self.waiting: list[Records] = []

    def write(self, *numbers: int) -> None:
        self.waiting.append(events(*[event(time_ns=n) for n in numbers]))
        os.write(self._writable, b"x")

    def read(self, max_records: int = 0) -> Records:
        if not self.waiting:
            return np.zeros(0, dtype=EVENT_DTYPE)
        os.read(self.readable, 1)
        return self.waiting.pop(0)

    def fileno(self) -> int:
        return self.readable

    def close(self) -> None:
        os.close(self.readable)
        os.close(self._writable)


async def test_the_pump_moves_records_and_counts_losses_from_where_it_started() -> None:
    feed, _, clock = make_feed(64)
    source, lost = FakeSource(), [100]
    source.write(1, 2)
    task = asyncio.create_task(pump(feed, source, lambda: lost[0]))
    try:
        await eventually(lambda: feed.store.seen == 2)
        assert feed.store.lost == 0
        clock.now_ns += 5
        lost[0] = 107
        source.write(3)
        await eventually(lambda: feed.store.lost == 7)
        assert (feed.losses[0].count, feed.losses[0].index) == (7, 0)
        assert feed.losses[0].position in (2, 3)  # the counter may be read before the third record
        assert feed.losses[0].last_ns == clock.now_ns
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        source.close()


async def test_waiting_ends_by_a_record_a_loss_or_the_timeout() -> None:
    feed, _, _ = make_feed(8)
    await feed.wait(0, 0, 0.01)
    waiting = asyncio.ensure_future(feed.wait(0, 0))
    await asyncio.sleep(0)
    feed.append(event())
    await waiting
    waiting = asyncio.ensure_future(feed.wait(1, 0))
    await asyncio.sleep(0)
    feed.append(np.zeros(0, dtype=EVENT_DTYPE))
    feed.add_lost(0)
    assert not waiting.done()
    feed.add_lost(2)
    await waiting
    await feed.wait(0, 9)
