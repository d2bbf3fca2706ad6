"""What a reader saw and what it was told it lost is all that was sent, however it paused."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from axoneme.api.flows.v1 import flows_pb2
from axoneme.api.hubble.flow import flow_pb2
from axoneme.api.hubble.observer import observer_pb2
from shim.flows.record import Records
from tests.conftest import scaled
from tests.unit.shim.flows.lookupscene import LookupScene, lookup
from tests.unit.shim.flows.scene import event
from tests.unit.shim.observednode import ObservedNode, served

SENT = scaled(100_000, 1_000_000)
ROUND = 1_000
MESSAGES = 10
CAPACITY = 1 << 13
READ_SECONDS = 60.0
Read = Callable[[], Any]


class Account:
    """What one reader got."""

    def __init__(self) -> None:
        self.seen = 0
        self.lost = dict.fromkeys(flow_pb2.LostEventSource.keys(), 0)
        self.times: list[int] = []

    @property
    def total(self) -> int:
        return self.seen + sum(self.lost.values())

    def add(self, responses: list[observer_pb2.GetFlowsResponse]) -> None:
        for response in responses:
            if response.HasField("flow"):
                self.seen += 1
                if response.flow.l4.HasField("TCP"):
                    self.times.append(response.flow.time.nanos)
            else:
                lost = response.lost_events
                self.lost[flow_pb2.LostEventSource.Name(lost.source)] += lost.num_events_lost


def plain(node: ObservedNode) -> Read:
    call = node.stub.GetFlows(observer_pb2.GetFlowsRequest(follow=True, number=1))

    async def read() -> list[observer_pb2.GetFlowsResponse]:
        return [await call.read()]

    return read


def batched(node: ObservedNode) -> Read:
    request = observer_pb2.GetFlowsRequest(follow=True, number=1)
    call = node.batches.StreamFlows(flows_pb2.StreamFlowsRequest(request=request))

    async def read() -> list[observer_pb2.GetFlowsResponse]:
        encoded = (await call.read()).responses
        return [observer_pb2.GetFlowsResponse.FromString(one) for one in encoded]

    return read


def packets(count: int, start: int) -> Records:
    records = np.repeat(event(), count)
    records["time_ns"] = np.arange(start, start + count)
    return records


async def produce(node: ObservedNode, rng: random.Random, reading: asyncio.Event) -> int:
    """Packets, messages and losses; now and then the reader may read, most of the time it is held."""
    sent, packet, feed, lookups = 0, 1, node.scene.feed, node.scene.lookups
    while sent < SENT:
        feed.append(packets(ROUND, packet))
        packet += ROUND
        lookups.add([lookup(time_ns=packet)] * MESSAGES, rng.choice([0, 0, 3]))
        feed.add_lost(rng.choice([0, 0, 7]))
        sent = feed.store.seen + feed.store.lost + lookups.store.seen + lookups.store.lost
        if rng.random() < 0.1:
            reading.set()
            for _ in range(50):
                await asyncio.sleep(0)
            reading.clear()
        await asyncio.sleep(0)
    return sent


async def consume(read: Read, account: Account, reading: asyncio.Event, told: Callable[[], None]) -> None:
    """Reads while it may, until it is cancelled."""
    while True:
        await reading.wait()
        account.add(await read())
        told()


@pytest.mark.parametrize("way", [plain, batched])
async def test_seen_and_lost_are_all_that_was_sent(
    tmp_path: Path, way: Callable[[ObservedNode], Read]
) -> None:
    scene = LookupScene(capacity=CAPACITY, lookups=64)
    node, account, reading = ObservedNode(scene), Account(), asyncio.Event()
    scene.feed.append(packets(1, 0))  # the first answer: from here on the reader follows
    progress = asyncio.Event()
    async with served(tmp_path, node):
        read = way(node)
        account.add(await read())
        assert account.seen == 1
        consumer = asyncio.ensure_future(consume(read, account, reading, progress.set))
        try:
            sent = await produce(node, random.Random(7), reading)
            reading.set()
            async with asyncio.timeout(READ_SECONDS):
                while account.total < sent:
                    progress.clear()
                    scene.clock.now_ns += 2_000_000_000  # a loss is told once a second
                    scene.feed.wake()
                    await progress.wait()
        finally:
            consumer.cancel()
    assert account.total == sent
    assert account.lost["PERF_EVENT_RING_BUFFER"] == scene.feed.store.lost
    assert account.lost["OBSERVER_EVENTS_QUEUE"] == scene.lookups.store.lost
    assert account.lost["HUBBLE_RING_BUFFER"] > CAPACITY
    assert account.times == sorted(set(account.times))  # nothing twice
