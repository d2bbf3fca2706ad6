"""The edge of every gRPC server: who calls, may they, for how long, and how an error looks on the wire.

One interceptor wraps each handler. Unary calls: authenticate, authorise by the exact method table, 30 s when
the caller set no deadline, span, duration, error mapping. Streams: the same without a span, and the
certificate is asked again every few seconds; a stream whose certificate no longer passes ends
UNAUTHENTICATED. Servicers hold no such rule.
"""

# ruff: noqa: ARG001, ARG002  the signatures are gRPC's
from __future__ import annotations

import asyncio
import contextlib
import contextvars
import datetime as dt
import inspect
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

from axoneme.lib import grpcsettings, log, rpcerrors  # isort: skip  (before grpc)
import grpc
import grpc.aio
from opentelemetry import trace
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from axoneme.lib import methodroles
from axoneme.lib.errors import AxonemeError, DeadlineExceeded, PermissionDenied, Unauthenticated, WrongNode
from axoneme.lib.roles import NODE, Role
from axoneme.lib.tasks import TaskScope
from axoneme.lib.telemetry import DURATION_BUCKETS, tracer

logger = logging.getLogger(__name__)
assert grpcsettings.ENVIRONMENT

UNARY_SECONDS = 30.0
RECHECK_SECONDS = 10.0

Context = grpc.aio.ServicerContext[Any, Any]
Authenticate = Callable[[Context], Role]
Sleep = Callable[[float], Awaitable[None]]
Behavior = Callable[..., Any]

_caller: contextvars.ContextVar[Role | None] = contextvars.ContextVar("axoneme_caller", default=None)


def caller(context: Context | None = None) -> Role:
    """The role behind the current call. Raises Unauthenticated outside a call."""
    role = _caller.get()
    if role is None:
        raise Unauthenticated("no authenticated call is running")
    return role


@contextlib.contextmanager
def as_caller(role: Role) -> Iterator[None]:
    """Runs a block as if `role` had called; for tests of servicers without a server."""
    token = _caller.set(role)
    try:
        yield
    finally:
        _caller.reset(token)


def require_node(context: Context | None, node_name: str) -> Role:
    """A node may act only for itself; services and admins may for any. Raises WrongNode."""
    role = caller(context)
    if (role.kind == NODE and role.name == node_name) or role.kind == "svc" or role.admin:
        return role
    raise WrongNode(f"{role} may not act for node {node_name!r}", metadata={"node": node_name})


class EdgeMetrics:
    """Counters of one process; one instance per registry."""

    _by_registry: dict[int, tuple[CollectorRegistry, EdgeMetrics]] = {}  # noqa: RUF012

    def __init__(self, registry: CollectorRegistry) -> None:
        self._seconds = Histogram(
            "axoneme_grpc_call_seconds", "Duration of unary calls by outcome.", ["method", "code"],
            registry=registry, buckets=DURATION_BUCKETS,
        )  # fmt: skip
        self.streams = Gauge("axoneme_grpc_streams", "Streams that are open.", ["method"], registry=registry)
        self.ended = Counter(
            "axoneme_grpc_streams_ended_total", "Ended streams.", ["method", "code"], registry=registry
        )
        self.denied = Counter("axoneme_grpc_denied_total", "Refused calls.", ["reason"], registry=registry)
        self._children: dict[tuple[str, str], Any] = {}

    @classmethod
    def of(cls, registry: CollectorRegistry) -> EdgeMetrics:
        """The instance of a registry; several servers of one process share it."""
        known = cls._by_registry.get(id(registry))
        if known is None or known[0] is not registry:
            known = cls._by_registry[id(registry)] = (registry, cls(registry))
        return known[1]

    def observe(self, method: str, code: str, seconds: float) -> None:
        """Counts one unary call."""
        child = self._children.get((method, code))
        if child is None:
            child = self._children[(method, code)] = self._seconds.labels(method, code)
        child.observe(seconds)


