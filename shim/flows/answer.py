"""The answer to one GetFlows request: where to start, when to stop, and what to tell about lost events.

Packets and DNS messages lie in stores of their own, so that neither drives the other out; an answer merges
them by time. It holds sequence numbers and no flows: the next flow is decoded when the reader took the last
one, so a slow reader costs nothing and is told how many it missed. Where the next response takes a search or
a wait, the answer says so by None: who gathers responses passes on what it has.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp

from axoneme.api.hubble.flow import flow_pb2
from axoneme.api.hubble.observer import observer_pb2
from shim.flows.decode import FlowDecoder
from shim.flows.lanes import Lane, Source
from shim.flows.losses import LOST_INTERVAL_NS, Missed, PastLosses, loss_response
from shim.flows.merge import Match, Merged, Numbers, Times, merged, merged_matches, time_of
from shim.flows.query import CHUNK, STEP, FlowQuery

Request = observer_pb2.GetFlowsRequest
Response = observer_pb2.GetFlowsResponse
__all__ = ["Answer", "Source"]


class Answer:
    """What one request gets."""

    def __init__(
        self,
        request: Request,
        sources: Sequence[Source],
        names: FlowDecoder,
        boot_clock_ns: Callable[[], int],
    ) -> None:
        """Compile the request. Raises InvalidArgument or Unsupported with the field."""
        self._request = request
        self._names = names
        self._boot_clock_ns = boot_clock_ns
        self._bell = sources[0].feed.bell
        own_ns = names.boot_offset_ns
        self._until_ns = _bound(request.until, own_ns) if request.HasField("until") else None
        self._lanes = []
        for source in sources:
            feed, offset_ns = source.feed, source.decoder.names.boot_offset_ns
            query = FlowQuery(
                feed.store,
                source.decoder,
                request.whitelist,
                request.blacklist,
                since_ns=_bound(request.since, offset_ns) if request.HasField("since") else None,
                until_ns=_bound(request.until, offset_ns) if request.HasField("until") else None,
            )
            seen = feed.store.seen
            self._lanes.append(
                Lane(
                    feed=feed,
                    query=query,
                    live=source.live,
                    end=seen,
                    position=seen,
                    told_losses=feed.loss_count,
                    told_lost=feed.store.lost,
                    ahead_ns=offset_ns - own_ns,
                )
            )
        self._live = [lane for lane in self._lanes if lane.live]

    async def responses(self) -> AsyncIterator[Response]:
        """Matching flows, oldest first, with the losses between them."""
        async for response in self.steps():
            if response is not None:
                yield response

    async def batches(self, size: int) -> AsyncIterator[list[Response]]:
        """The same responses, at most `size` at a time; what is there is never held back."""
        batch: list[Response] = []
        async for response in self.steps():
            if response is not None:
                batch.append(response)
            if len(batch) == size or (batch and response is None):
                yield batch
                batch = []
        if batch:
            yield batch

    async def steps(self) -> AsyncIterator[Response | None]:
        """The responses, and None where the next one is not at hand."""
        request = self._request
        held = sum(lane.feed.store.capacity for lane in self._lanes)
        limit = min(request.number, held) or held
        if request.first or not request.follow or request.number or request.HasField("since"):
            async for response in self._first(limit) if request.first else self._latest(limit):
                yield response
        if request.follow:
            async for response in self._follow():
                yield response

    # --- the newest matches

    async def _latest(self, limit: int) -> AsyncIterator[Response]:
        """The newest `limit` matches: found from the newest back, told oldest first."""
        found = merged(*await self._newest(limit))
        stores, numbers = found.stores[-limit:], found.numbers[-limit:]
        losses = self._losses_around(Merged(stores, numbers), whole=len(numbers) < limit)
        missed = Missed()
        for at in range(0, len(numbers), CHUNK):
            part = Merged(stores[at : at + CHUNK], numbers[at : at + CHUNK])
            for match in self._decoded(part, missed):
                for response in losses.before(match.store, match.number, self._names):
                    yield response
                yield _flow_response(match.flow)
        for response in losses.rest(self._names):
            yield response
        if missed.count:
            yield missed.take(self._boot_clock_ns(), self._names)

    async def _newest(self, limit: int) -> tuple[list[Numbers], list[Times]]:
        """The newest `limit` matches of each lane and their times."""
        numbers, times = [], []
        for lane in self._lanes:
            chunks = []
            for chunk in lane.query.newest(lane.feed.store.oldest, lane.end, limit):
                chunks.append(chunk)
                await asyncio.sleep(0)
            numbers.append(np.concatenate([*chunks[::-1], np.empty(0, dtype=np.int64)]))
        for lane, found in zip(self._lanes, numbers, strict=True):
            times.append(lane.times(found))
        return numbers, times

    def _losses_around(self, found: Merged, *, whole: bool) -> PastLosses:
        """Losses between the matches; those before the first match only when it is the first of all."""
        if whole or not len(found.numbers):
            return self._all_losses()
        start_ns = int(self._lanes[int(found.stores[0])].times(found.numbers[:1])[0])
        result = []
        for index, lane in enumerate(self._lanes):
            own = found.numbers[found.stores == index]
            result.append(lane.losses_from(int(own[0]), 0) if len(own) else lane.losses_from(0, start_ns))
        return PastLosses([lane.feed for lane in self._lanes], result)

    def _all_losses(self) -> PastLosses:
        return PastLosses(
            [lane.feed for lane in self._lanes], [lane.losses_from(0, 0) for lane in self._lanes]
        )

    def _decoded(self, part: Merged, missed: Missed) -> Iterator[Match]:
        """The flows of known matches; those that were overwritten meanwhile are counted."""
        flows = []
        oldest = []
        for index, lane in enumerate(self._lanes):
            own = part.numbers[part.stores == index]
            oldest.append(lane.feed.store.oldest)
            missed.add(int((own < oldest[-1]).sum()), self._boot_clock_ns())
            flows.append(lane.query.decode(own))
        for index, number in zip(part.stores.tolist(), part.numbers.tolist(), strict=True):
            if number >= oldest[index]:
                yield Match(index, *next(flows[index]))

    # --- the oldest matches

    async def _first(self, limit: int) -> AsyncIterator[Response | None]:
        """The oldest `limit` matches."""
        losses, missed = self._all_losses(), Missed()
        matches = [
            self._oldest(index, missed) for index, lane in enumerate(self._lanes) if len(lane.feed.store)
        ]
        async for match in merged_matches(matches):
            if match is None:
                yield None
                continue
            for response in losses.before(match.store, match.number, self._names):
                yield response
            yield _flow_response(match.flow)
            limit -= 1
            if not limit:
                break
        else:
            for response in losses.rest(self._names):
                yield response
        if missed.count:
            yield missed.take(self._boot_clock_ns(), self._names)

    async def _oldest(self, index: int, missed: Missed) -> AsyncIterator[Match | None]:
        """The matches of one lane from the oldest on; None before each look further."""
        lane = self._lanes[index]
        position = lane.feed.store.oldest
        while position < lane.end:
            gone = max(0, min(lane.feed.store.oldest, lane.end) - position)
            missed.add(gone, self._boot_clock_ns())
            position += gone
            last = min(position + CHUNK, lane.end)
            for looked, found in enumerate(lane.query.looks(position, last), start=1):
                if found is not None:
                    yield Match(index, *found)
                elif looked % STEP == 0:
                    yield None
                    await asyncio.sleep(0)
            position = last
            yield None
            await asyncio.sleep(0)

    # --- what comes

    async def _follow(self) -> AsyncIterator[Response | None]:
        """Matches after the past, for as long as the caller listens or until the request's end time."""
        missed = Missed()
        while self._until_ns is None or self._boot_clock_ns() <= self._until_ns:
            self._count_overtaken(missed)
            if missed.due(self._boot_clock_ns()):
                yield missed.take(self._boot_clock_ns(), self._names)
            for lane in self._live:
                for loss in lane.fresh_losses():
                    lane.told(loss)
                    yield loss_response(self._names, lane.feed, loss)
            for match in self._step(missed):
                yield _flow_response(match.flow)
            if self._has_news():
                await asyncio.sleep(0)  # the store must get its turn, however far behind this is
            else:
                yield None
                await self._bell.wait(self._has_news, self._patience(missed))
        if missed.count:
            yield missed.take(self._boot_clock_ns(), self._names)

    def _step(self, missed: Missed) -> Iterator[Match]:
        """The next matches of all lanes, by time; positions move on when all were taken."""
        self._count_overtaken(missed)  # again: telling took time
        ends = [min(lane.feed.store.seen, lane.position + CHUNK) for lane in self._live]
        lanes = [index for index, lane in enumerate(self._live) if ends[index] > lane.position]
        found = [self._between(index, ends[index]) for index in lanes]
        yield from heapq.merge(*found, key=time_of) if len(found) > 1 else (found[0] if found else ())
        for lane, end in zip(self._live, ends, strict=True):
            lane.position = end

    def _count_overtaken(self, missed: Missed) -> None:
        for lane in self._live:
            missed.add(lane.overtaken(), self._boot_clock_ns())

    def _between(self, index: int, end: int) -> Iterator[Match]:
        lane = self._live[index]
        for number, flow in lane.query.flows(lane.position, end):
            yield Match(index, number, flow)

    def _has_news(self) -> bool:
        return any(lane.feed.has_news(lane.position, lane.told_losses) for lane in self._live)

    def _patience(self, missed: Missed) -> float | None:
        """Seconds to wait for a record: until a loss is due or the request ends, else without bound."""
        ends = [missed.told_ns + LOST_INTERVAL_NS] if missed.count else []
        if self._until_ns is not None:
            ends.append(self._until_ns + 1)
        return max(0.0, (min(ends) - self._boot_clock_ns()) / 1e9) if ends else None


def _bound(wall: Timestamp, offset_ns: int) -> int:
    """A wall time as the time of records that are `offset_ns` behind it."""
    return wall.seconds * 1_000_000_000 + wall.nanos - offset_ns


def _flow_response(flow: flow_pb2.Flow) -> Response:
    return Response(flow=flow, node_name=flow.node_name, time=flow.time)
