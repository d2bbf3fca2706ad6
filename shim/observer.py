"""The Observer API of one node: flows from its store, as Hubble's clients expect them.

`add_to` adds `observer.Observer` and its batched twin `FlowsService` (shim/flowbatches.py) to a server. What
a GetFlows request gets is decided in shim/flows/answer.py; this module checks requests and answers the small
questions. Nodes are merged elsewhere: that is the relay's work.
"""

# ruff: noqa: ARG002  (gRPC fixes the signatures)

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

import grpc

from axoneme.api.hubble.observer import observer_pb2, observer_pb2_grpc
from axoneme.lib.errors import InvalidArgument, Unsupported
from shim.agentevents.log import AgentEventLog
from shim.flowbatches import FlowBatches
from shim.flows.answer import Answer, Source
from shim.flows.debugevents import debug_events
from shim.flows.decode import FlowDecoder
from shim.flows.feed import FlowFeed
from shim.flows.lookups import Lookups
from shim.flows.masks import FlowMask
from shim.flows.query import RecordDecoder
from shim.flows.store import FlowStore, Selection

VERSION_HEADER: Final = "hubble-server-version"
RATE_WINDOW_NS: Final = 60 * 1_000_000_000
NAMESPACE_WINDOW_NS: Final = 3_600 * 1_000_000_000
Context = grpc.aio.ServicerContext[Any, Any]
Response = observer_pb2.GetFlowsResponse


class ObserverService(observer_pb2_grpc.ObserverServicer):
    """Serves the flows of one node."""

    def __init__(
        self,
        feed: FlowFeed,
        decoder: FlowDecoder,
        *,
        version: str,
        boot_clock_ns: Callable[[], int],
        started_ns: int,
        lookups: Lookups | None = None,
        agent_events: AgentEventLog | None = None,
        shown: Callable[[RecordDecoder], RecordDecoder] = lambda decoder: decoder,
        earlier: Source | None = None,
    ) -> None:
        """Take the software version without prefix (`0.1.0`) and the boot time at which the node started.

        Readers of both feeds are woken by the bell of `feed`, which `lookups` must share. `shown` makes of a
        decoder of messages of layer 7 one that hides what is not to be seen. `earlier` has the packets of
        earlier lives.
        """
        self._sources = [Source(feed, decoder)]
        if lookups is not None:
            self._sources.append(Source(lookups.feed, shown(lookups.decoder)))
        self.sources: Sequence[Source] = tuple(self._sources)
        """Flows of this life as they are shown."""
        if earlier is not None:
            self._sources.append(earlier)
        self._agent_events = agent_events
        self.batches = FlowBatches(self.answer, self.greet)
        """The same flows, many at a time."""
        self._stores = [source.feed.store for source in self._sources]
        self._decoder = decoder
        self._version = version
        self._boot_clock_ns = boot_clock_ns
        self._started_ns = started_ns

    def add_to(self, server: grpc.aio.Server) -> list[str]:
        """Add the services and return their names for the health service."""
        observer_pb2_grpc.add_ObserverServicer_to_server(self, server)
        own = [observer_pb2.DESCRIPTOR.services_by_name["Observer"].full_name, "hubble.server.Observer"]
        return [*own, *self.batches.add_to(server)]

    async def greet(self, context: Context) -> None:
        """Say the version, as Hubble's nodes do."""
        await context.send_initial_metadata(((VERSION_HEADER, self._version),))

    def answer(self, request: observer_pb2.GetFlowsRequest) -> tuple[Answer, FlowMask]:
        """What a request gets, and what of it is shown. Raises InvalidArgument or Unsupported."""
        _check_range(first=request.first, follow=request.follow)
        mask = FlowMask(request.field_mask)
        return Answer(request, self._sources, self._decoder, self._boot_clock_ns), mask

    async def GetFlows(
        self, request: observer_pb2.GetFlowsRequest, context: Context
    ) -> AsyncIterator[Response]:
        """Stream matching flows, oldest first, with the losses between them."""
        answer, mask = self.answer(request)
        await self.greet(context)
        async for response in answer.responses():
            yield mask.applied(response)

    async def ServerStatus(
        self, request: observer_pb2.ServerStatusRequest, context: Context
    ) -> observer_pb2.ServerStatusResponse:
        """Fill level of the store, age and rate."""
        await self.greet(context)
        return observer_pb2.ServerStatusResponse(
            num_flows=sum(len(store) for store in self._stores),
            max_flows=sum(store.capacity for store in self._stores),
            seen_flows=sum(store.seen for store in self._stores),
            uptime_ns=self._boot_clock_ns() - self._started_ns,
            version=f"axoneme v{self._version}",
            flows_rate=sum(self._rate(source.feed.store) for source in self.sources),
        )

    def _rate(self, store: FlowStore) -> float:
        """Flows a second over the last minute, or over what the store spans if that is less."""
        now_ns = self._boot_clock_ns()
        recent = store.select(Selection(since_ns=now_ns - RATE_WINDOW_NS), 0, store.seen)
        if not len(recent):
            return 0.0
        span = store.times(int(recent[0]), store.seen)
        overwritten = store.oldest > 0 and int(recent[0]) == store.oldest
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
        await self.greet(context)
        wall_ns = self._boot_clock_ns() + self._decoder.boot_offset_ns - NAMESPACE_WINDOW_NS
        found = set()
        for source in self._sources:
            names = source.decoder.names
            recent = Selection(since_ns=wall_ns - names.boot_offset_ns)
            for identity in source.feed.store.identities(recent):
                namespace, cluster = names.namespace_of(identity)
                if namespace:
                    found.add((cluster, namespace))
        return observer_pb2.GetNamespacesResponse(
            namespaces=[observer_pb2.Namespace(cluster=c, namespace=n) for c, n in sorted(found)]
        )

    async def GetAgentEvents(
        self, request: observer_pb2.GetAgentEventsRequest, context: Context
    ) -> AsyncIterator[observer_pb2.GetAgentEventsResponse]:
        """Stream what happened to endpoints, policies, addresses and services of this node, oldest first."""
        if self._agent_events is None:
            raise Unsupported("GetAgentEvents is not supported: this node records flows only")
        _check_range(first=request.first, follow=request.follow)
        await self.greet(context)
        async for event in self._agent_events.events(request):
            response = observer_pb2.GetAgentEventsResponse(
                agent_event=event.message(), node_name=self._decoder.full_node_name
            )
            response.time.FromNanoseconds(event.time_ns)
            yield response

    async def GetDebugEvents(
        self, request: observer_pb2.GetDebugEventsRequest, context: Context
    ) -> AsyncIterator[observer_pb2.GetDebugEventsResponse]:
        """Stream the decisions of the datapath's programs, oldest first; see shim/flows/debugevents.py."""
        _check_range(first=request.first, follow=request.follow)
        await self.greet(context)
        async for event in debug_events(request, self._sources[:1], self._decoder, self._boot_clock_ns):
            yield event


def _check_range(*, first: bool, follow: bool) -> None:
    if first and follow:
        raise InvalidArgument.of_field("first", "cannot be specified with follow")