class Edge(grpc.aio.ServerInterceptor):
    """Wraps every handler of a server."""

    def __init__(
        self,
        authenticate: Authenticate,
        metrics: EdgeMetrics,
        *,
        sleep: Sleep = asyncio.sleep,
        recheck_seconds: float = RECHECK_SECONDS,
        unary_seconds: float = UNARY_SECONDS,
    ) -> None:
        self._authenticate = authenticate
        self._metrics = metrics
        self._sleep = sleep
        self._recheck_seconds = recheck_seconds
        self._unary_seconds = unary_seconds

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """Called for each call, before its context exists; so the checks are in the wrapped handler."""
        method = handler_call_details.method
        handler: Any = await continuation(handler_call_details)
        if handler is None or not methodroles.is_known(method):
            return grpc.stream_stream_rpc_method_handler(self._refusal(method))
        if handler.request_streaming or handler.response_streaming:
            return self._stream_handler(method, handler)
        return grpc.unary_unary_rpc_method_handler(
            self._unary(method, handler.unary_unary),
            handler.request_deserializer,
            handler.response_serializer,
        )

    def _stream_handler(self, method: str, handler: Any) -> grpc.RpcMethodHandler[Any, Any]:
        kinds: dict[tuple[bool, bool], tuple[Callable[..., Any], Behavior]] = {
            (False, True): (grpc.unary_stream_rpc_method_handler, handler.unary_stream),
            (True, False): (grpc.stream_unary_rpc_method_handler, handler.stream_unary),
            (True, True): (grpc.stream_stream_rpc_method_handler, handler.stream_stream),
        }
        make, behavior = kinds[(handler.request_streaming, handler.response_streaming)]
        wrapped: grpc.RpcMethodHandler[Any, Any] = make(
            self._stream(method, behavior),
            handler.request_deserializer,
            _passing_bytes(handler.response_serializer),
        )
        return wrapped

    def _admit(self, method: str, context: Context) -> Role:
        """Authenticates and authorises. Raises Unauthenticated or PermissionDenied."""
        role = self._authenticate(context)
        if not methodroles.may_call(role, method):
            callers = ", ".join(methodroles.callers_of(method)) or "nobody"
            message = f"{role} may not call {method}; a certificate of one of these roles may: {callers}"
            raise PermissionDenied(message, reason="METHOD_NOT_ALLOWED")
        return role

    def _unary(self, method: str, behavior: Behavior) -> Behavior:
        async def call(request: Any, context: Context) -> Any:
            async with self._outcome(method, context, self._observe_unary, span=True):
                _caller.set(self._admit(method, context))
                if context.time_remaining() is not None:
                    return await behavior(request, context)
                limit = asyncio.timeout(self._unary_seconds)
                try:
                    async with limit:
                        return await behavior(request, context)
                except TimeoutError as error:
                    if not limit.expired():
                        raise
                    raise DeadlineExceeded(
                        f"not done in {self._unary_seconds:g} s; set a deadline"
                    ) from error

        return call

    def _stream(self, method: str, behavior: Behavior) -> Behavior:
        streams = self._metrics.streams.labels(method)

        async def call(request: Any, context: Context) -> Any:
            async with self._outcome(method, context, self._observe_stream, span=False):
                role = self._admit(method, context)
                _caller.set(role)
                with streams.track_inprogress():
                    return await self._guarded(method, role, behavior, request, context)

        return call

    async def _guarded(
        self, method: str, role: Role, behavior: Behavior, request: Any, context: Context
    ) -> Any:
        """Runs a stream's handler beside the re-check; whichever ends first ends the stream."""
        async with TaskScope(method) as scope:
            work = scope.start("handler", _quiet(_drive(behavior, request, context)), critical=False)
            check = scope.start("re-check", _quiet(self._recheck(method, role, context)), critical=False)
            done, _ = await asyncio.wait((work, check), return_when=asyncio.FIRST_COMPLETED)
        ended = work if work in done else check
        result, error = ended.result()
        if error is not None:
            raise error
        return result

    async def _recheck(self, method: str, role: Role, context: Context) -> None:
        while True:
            await self._sleep(self._recheck_seconds)
            if self._admit(method, context) != role:
                raise Unauthenticated("the client certificate stands for another role now")

    def _refusal(self, method: str) -> Behavior:
        """Handler of what the table or the server does not have: a caller without a role learns nothing."""

        async def call(request: Any, context: Context) -> None:
            async with self._outcome("unknown", context, self._observe_stream, span=False):
                self._admit(method, context)
                raise NotImplementedError(method)

        return call

    def _observe_unary(self, method: str, code: str, seconds: float) -> None:
        self._metrics.observe(method, code, seconds)

    def _observe_stream(self, method: str, code: str, seconds: float) -> None:
        self._metrics.ended.labels(method, code).inc()

    @contextlib.asynccontextmanager
    async def _outcome(
        self, method: str, context: Context, observe: Callable[[str, str, float], None], *, span: bool
    ) -> AsyncIterator[None]:
        """Maps errors to statuses and counts the end of one call."""
        start, code = time.perf_counter(), "OK"
        try:
            with _span(method) if span else contextlib.nullcontext():
                yield
        except AxonemeError as error:
            code = error.code
            self._count_denial(error, method)
            await _abort(context, error)
        except NotImplementedError:
            code = "UNIMPLEMENTED"
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{method} is not served here")
        except grpc.RpcError as error:
            code = await self._foreign(context, method, error)
        except (asyncio.CancelledError, GeneratorExit):
            code = "CANCELLED"
            raise
        except grpc.aio.AbortError:
            code = "ABORTED_BY_HANDLER"
            raise
        except Exception:
            code = "INTERNAL"
            if context.cancelled():
                raise
            logger.exception("unhandled error", extra={log.METHOD: method})
            await context.abort(grpc.StatusCode.INTERNAL, "internal error; see the service's log")
        finally:
            observe(method, code, time.perf_counter() - start)

    async def _foreign(self, context: Context, method: str, error: grpc.RpcError) -> str:
        """A call that this service made failed: not the caller's fault, so it reads UNAVAILABLE at most."""
        inner = rpcerrors.error_from_rpc(error)
        logger.warning("call to another service failed", extra={log.METHOD: method, log.ERROR: str(inner)})
        if inner.code in ("UNAUTHENTICATED", "PERMISSION_DENIED", "INTERNAL", "UNKNOWN"):
            await context.abort(
                grpc.StatusCode.INTERNAL, "a call to another service failed; see the service's log"
            )
        await _abort(context, inner)
        return inner.code

    def _count_denial(self, error: AxonemeError, method: str) -> None:
        if isinstance(error, Unauthenticated | PermissionDenied):
            self._metrics.denied.labels(error.reason).inc()
            logger.info(
                "call refused", extra={log.METHOD: method, log.REASON: error.reason, log.ERROR: str(error)}
            )


