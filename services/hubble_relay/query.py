"""One GetFlows call: the same request to every node, the answers merged into time order.

    node ─► reader task ─┐
    node ─► reader task ─┼─► bounded queue ─► TimeOrder ─► caller
    node ─► reader task ─┘        (a slow caller fills it; the readers then stop reading, and the nodes stop
    sending)

A node that fails or stays silent is named in a NODE_ERROR event and never stops the others. A query without
follow waits for a silent node only until `silence_seconds`; a followed one is told by keepalive that a node
is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import platform
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass

from axoneme.lib import grpcsettings, log  # isort: skip  (before grpc)
import grpc

from axoneme.api.hubble.observer import observer_pb2, observer_pb2_grpc
from axoneme.api.hubble.relay import relay_pb2
from axoneme.lib.errors import Unavailable
from axoneme.lib.tasks import TaskScope
from axoneme.lib.tls import TlsFilesInvalid
from services.hubble_relay.merge import DEFAULT_CAPACITY, TimeOrder, buffer_capacity
from services.hubble_relay.nodeerrors import WINDOW_SECONDS, NodeErrors
from services.hubble_relay.peers import Connection, PeerPool

assert grpcsettings.ENVIRONMENT

Response = observer_pb2.GetFlowsResponse


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryTiming:
    """Times of a query, in seconds, and its bounds."""

    drain_seconds: float = 1.0
    silence_seconds: float = 5.0
    join_seconds: float = 2.0
    error_window_seconds: float = WINDOW_SECONDS
    longest_buffer: int = DEFAULT_CAPACITY
    queue_size: int = 256


@dataclass(frozen=True, slots=True)
class _Ended:
    """End of one node's stream; `error` is empty when it was complete."""

    name: str
    error: str


