"""The Observer API of one node: flows from its store, as Hubble's clients expect them.

`observer.Observer` is added to a server by `add_to`. Requests are compiled to a `FlowQuery`; this module only
decides where to start, when to stop and what to tell about lost events. A stream holds sequence numbers and
no flows: the next flow is decoded when the reader took the last one, so a slow reader costs nothing and is
told how many it missed. Nodes are merged elsewhere: that is the relay's work.
"""

# ruff: noqa: ARG002  (gRPC fixes the signatures)

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Final

import grpc
import numpy as np
from google.protobuf import field_mask_pb2, timestamp_pb2

from axoneme.api.hubble.flow import flow_pb2
from axoneme.api.hubble.observer import observer_pb2, observer_pb2_grpc
from axoneme.lib.errors import InvalidArgument, Unsupported
from shim.flows.decode import FlowDecoder, timestamp
from shim.flows.feed import FlowFeed, Loss
from shim.flows.query import CHUNK, FlowQuery
from shim.flows.store import Selection

VERSION_HEADER: Final = "hubble-server-version"
LOST_INTERVAL_NS: Final = 1_000_000_000
RATE_WINDOW_NS: Final = 60 * 1_000_000_000
NAMESPACE_WINDOW_NS: Final = 3_600 * 1_000_000_000
Context = grpc.aio.ServicerContext[Any, Any]
Response = observer_pb2.GetFlowsResponse


@dataclass(slots=True)
class _Missed:
    """Events that a stream was overtaken on, told at most once a second."""

    count: int = 0
    first_ns: int = 0
    told_ns: int = 0

    def add(self, count: int, now_ns: int) -> None:
        if count <= 0:
            return
        self.first_ns = self.first_ns if self.count else now_ns
        self.count += count

    def due(self, now_ns: int) -> bool:
        return self.count > 0 and now_ns - self.told_ns >= LOST_INTERVAL_NS

    def take(self, now_ns: int) -> flow_pb2.LostEvent:
        lost = _lost_event(flow_pb2.HUBBLE_RING_BUFFER, self.count, self.first_ns, now_ns)
        self.count, self.told_ns = 0, now_ns
        return lost