class TlsAuthentication:
    """Authenticates callers of one server: by certificate on TLS listeners, as local root on unix sockets."""

    def __init__(
        self,
        check: Callable[[Context], Role] | None,
        local: Role | None,
    ) -> None:
        self._check = check
        self._local = local

    def __call__(self, context: Context) -> Role:
        if context.peer().startswith("unix:") and self._local is not None:
            return self._local
        if self._check is None:
            raise Unauthenticated("no client certificate", reason="NO_CERTIFICATE")
        return self._check(context)


def _passing_bytes(serialise: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """A stream may write what it has serialised itself: bytes that it shares with a thousand others."""

    def to_bytes(response: Any) -> bytes:
        return response if type(response) is bytes else serialise(response)

    return to_bytes


def utc_now() -> dt.datetime:
    """Wall clock, which certificates are dated by."""
    return dt.datetime.now(dt.UTC)


async def _abort(context: Context, error: AxonemeError) -> None:
    await context.abort(
        rpcerrors.status_code(error),
        rpcerrors.clip_message(error.message),
        rpcerrors.trailing_metadata(error),
    )


async def _drive(behavior: Behavior, request: Any, context: Context) -> Any:
    """Runs a handler of either style: async generator, or coroutine that writes by itself.

    A generator may yield a list of messages: one write where the server can, one after the other elsewhere.
    """
    if not inspect.isasyncgenfunction(behavior):
        return await behavior(request, context)
    async with contextlib.aclosing(behavior(request, context)) as responses:
        async for response in responses:
            if type(response) is list and not getattr(context, "writes_lists", False):
                for one in response:
                    await context.write(one)
            else:
                await context.write(response)
    return None


async def _quiet(work: Awaitable[Any]) -> tuple[Any, BaseException | None]:
    """(result, error): the caller decides what an error means, so the task scope has nothing to log."""
    try:
        return await work, None
    except Exception as error:  # noqa: BLE001  handed on
        return None, error


def _span(method: str) -> contextlib.AbstractContextManager[Any]:
    return tracer().start_as_current_span(method, kind=trace.SpanKind.SERVER, record_exception=False)