class FlowQuery:
    """State of one call."""

    def __init__(
        self,
        pool: PeerPool,
        request: observer_pb2.GetFlowsRequest,
        *,
        timing: QueryTiming,
        stopping: asyncio.Event,
        clock: Callable[[], float] = time.monotonic,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._pool = pool
        self._request = request
        self._timing = timing
        self._stopping = stopping
        self._clock = clock
        self._now_ns = now_ns
        self._queue: asyncio.Queue[tuple[str, Response] | _Ended] = asyncio.Queue(timing.queue_size)
        self._errors = NodeErrors(timing.error_window_seconds)
        self._open: set[str] = set()
        self._last_ns_by_node: dict[str, int] = {}

    async def responses(self) -> AsyncGenerator[Response, None]:
        """Yields node states, then flows in time order; ends when all nodes have, never with follow."""
        connections = self._pool.connections
        available = [connection for connection in connections.values() if connection.available]
        for event in _opening_events(connections.values(), self._now_ns()):
            yield event
        capacity = buffer_capacity(self._request.number, len(available), longest=self._timing.longest_buffer)
        order: TimeOrder[Response] = TimeOrder(capacity)
        async with TaskScope("flow query") as scope:
            for connection in available:
                self._start(scope, connection)
            if self._request.follow:
                scope.start("join", self._join(scope))
            async with contextlib.aclosing(self._merged(order)) as merged:
                async for response in merged:
                    yield response
        for response in order.drain():
            yield response
        for message, names in self._errors.drain():
            yield self._error_event(message, names)
        if self._stopping.is_set():
            raise Unavailable("the relay stops; ask again", reason="DRAINING")

    async def _merged(self, order: TimeOrder[Response]) -> AsyncGenerator[Response, None]:
        while (self._open or self._request.follow) and not self._stopping.is_set():
            try:
                item = await asyncio.wait_for(self._queue.get(), self._timing.drain_seconds)
            except TimeoutError:
                for response in order.pop_until(self._now_ns() - int(self._timing.drain_seconds * 1e9)):
                    yield response
            else:
                for response in self._take(item, order):
                    yield response
            for message, names in self._errors.due(self._clock()):
                yield self._error_event(message, names)

    def _take(self, item: tuple[str, Response] | _Ended, order: TimeOrder[Response]) -> list[Response]:
        if isinstance(item, _Ended):
            self._open.discard(item.name)
            if item.error:
                self._errors.add(item.name, item.error, self._clock())
            return []
        name, response = item
        time_ns = response.time.seconds * 1_000_000_000 + response.time.nanos
        self._last_ns_by_node[name] = max(time_ns, self._last_ns_by_node.get(name, 0))
        return order.push(time_ns, response)

    def _start(self, scope: TaskScope, connection: Connection) -> None:
        self._open.add(connection.peer.name)
        scope.start(connection.peer.name, self._read(connection), critical=False)

    async def _read(self, connection: Connection) -> None:
        name, error = connection.peer.name, ""
        call = None
        try:
            request = self._request_for(name)
            call = observer_pb2_grpc.ObserverStub(connection.channel).GetFlows(request)
            while True:
                response = await asyncio.wait_for(call.read(), self._silence_limit())
                if not isinstance(response, Response):
                    break
                await self._queue.put((name, response))
            if await call.code() is not grpc.StatusCode.OK:
                error = _error_text(await call.code(), await call.details() or "", connection)
        except TimeoutError:
            error = f"the node did not answer within {self._timing.silence_seconds:g} s"
        except grpc.aio.AioRpcError as failure:
            error = _error_text(failure.code(), failure.details() or "", connection)
        except TlsFilesInvalid as failure:
            error = str(failure)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            error = "the node was taken off the list"
        finally:
            if call is not None:
                call.cancel()
        await self._queue.put(_Ended(name, error))

    def _silence_limit(self) -> float | None:
        return None if self._request.follow else self._timing.silence_seconds

    def _request_for(self, name: str) -> observer_pb2.GetFlowsRequest:
        """Returns the request, unchanged; a node that comes back goes on where it broke off."""
        if name not in self._last_ns_by_node:
            return self._request
        request = observer_pb2.GetFlowsRequest()
        request.CopyFrom(self._request)
        request.number, request.first = 0, False
        request.since.FromNanoseconds(self._last_ns_by_node[name] + 1)
        return request

    async def _join(self, scope: TaskScope) -> None:
        """Takes in nodes that appear or come back while the caller follows."""
        while True:
            await asyncio.sleep(self._timing.join_seconds)
            for name, connection in self._pool.connections.items():
                if connection.available and name not in self._open:
                    self._start(scope, connection)

    def _error_event(self, message: str, names: list[str]) -> Response:
        return _status_event(relay_pb2.NODE_ERROR, names, message, self._now_ns())


def _opening_events(connections: Iterable[Connection], now_ns: int) -> list[Response]:
    """Returns who is asked and who cannot be, with one event for each reason."""
    connected, names_by_reason = [], dict[str, list[str]]()
    for connection in connections:
        if connection.available:
            connected.append(connection.peer.name)
        else:
            names_by_reason.setdefault(connection.reason, []).append(connection.peer.name)
    events = [_status_event(relay_pb2.NODE_CONNECTED, connected, "", now_ns)] if connected else []
    return events + [
        _status_event(relay_pb2.NODE_UNAVAILABLE, names, reason, now_ns)
        for reason, names in names_by_reason.items()
    ]


def _status_event(
    state: relay_pb2.NodeState.ValueType, names: list[str], message: str, now_ns: int
) -> Response:
    event = Response(
        node_status=relay_pb2.NodeStatusEvent(state_change=state, node_names=names, message=message),
        node_name=platform.node(),  # Hubble names the relay itself here
    )
    event.time.FromNanoseconds(now_ns)
    return event


def _error_text(code: grpc.StatusCode, details: str, connection: Connection) -> str:
    """Returns a node's error; Unknown shows its message alone, as Hubble's clients do."""
    if code is grpc.StatusCode.UNKNOWN:
        return details
    reason = f" ({connection.reason})" if connection.reason else ""
    return f"rpc error: code = {code.name} desc = {log.clip(details)}{reason}"