class ObserverService(observer_pb2_grpc.ObserverServicer):
    """Serves the flows of one feed."""

    def __init__(
        self,
        feed: FlowFeed,
        decoder: FlowDecoder,
        *,
        version: str,
        boot_clock_ns: Callable[[], int],
        started_ns: int,
    ) -> None:
        """Take the software version without prefix (`0.1.0`) and the boot time at which the node started."""
        self._feed = feed
        self._store = feed.store
        self._decoder = decoder
        self._version = version
        self._boot_clock_ns = boot_clock_ns
        self._started_ns = started_ns

    def add_to(self, server: grpc.aio.Server) -> list[str]:
        """Add the service and return its names for the health service."""
        observer_pb2_grpc.add_ObserverServicer_to_server(self, server)
        return [observer_pb2.DESCRIPTOR.services_by_name["Observer"].full_name, "hubble.server.Observer"]

    async def GetFlows(
        self, request: observer_pb2.GetFlowsRequest, context: Context
    ) -> AsyncIterator[Response]:
        """Stream matching flows, oldest first, with the losses between them."""
        if request.first and request.follow:
            raise InvalidArgument.of_field("first", "cannot be specified with follow")
        mask = _checked_mask(request.field_mask)
        query = self._query(request)
        await context.send_initial_metadata(((VERSION_HEADER, self._version),))
        async for response in self._answer(request, query):
            yield _masked(response, mask)

    async def _answer(
        self, request: observer_pb2.GetFlowsRequest, query: FlowQuery
    ) -> AsyncIterator[Response]:
        end, told_losses = self._store.seen, self._feed.loss_count
        limit = min(request.number, self._store.capacity) or self._store.capacity
        if request.first or not request.follow or request.number or request.HasField("since"):
            past = self._first(query, end, limit) if request.first else self._latest(query, end, limit)
            async for response in past:
                yield response
        if request.follow:
            async for response in self._follow(request, query, end, told_losses):
                yield response

    def _query(self, request: observer_pb2.GetFlowsRequest) -> FlowQuery:
        return FlowQuery(
            self._store,
            self._decoder,
            request.whitelist,
            request.blacklist,
            since_ns=_bound(request.since, self._decoder) if request.HasField("since") else None,
            until_ns=_bound(request.until, self._decoder) if request.HasField("until") else None,
        )

    async def _latest(self, query: FlowQuery, end: int, limit: int) -> AsyncIterator[Response]:
        """The newest `limit` matches before `end`: found from the newest back, told oldest first."""
        chunks = []
        for chunk in query.newest(self._store.oldest, end, limit):
            chunks.append(chunk)
            await asyncio.sleep(0)
        numbers = np.concatenate([*chunks[::-1], np.empty(0, dtype=np.int64)])
        start = int(numbers[0]) if len(numbers) >= limit else 0
        losses = self._losses_in(start, end)
        missed = _Missed()
        for at in range(0, len(numbers), CHUNK):
            part = numbers[at : at + CHUNK]
            missed.add(int((part < self._store.oldest).sum()), self._boot_clock_ns())
            for number, flow in query.decode(part):
                while losses and losses[0].position <= number:
                    yield self._kernel_loss(losses.pop(0))
                yield _flow_response(flow)
        for loss in losses:
            yield self._kernel_loss(loss)
        if missed.count:
            yield self._lost_response(missed.take(self._boot_clock_ns()))

    async def _first(self, query: FlowQuery, end: int, limit: int) -> AsyncIterator[Response]:
        """The oldest `limit` matches before `end`."""
        losses = self._losses_in(0, end)
        position = self._store.oldest
        while position < end and limit > 0:
            last = min(position + CHUNK, end)
            for number, flow in itertools.islice(query.flows(position, last), limit):
                while losses and losses[0].position <= number:
                    yield self._kernel_loss(losses.pop(0))
                yield _flow_response(flow)
                limit -= 1
            position = last
            await asyncio.sleep(0)

    async def _follow(
        self, request: observer_pb2.GetFlowsRequest, query: FlowQuery, position: int, told_losses: int
    ) -> AsyncIterator[Response]:
        """Matches from `position` on, for as long as the caller listens or until the request's end time."""
        missed = _Missed()
        until_ns = _bound(request.until, self._decoder) if request.HasField("until") else None
        while until_ns is None or self._boot_clock_ns() <= until_ns:
            if (overtaken := self._store.oldest - position) > 0:
                missed.add(overtaken, self._boot_clock_ns())
                position = self._store.oldest
            if missed.due(self._boot_clock_ns()):
                yield self._lost_response(missed.take(self._boot_clock_ns()))
            for loss in [loss for loss in self._feed.losses if loss.index >= told_losses]:
                yield self._kernel_loss(loss)
                told_losses = loss.index + 1
            end = min(self._store.seen, position + CHUNK)
            for _, flow in query.flows(position, end):
                yield _flow_response(flow)
            position = end
            await self._feed.wait(position, told_losses, self._patience(missed, until_ns))

    def _patience(self, missed: _Missed, until_ns: int | None) -> float | None:
        """Seconds to wait for a record: until a loss is due or the request ends, else without bound."""
        now_ns = self._boot_clock_ns()
        ends = [missed.told_ns + LOST_INTERVAL_NS] if missed.count else []
        if until_ns is not None:
            ends.append(until_ns + 1)
        return max(0.0, (min(ends) - now_ns) / 1e9) if ends else None

    def _losses_in(self, first: int, last: int) -> list[Loss]:
        return [loss for loss in self._feed.losses if first <= loss.position <= last]

    def _kernel_loss(self, loss: Loss) -> Response:
        source = flow_pb2.PERF_EVENT_RING_BUFFER
        return self._lost_response(_lost_event(source, loss.count, loss.first_ns, loss.last_ns))

    def _lost_response(self, lost: flow_pb2.LostEvent) -> Response:
        """A response for a loss; its times come in as boot time and leave as wall time."""
        offset = self._decoder.boot_offset_ns
        lost.first.CopyFrom(timestamp(_nanoseconds(lost.first) + offset))
        lost.last.CopyFrom(timestamp(_nanoseconds(lost.last) + offset))
        return Response(lost_events=lost, node_name=self._decoder.full_node_name, time=lost.last)

    async def ServerStatus(
        self, request: observer_pb2.ServerStatusRequest, context: Context
    ) -> observer_pb2.ServerStatusResponse:
        """Fill level of the store, age and rate."""
        await context.send_initial_metadata(((VERSION_HEADER, self._version),))
        return observer_pb2.ServerStatusResponse(
            num_flows=len(self._store),
            max_flows=self._store.capacity,
            seen_flows=self._store.seen,
            uptime_ns=self._boot_clock_ns() - self._started_ns,
            version=f"axoneme v{self._version}",
            flows_rate=self._rate(),
        )

    def _rate(self) -> float:
        """Flows a second over the last minute, or over what the store spans if that is less."""
        now_ns = self._boot_clock_ns()
        recent = self._store.select(Selection(since_ns=now_ns - RATE_WINDOW_NS), 0, self._store.seen)
        if not len(recent):
            return 0.0
        span = self._store.times(int(recent[0]), self._store.seen)
        overwritten = self._store.oldest > 0 and int(recent[0]) == self._store.oldest
        window_ns = max(now_ns - span[0], 1) if span and overwritten else RATE_WINDOW_NS
        return len(recent) / (window_ns / 1e9)

    async def GetNodes(
        self, request: observer_pb2.GetNodesRequest, context: Context
    ) -> observer_pb2.GetNodesResponse:
        """Nodes are known to the relay."""
        raise Unsupported("GetNodes is answered by the relay, not by one node")

    async def GetNamespaces(
        self, request: observer_pb2.GetNamespacesRequest, context: Context
    ) -> observer_pb2.GetNamespacesResponse:
        """Namespaces of the identities in the flows of the last hour."""
        await context.send_initial_metadata(((VERSION_HEADER, self._version),))
        since = Selection(since_ns=self._boot_clock_ns() - NAMESPACE_WINDOW_NS)
        found = set()
        for identity in self._store.identities(since):
            namespace, cluster = self._decoder.namespace_of(identity)
            if namespace:
                found.add((cluster, namespace))
        return observer_pb2.GetNamespacesResponse(
            namespaces=[observer_pb2.Namespace(cluster=c, namespace=n) for c, n in sorted(found)]
        )

    async def GetAgentEvents(
        self, request: observer_pb2.GetAgentEventsRequest, context: Context
    ) -> AsyncIterator[observer_pb2.GetAgentEventsResponse]:
        """Not recorded yet."""
        raise Unsupported("GetAgentEvents is not supported yet: this node records flows only")
        yield observer_pb2.GetAgentEventsResponse()

    async def GetDebugEvents(
        self, request: observer_pb2.GetDebugEventsRequest, context: Context
    ) -> AsyncIterator[observer_pb2.GetDebugEventsResponse]:
        """Not recorded."""
        raise Unsupported("GetDebugEvents is not supported yet: this node records flows only")
        yield observer_pb2.GetDebugEventsResponse()


