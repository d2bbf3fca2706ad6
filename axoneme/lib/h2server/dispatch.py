"""From a method path to a handler that ran: takes what generated `add_…_to_server` functions register.

The interceptor is the edge of grpc servers (`axoneme.lib.edge`): roles, re-checks, metrics and errors are its
business under both servers.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

from axoneme.lib import grpcsettings  # isort: skip  (before grpc)
import grpc
import grpc.aio

from axoneme.lib.h2server.call import Call
from axoneme.lib.h2server.context import CallContext
from axoneme.lib.h2server.requesthead import RequestHead

assert grpcsettings.ENVIRONMENT

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class _Details(NamedTuple):
    """What an interceptor is asked with."""

    method: str
    invocation_metadata: Any


class GenericHandler(Protocol):
    """What `grpc.method_handlers_generic_handler` makes."""

    def service(self, handler_call_details: Any) -> Handler | None:
        """The handler of a method, if it is one of these."""


class Interceptor(Protocol):
    """A `grpc.aio.ServerInterceptor`."""

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Handler:
        """Wraps the handler of a method."""


class Dispatch:
    """The methods of one server."""

    def __init__(self, interceptor: Interceptor) -> None:
        self._interceptor = interceptor
        self._generic: list[GenericHandler] = []
        self._methods: dict[str, Handler] = {}
        self._wrapped: dict[str, Handler] = {}

    def add_generic_rpc_handlers(self, handlers: Sequence[GenericHandler]) -> None:
        """Takes the handlers of a service."""
        self._generic += handlers

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """The same, by name: what generated code calls besides the above."""
        self._methods.update({f"/{service}/{name}": handler for name, handler in handlers.items()})

    async def serve(self, call: Call) -> None:
        """Runs the handler of a call."""
        handler = await self._handler(call.head)
        call.serialise = handler.response_serializer
        context = CallContext(call, handler.request_deserializer)
        request: Any = context.requests()
        if not handler.request_streaming:
            message = await call.only_message()
            deserialise = handler.request_deserializer
            request = message if deserialise is None else deserialise(message)
        outcome = _behavior(handler)(request, context)
        if inspect.isasyncgen(outcome):
            async for response in outcome:
                await call.write(response)
            return
        response = await outcome
        if not handler.response_streaming and not call.cancelled:
            await call.write(response)

    async def _handler(self, head: RequestHead) -> Handler:
        """The wrapped handler. What is registered is wrapped once; the rest is refused by the interceptor."""
        known = self._wrapped.get(head.path)
        if known is not None:
            return known
        details = _Details(head.path, head.metadata)
        wrapped = await self._interceptor.intercept_service(self._find, details)
        if await self._find(details) is not None:
            self._wrapped[head.path] = wrapped
        return wrapped

    async def _find(self, details: Any) -> Handler | None:
        registered = self._methods.get(details.method)
        if registered is not None:
            return registered
        found = (generic.service(details) for generic in self._generic)
        return next((handler for handler in found if handler is not None), None)


def _behavior(handler: Handler) -> Callable[..., Any]:
    kinds: dict[tuple[bool, bool], Any] = {
        (False, False): handler.unary_unary,
        (False, True): handler.unary_stream,
        (True, False): handler.stream_unary,
        (True, True): handler.stream_stream,
    }
    behavior: Callable[..., Any] = kinds[(handler.request_streaming, handler.response_streaming)]
    return behavior
