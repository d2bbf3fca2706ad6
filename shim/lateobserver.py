"""The Observer on the node's own socket, which is there before the flow side of the node is loaded.

A call that comes early waits until the real service is known. The relay's listener does not need this: it
opens afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from axoneme.api.flows.v1 import flows_pb2, flows_pb2_grpc
from axoneme.api.hubble.observer import observer_pb2, observer_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class LateObserver(observer_pb2_grpc.ObserverServicer):
    """Hands every call to the service of `set`."""

    def __init__(self) -> None:
        self._service: observer_pb2_grpc.ObserverServicer | None = None
        self._known = asyncio.Event()

    def set(self, service: observer_pb2_grpc.ObserverServicer) -> None:
        """The service is there; waiting calls go on."""
        self._service = service
        self._known.set()

    def add_to(self, server: grpc.aio.Server) -> list[str]:
        """Adds the services and returns their names for health and reflection."""
        observer_pb2_grpc.add_ObserverServicer_to_server(self, server)
        flows_pb2_grpc.add_FlowsServiceServicer_to_server(_LateBatches(self._real), server)
        return [
            observer_pb2.DESCRIPTOR.services_by_name["Observer"].full_name,
            flows_pb2.DESCRIPTOR.services_by_name["FlowsService"].full_name,
        ]

    async def GetFlows(
        self, request: observer_pb2.GetFlowsRequest, context: Context
    ) -> AsyncIterator[observer_pb2.GetFlowsResponse]:
        """As the real one."""
        async for response in (await self._real()).GetFlows(request, context):
            yield response

    async def GetAgentEvents(
        self, request: observer_pb2.GetAgentEventsRequest, context: Context
    ) -> AsyncIterator[observer_pb2.GetAgentEventsResponse]:
        """As the real one."""
        async for response in (await self._real()).GetAgentEvents(request, context):
            yield response

    async def GetDebugEvents(
        self, request: observer_pb2.GetDebugEventsRequest, context: Context
    ) -> AsyncIterator[observer_pb2.GetDebugEventsResponse]:
        """As the real one."""
        async for response in (await self._real()).GetDebugEvents(request, context):
            yield response

    async def GetNodes(
        self, request: observer_pb2.GetNodesRequest, context: Context
    ) -> observer_pb2.GetNodesResponse:
        """As the real one."""
        answer: observer_pb2.GetNodesResponse = await (await self._real()).GetNodes(request, context)
        return answer

    async def GetNamespaces(
        self, request: observer_pb2.GetNamespacesRequest, context: Context
    ) -> observer_pb2.GetNamespacesResponse:
        """As the real one."""
        answer: observer_pb2.GetNamespacesResponse = await (await self._real()).GetNamespaces(
            request, context
        )
        return answer

    async def ServerStatus(
        self, request: observer_pb2.ServerStatusRequest, context: Context
    ) -> observer_pb2.ServerStatusResponse:
        """As the real one."""
        answer: observer_pb2.ServerStatusResponse = await (await self._real()).ServerStatus(request, context)
        return answer

    async def _real(self) -> Any:
        await self._known.wait()
        return self._service


class _LateBatches(flows_pb2_grpc.FlowsServiceServicer):
    """The same for the batched twin, which the real service has as `batches`."""

    def __init__(self, real: Callable[[], Awaitable[Any]]) -> None:
        self._real = real

    async def StreamFlows(
        self, request: flows_pb2.StreamFlowsRequest, context: Context
    ) -> AsyncIterator[flows_pb2.StreamFlowsResponse]:
        """As the real one."""
        async for response in (await self._real()).batches.StreamFlows(request, context):
            yield response