def _lost_event(
    source: flow_pb2.LostEventSource.ValueType, count: int, first: int, last: int
) -> flow_pb2.LostEvent:
    return flow_pb2.LostEvent(
        source=source, num_events_lost=count, first=timestamp(first), last=timestamp(last)
    )


def _flow_response(flow: flow_pb2.Flow) -> Response:
    return Response(flow=flow, node_name=flow.node_name, time=flow.time)


def _bound(time: timestamp_pb2.Timestamp, decoder: FlowDecoder) -> int:
    """A wall time as boot time."""
    return _nanoseconds(time) - decoder.boot_offset_ns


def _nanoseconds(time: timestamp_pb2.Timestamp) -> int:
    return time.seconds * 1_000_000_000 + time.nanos


def _checked_mask(mask: field_mask_pb2.FieldMask) -> field_mask_pb2.FieldMask | None:
    for path in mask.paths:
        single = field_mask_pb2.FieldMask(paths=[path])
        if not single.IsValidForDescriptor(flow_pb2.Flow.DESCRIPTOR):
            raise InvalidArgument.of_field("field_mask", f"{path!r} is not a field of flow.Flow")
    return mask if mask.paths else None


def _masked(response: Response, mask: field_mask_pb2.FieldMask | None) -> Response:
    """Keep the masked fields of the flow; the outer time and node name stay, the relay sorts by them."""
    if mask is None or not response.HasField("flow"):
        return response
    result = Response(node_name=response.node_name, time=response.time)
    result.flow.SetInParent()
    mask.MergeMessage(response.flow, result.flow)
    return result
