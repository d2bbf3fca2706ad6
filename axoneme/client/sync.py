"""The client for threads and scripts.

`client.identity`, `.policy`, `.clustermesh`, `.observer`, `.node(name)`, `.fqdn(name)` and
`.node_observer(name)` look like the generated stubs and are typed so; calls get a deadline, move to the next
target on UNAVAILABLE, and raise AxonemeError instead of gRPC errors.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from axoneme.client import calls  # isort: skip  (before grpc)
import grpc

from axoneme.client.calls import DEFAULT_TIMEOUT_SECONDS, Part
from axoneme.client.context import Context, load_context
from axoneme.lib.channel import open_sync_channel
from axoneme.lib.rpcerrors import error_from_rpc
from axoneme.lib.tls import TlsFiles

if TYPE_CHECKING:
    from axoneme.api.clustermesh.v1 import clustermesh_pb2_grpc
    from axoneme.api.fqdn.v1 import fqdn_pb2_grpc
    from axoneme.api.hubble.observer import observer_pb2_grpc
    from axoneme.api.identity.v1 import identity_pb2_grpc
    from axoneme.api.node.v1 import node_pb2_grpc
    from axoneme.api.policy.v1 import policy_pb2_grpc


class Targets:
    """One channel at a time, to one of several equal targets."""

    def __init__(
        self, targets: Sequence[str], tls: TlsFiles | None, server_name: str | None, rng: random.Random
    ) -> None:
        self._targets = list(targets)
        rng.shuffle(self._targets)
        self._tls = tls
        self._server_name = server_name
        self._channel: grpc.Channel | None = None

    def __len__(self) -> int:
        return len(self._targets)

    def current(self) -> grpc.Channel:
        """The channel in use."""
        if self._channel is None:
            self._channel = open_sync_channel(self._targets[0], self._tls, self._server_name)
        return self._channel

    def move_on(self) -> None:
        """Takes the next target for the next call."""
        self._targets.append(self._targets.pop(0))
        self.close()

    def close(self) -> None:
        """Ends the channel."""
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()


class Stub:
    """Looks like a generated stub of one service."""

    def __init__(self, part: Part, targets: Targets, timeout_seconds: float, rng: random.Random) -> None:
        self._part = part
        self._targets = targets
        self._timeout_seconds = timeout_seconds
        self._rng = rng

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = self._part.method(name)
        if method.client_streaming:
            return lambda requests, **options: self._call(name, requests, options)
        if method.server_streaming:
            return lambda request, **options: Stream(self, lambda: self._call(name, request, options))
        return lambda request, timeout=None, **options: self._unary(name, request, timeout, options)

    def _call(self, name: str, request: Any, options: dict[str, Any]) -> Any:
        return getattr(self._part.stub_type(self._targets.current()), name)(request, **options)

    def _unary(self, name: str, request: Any, timeout: float | None, options: dict[str, Any]) -> Any:
        request = calls.with_request_id(request)
        seconds = self._timeout_seconds if timeout is None else timeout
        deadline = time.monotonic() + seconds

        def attempt() -> Any:
            left = max(deadline - time.monotonic(), 0.001)
            return self._call(name, request, {**options, "timeout": left})

        return self.retried(attempt, deadline)

    def retried(self, attempt: Callable[[], Any], deadline: float) -> Any:
        """Runs `attempt` until it is not UNAVAILABLE. Raises AxonemeError."""
        pauses = calls.pauses(len(self._targets), self._rng)
        while True:
            try:
                return attempt()
            except grpc.RpcError as error:
                failure = error_from_rpc(error)
                pause = next(pauses, None)
                if failure.code != "UNAVAILABLE" or pause is None or time.monotonic() + pause >= deadline:
                    raise failure from error
                self._targets.move_on()
                time.sleep(pause)


class Stream:
    """Responses of a server stream; an unavailable target is replaced until the first one came."""

    def __init__(self, stub: Stub, open_call: Callable[[], Any]) -> None:
        self._open: Callable[[], Any] = open_call
        self._stub = stub
        self._call = open_call()
        self._started = False

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._started:
            return self._next()
        self._started = True
        return self._stub.retried(self._first, time.monotonic() + DEFAULT_TIMEOUT_SECONDS)

    def cancel(self) -> None:
        """Ends the stream from this side."""
        self._call.cancel()

    def _first(self) -> Any:
        if self._call.done():
            self._call = self._open()
        return next(self._call)

    def _next(self) -> Any:
        try:
            return next(self._call)
        except grpc.RpcError as error:
            raise error_from_rpc(error) from error


class Client:
    """One cluster, for threads. Use it in a `with` block, or call `close`."""

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
        self._targets: dict[str, Targets] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends all channels."""
        for targets in self._targets.values():
            targets.close()

    @property
    def identity(self) -> identity_pb2_grpc.IdentityServiceStub:
        """The identity service."""
        return cast("identity_pb2_grpc.IdentityServiceStub", self._stub(calls.identity_part()))

    @property
    def policy(self) -> policy_pb2_grpc.PolicyServiceStub:
        """The policy service."""
        return cast("policy_pb2_grpc.PolicyServiceStub", self._stub(calls.policy_part()))

    @property
    def clustermesh(self) -> clustermesh_pb2_grpc.ClusterMeshServiceStub:
        """The clustermesh service: services and their backends."""
        return cast("clustermesh_pb2_grpc.ClusterMeshServiceStub", self._stub(calls.clustermesh_part()))

    @property
    def observer(self) -> observer_pb2_grpc.ObserverStub:
        """The Observer of the relay: flows of all nodes."""
        return cast("observer_pb2_grpc.ObserverStub", self._stub(calls.observer_part()))

    def node(self, name: str) -> node_pb2_grpc.NodeServiceStub:
        """The local API of a node on this machine. Raises NotFound."""
        stub = Stub(calls.node_part(), self._node_targets(name), self.timeout_seconds, self._rng)
        return cast("node_pb2_grpc.NodeServiceStub", stub)

    def node_observer(self, name: str) -> observer_pb2_grpc.ObserverStub:
        """The Observer of one node on this machine, by its unix socket. Raises NotFound."""
        stub = Stub(calls.observer_part(), self._node_targets(name), self.timeout_seconds, self._rng)
        return cast("observer_pb2_grpc.ObserverStub", stub)

    def fqdn(self, name: str) -> fqdn_pb2_grpc.FqdnServiceStub:
        """The DNS proxy of a node on this machine. Raises NotFound."""
        key = f"fqdn/{name}"
        if key not in self._targets:
            self._targets[key] = Targets([calls.fqdn_target(self.context, name)], None, None, self._rng)
        stub = Stub(calls.fqdn_part(), self._targets[key], self.timeout_seconds, self._rng)
        return cast("fqdn_pb2_grpc.FqdnServiceStub", stub)

    def serving(self, process: str, service: str = "", *, node: str | None = None) -> bool:
        """Health of a service or (with `node`) of a node. Raises Unavailable and the like."""
        from grpc_health.v1 import health_pb2

        targets = self._node_targets(node) if node is not None else self._service_targets(process)
        stub: Any = Stub(calls.health_part(process), targets, self.timeout_seconds, self._rng)
        answer = stub.Check(health_pb2.HealthCheckRequest(service=service))
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def _stub(self, part: Part) -> Stub:
        return Stub(part, self._service_targets(part.process), self.timeout_seconds, self._rng)

    def _service_targets(self, process: str) -> Targets:
        if process not in self._targets:
            self._targets[process] = Targets(
                self.context.targets(process),
                calls.tls_files(self.context),
                self.context.server_name(process),
                self._rng,
            )
        return self._targets[process]

    def _node_targets(self, name: str) -> Targets:
        key = f"node/{name}"
        if key not in self._targets:
            self._targets[key] = Targets([calls.node_target(self.context, name)], None, None, self._rng)
        return self._targets[key]
