"""Keeps the counters up to date with the flow stores of a node, many records at a time.

Nothing waits for a counter, so records are counted a few times a second and not one by one. Who counts too
late for the ring misses records; how many is told as lost events.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from typing import Final

from axoneme.api.hubble.flow import flow_pb2
from shim.flows.decode import FlowDecoder
from shim.flows.feed import FlowFeed
from shim.flows.lanes import Source
from shim.hubble.metrics.counting import FlowCounter
from shim.hubble.metrics.groups import RecordCounter
from shim.hubble.metrics.series import Place, Pod

INTERVAL_SECONDS: Final = 0.5
SWEEP_SECONDS: Final = 5.0
CHUNK: Final = 16_384
PODS_PER_STEP: Final = 256


@dataclass(slots=True)
class _Lane:
    feed: FlowFeed
    counter: RecordCounter
    position: int
    missed: int = 0


class MetricsFollower:
    """Counts what enters the stores."""

    def __init__(
        self,
        counter: FlowCounter,
        sources: Sequence[Source],
        names: FlowDecoder,
        *,
        boot_clock_ns: Callable[[], int],
    ) -> None:
        self.counter = counter
        self._names, self._boot_clock_ns = names, boot_clock_ns
        self._bell = sources[0].feed.bell
        self._lanes = [
            _Lane(one.feed, RecordCounter(one.feed.store, one.decoder, counter), one.feed.store.seen)
            for one in sources
        ]
        self._swept_ns = boot_clock_ns()

    def lost(self) -> Counter[str]:
        """Events that were not counted, by where they were lost."""
        lost: Counter[str] = Counter()
        for lane in self._lanes:
            lost[flow_pb2.LostEventSource.Name(lane.feed.loss_source).lower()] += lane.feed.store.lost
            lost["hubble_ring_buffer"] += lane.missed
        return lost

    async def run(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Count until cancelled."""
        while True:
            await self._bell.wait(self._has_news, SWEEP_SECONDS)
            await self.step()
            await sleep(INTERVAL_SECONDS)

    async def step(self) -> None:
        """Count what came, and drop what is long gone."""
        for lane in self._lanes:
            end = lane.feed.store.seen
            while lane.position < end:
                await self._count_some(lane, end)
        if self._boot_clock_ns() - self._swept_ns >= SWEEP_SECONDS * 1e9:
            await self._sweep()

    def _has_news(self) -> bool:
        return any(lane.feed.store.seen > lane.position for lane in self._lanes)

    async def _count_some(self, lane: _Lane, end: int) -> None:
        oldest = lane.feed.store.oldest
        if lane.position < oldest:
            lane.missed += oldest - lane.position
            lane.position = oldest
        last = min(max(end, oldest), lane.position + CHUNK)
        for _ in lane.counter.count(lane.position, last):
            await asyncio.sleep(0)
        lane.position = last
        await asyncio.sleep(0)

    async def _sweep(self) -> None:
        self._swept_ns = now_ns = self._boot_clock_ns()
        lives = partial(_lives, self._names, now_ns)
        for index, _ in enumerate(self.counter.table.sweep(now_ns / 1e9, lives)):
            if index % PODS_PER_STEP == PODS_PER_STEP - 1:
                await asyncio.sleep(0)


def _lives(names: FlowDecoder, now_ns: int, pod: Pod, place: Place) -> bool:
    """Whether a pod is still where it was met."""
    address = ip_address(place.address) if place.address else None
    owner = names.workload(address, place.endpoint_id, now_ns)
    return owner is not None and (owner.namespace or pod.namespace, owner.pod_name) == pod
