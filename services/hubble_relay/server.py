"""The Observer API of the relay: every answer is made from the nodes' answers."""

# ruff: noqa: ARG002  (gRPC fixes the signatures)

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from axoneme.lib import grpcsettings  # isort: skip  (before grpc)
import grpc

from axoneme.api.hubble.observer import observer_pb2, observer_pb2_grpc
from axoneme.api.hubble.relay import relay_pb2
from axoneme.lib.errors import FailedPrecondition, Unsupported
from axoneme.lib.tls import TlsFilesInvalid
from services.hubble_relay.peers import Connection, PeerPool
from services.hubble_relay.query import FlowQuery, QueryTiming

assert grpcsettings.ENVIRONMENT

VERSION_HEADER = "hubble-relay-version"
MOST_NAMES = 10

Answer = TypeVar("Answer")
Context = grpc.aio.ServicerContext[Any, Any]
Ask = Callable[["observer_pb2_grpc.ObserverAsyncStub"], Awaitable[Answer]]


class RelayObserver(observer_pb2_grpc.ObserverServicer):
    """Answers from all nodes of a pool. `version` is a semantic version without `v`."""

    def __init__(
        self, pool: PeerPool, *, version: str, node_seconds: float = 3.0, timing: QueryTiming | None = None
    ) -> None:
        self._pool = pool
        self._version = version
        self._node_seconds = node_seconds
        self._timing = timing or QueryTiming()
        self._stopping = asyncio.Event()

    async def stop(self) -> None:
        """Ends followed queries, so that they do not use up the time to drain."""
        self._stopping.set()

    async def GetFlows(
        self, request: observer_pb2.GetFlowsRequest, context: Context
    ) -> AsyncIterator[observer_pb2.GetFlowsResponse]:
        """Merges the flows of all nodes that can be reached."""
        await self._greet(context)
        query = FlowQuery(self._pool, request, timing=self._timing, stopping=self._stopping)
        async with contextlib.aclosing(query.responses()) as responses:
            async for response in responses:
                yield response

    async def ServerStatus(
        self, request: observer_pb2.ServerStatusRequest, context: Context
    ) -> observer_pb2.ServerStatusResponse:
        """Sums the nodes; a node that does not answer counts as unavailable."""
        await self._greet(context)
        answers = await self._ask_all(lambda stub: _status(stub, self._node_seconds))
        total = observer_pb2.ServerStatusResponse(version=f"hubble-relay v{self._version}")
        unavailable = []
        for connection, answer in answers:
            if isinstance(answer, str):
                unavailable.append(connection.peer.name)
                continue
            total.num_flows += answer.num_flows
            total.max_flows += answer.max_flows
            total.seen_flows += answer.seen_flows
            total.flows_rate += answer.flows_rate
            total.uptime_ns = max(total.uptime_ns, answer.uptime_ns)
        total.num_connected_nodes.value = len(answers) - len(unavailable)
        total.num_unavailable_nodes.value = len(unavailable)
        total.unavailable_nodes.extend(unavailable[:MOST_NAMES])
        return total

    async def GetNodes(
        self, request: observer_pb2.GetNodesRequest, context: Context
    ) -> observer_pb2.GetNodesResponse:
        """Returns every node; one that cannot be reached says why in the place of its version."""
        await self._greet(context)
        answers = await self._ask_all(lambda stub: _status(stub, self._node_seconds))
        return observer_pb2.GetNodesResponse(
            nodes=[_node(connection, answer) for connection, answer in answers]
        )

    async def GetNamespaces(
        self, request: observer_pb2.GetNamespacesRequest, context: Context
    ) -> observer_pb2.GetNamespacesResponse:
        """Returns the namespaces of all nodes that answer. Raises FailedPrecondition when none does."""
        await self._greet(context)
        answers = await self._ask_all(lambda stub: _namespaces(stub, self._node_seconds))
        if answers and all(isinstance(answer, str) for _, answer in answers):
            raise FailedPrecondition("no node could be asked; GetNodes says why", reason="NO_NODE_AVAILABLE")
        found = {
            (namespace.cluster, namespace.namespace)
            for _, answer in answers
            if not isinstance(answer, str)
            for namespace in answer.namespaces
        }
        return observer_pb2.GetNamespacesResponse(
            namespaces=[
                observer_pb2.Namespace(cluster=cluster, namespace=name) for cluster, name in sorted(found)
            ]
        )

    async def GetAgentEvents(
        self, request: observer_pb2.GetAgentEventsRequest, context: Context
    ) -> AsyncIterator[observer_pb2.GetAgentEventsResponse]:
        """Raises Unsupported: nodes keep no agent events."""
        raise Unsupported("GetAgentEvents is not served by the relay")
        yield  # an async generator, as the generated base class wants it

    async def GetDebugEvents(
        self, request: observer_pb2.GetDebugEventsRequest, context: Context
    ) -> AsyncIterator[observer_pb2.GetDebugEventsResponse]:
        """Raises Unsupported: nodes keep no debug events."""
        raise Unsupported("GetDebugEvents is not served by the relay")
        yield  # an async generator, as the generated base class wants it

    async def _greet(self, context: Context) -> None:
        await context.send_initial_metadata(((VERSION_HEADER, self._version),))

    async def _ask_all(self, ask: Ask[Answer]) -> list[tuple[Connection, Answer | str]]:
        """Asks all nodes at once; an answer that could not be had is the reason in words."""
        connections = list(self._pool.connections.values())
        answers = await asyncio.gather(*(self._ask(connection, ask) for connection in connections))
        return list(zip(connections, answers, strict=True))

    async def _ask(self, connection: Connection, ask: Ask[Answer]) -> Answer | str:
        if not connection.available:
            return connection.reason
        try:
            return await ask(observer_pb2_grpc.ObserverStub(connection.channel))
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                return f"no answer within {self._node_seconds:g} s"
            return connection.reason or f"{error.code().name}: {error.details()}"
        except TlsFilesInvalid as error:
            return str(error)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return "the node was taken off the list"


async def _status(
    stub: observer_pb2_grpc.ObserverAsyncStub, seconds: float
) -> observer_pb2.ServerStatusResponse:
    return await stub.ServerStatus(observer_pb2.ServerStatusRequest(), timeout=seconds)


async def _namespaces(
    stub: observer_pb2_grpc.ObserverAsyncStub, seconds: float
) -> observer_pb2.GetNamespacesResponse:
    return await stub.GetNamespaces(observer_pb2.GetNamespacesRequest(), timeout=seconds)


def _node(connection: Connection, answer: observer_pb2.ServerStatusResponse | str) -> observer_pb2.Node:
    peer = connection.peer
    node = observer_pb2.Node(
        name=peer.name,
        address=peer.address,
        tls=observer_pb2.TLS(enabled=bool(peer.server_name), server_name=peer.server_name),
    )
    if isinstance(answer, str):
        node.state = relay_pb2.NODE_ERROR if connection.available else relay_pb2.NODE_UNAVAILABLE
        node.version = f"unreachable: {answer}"
        return node
    node.state = relay_pb2.NODE_CONNECTED
    node.version = answer.version
    node.uptime_ns = answer.uptime_ns
    node.num_flows = answer.num_flows
    node.max_flows = answer.max_flows
    node.seen_flows = answer.seen_flows
    return node
