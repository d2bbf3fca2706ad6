"""The client for asyncio; same shape as the one for threads.

Unary calls are coroutines, server streams are async iterators with `cancel()`, bidirectional streams are
gRPC's own call objects, since only their user knows what to repeat on a new connection.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from axoneme.client import calls  # isort: skip  (before grpc)
import grpc
import grpc.aio

from axoneme.client.calls import DEFAULT_TIMEOUT_SECONDS, Part
from axoneme.client.context import Context, load_context
from axoneme.lib.channel import ServiceChannel
from axoneme.lib.rpcerrors import error_from_rpc

if TYPE_CHECKING:
    from axoneme.api.clustermesh.v1 import clustermesh_pb2_grpc
    from axoneme.api.hubble.observer import observer_pb2_grpc
    from axoneme.api.identity.v1 import identity_pb2_grpc
    from axoneme.api.node.v1 import node_pb2_grpc
    from axoneme.api.policy.v1 import policy_pb2_grpc


class AsyncStub:
    """Looks like a generated asyncio stub of one service."""

    def __init__(
        self, part: Part, channel: ServiceChannel, timeout_seconds: float, rng: random.Random
    ) -> None:
        self._part = part
        self._channel = channel
        self._timeout_seconds = timeout_seconds
        self._rng = rng

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = self._part.method(name)
        if method.client_streaming:
            return lambda requests=None, **options: self._call(name, requests, options)
        if method.server_streaming:
            return lambda request, **options: AsyncStream(self, lambda: self._call(name, request, options))
        return lambda request, timeout=None, **options: self._unary(name, request, timeout, options)

    def _call(self, name: str, request: Any, options: dict[str, Any]) -> Any:
        return getattr(self._part.stub_type(self._channel.current()), name)(request, **options)

    async def _unary(self, name: str, request: Any, timeout: float | None, options: dict[str, Any]) -> Any:
        request = calls.with_request_id(request)
        deadline = time.monotonic() + (self._timeout_seconds if timeout is None else timeout)

        async def attempt() -> Any:
            left = max(deadline - time.monotonic(), 0.001)
            return await self._call(name, request, {**options, "timeout": left})

        return await self.retried(attempt, deadline)

    async def retried(self, attempt: Callable[[], Awaitable[Any]], deadline: float) -> Any:
        """Runs `attempt` until it is not UNAVAILABLE. Raises AxonemeError."""
        pauses = calls.pauses(len(self._channel.targets), self._rng)
        while True:
            try:
                return await attempt()
            except grpc.RpcError as error:
                failure = error_from_rpc(error)
                pause = next(pauses, None)
                if failure.code != "UNAVAILABLE" or pause is None or time.monotonic() + pause >= deadline:
                    raise failure from error
                self._channel.move_on()
                await asyncio.sleep(pause)


class AsyncStream:
    """Responses of a server stream; an unavailable target is replaced until the first one came."""

    def __init__(self, stub: AsyncStub, open_call: Callable[[], Any]) -> None:
        self._open = open_call
        self._stub = stub
        self._call = open_call()
        self._started = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        if not self._started:
            self._started = True
            response = await self._stub.retried(self._first, time.monotonic() + DEFAULT_TIMEOUT_SECONDS)
        else:
            response = await self._next()
        if response is grpc.aio.EOF:
            raise StopAsyncIteration
        return response

    def cancel(self) -> None:
        """Ends the stream from this side."""
        self._call.cancel()

    async def _first(self) -> Any:
        if self._call.done():
            self._call = self._open()
        return await self._call.read()

    async def _next(self) -> Any:
        try:
            return await self._call.read()
        except grpc.RpcError as error:
            raise error_from_rpc(error) from error


class AsyncClient:
    """One cluster, for asyncio. Use it in an `async with` block, or await `close`."""

    def __init__(
        self,
        context: Context | None = None,
        *,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        rng: random.Random | None = None,
    ) -> None:
        self.context = context or load_context()
        self.timeout_seconds = timeout_seconds
        self._rng = rng or random.Random()  # noqa: S311  spreads load, hides nothing
        self._channels: dict[str, ServiceChannel] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends all channels."""
        for channel in self._channels.values():
            await channel.close()

    @property
    def identity(self) -> identity_pb2_grpc.IdentityServiceAsyncStub:
        """The identity service."""
        return cast("identity_pb2_grpc.IdentityServiceAsyncStub", self._stub(calls.identity_part()))

    @property
    def policy(self) -> policy_pb2_grpc.PolicyServiceAsyncStub:
        """The policy service."""
        return cast("policy_pb2_grpc.PolicyServiceAsyncStub", self._stub(calls.policy_part()))

    @property
    def clustermesh(self) -> clustermesh_pb2_grpc.ClusterMeshServiceAsyncStub:
        """The clustermesh service: services and their backends."""
        return cast("clustermesh_pb2_grpc.ClusterMeshServiceAsyncStub", self._stub(calls.clustermesh_part()))

    @property
    def observer(self) -> observer_pb2_grpc.ObserverAsyncStub:
        """The Observer of the relay: flows of all nodes."""
        return cast("observer_pb2_grpc.ObserverAsyncStub", self._stub(calls.observer_part()))

    def node(self, name: str) -> node_pb2_grpc.NodeServiceAsyncStub:
        """The local API of a node on this machine. Raises NotFound."""
        stub = AsyncStub(calls.node_part(), self._node_channel(name), self.timeout_seconds, self._rng)
        return cast("node_pb2_grpc.NodeServiceAsyncStub", stub)

    async def serving(self, process: str, service: str = "", *, node: str | None = None) -> bool:
        """Health of a service or (with `node`) of a node. Raises Unavailable and the like."""
        from grpc_health.v1 import health_pb2

        channel = self._node_channel(node) if node is not None else self._service_channel(process)
        stub: Any = AsyncStub(calls.health_part(process), channel, self.timeout_seconds, self._rng)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def _stub(self, part: Part) -> AsyncStub:
        return AsyncStub(part, self._service_channel(part.process), self.timeout_seconds, self._rng)

    def _service_channel(self, process: str) -> ServiceChannel:
        if process not in self._channels:
            self._channels[process] = ServiceChannel(
                self.context.targets(process),
                calls.tls_files(self.context),
                self.context.server_name(process),
                rng=self._rng,
            )
        return self._channels[process]

    def _node_channel(self, name: str) -> ServiceChannel:
        key = f"node/{name}"
        if key not in self._channels:
            self._channels[key] = ServiceChannel([calls.node_target(self.context, name)], None, rng=self._rng)
        return self._channels[key]
