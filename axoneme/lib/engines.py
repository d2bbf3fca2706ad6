"""The two servers behind `grpcserver.serving`: grpc.aio, and our own HTTP/2 for fast streams.

Servicers, edge, health, reflection and certificates are the same under both; `register` gets `server`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Protocol, cast

from axoneme.lib import grpcsettings  # isort: skip  (before grpc)
import grpc
import grpc.aio

from axoneme.lib.edge import Edge
from axoneme.lib.errors import InvalidArgument, Unavailable
from axoneme.lib.h2server import H2Server, limits_of
from axoneme.lib.listeners import Listener, prepare_socket
from axoneme.lib.tls import ServerCertificates

GRPC, H2 = "grpc", "h2"
ENGINES = (GRPC, H2)
MAX_CONCURRENT_CALLS = 10_000

Options = Mapping[str, int | str]


class Engine(Protocol):
    """A server that listens, and to which services are added."""

    server: grpc.aio.Server

    def bind(self, listener: Listener, certificates: ServerCertificates | None) -> int:
        """Binds one address and returns its port (0 for a unix socket). Raises Unavailable."""

    async def start(self) -> None:
        """Serves from now on."""

    async def stop(self, grace: float) -> None:
        """Open calls get `grace` seconds."""


def engine_of(word: str, guard: Edge, options: Options | None) -> Engine:
    """The engine that a configuration names. Raises InvalidArgument."""
    if word not in ENGINES:
        raise InvalidArgument.of_field("flow_server", f"{word!r} is none of {', '.join(ENGINES)}")
    return H2Engine(guard, options) if word == H2 else GrpcEngine(guard, options)


class GrpcEngine:
    """grpc.aio."""

    def __init__(self, guard: Edge, options: Options | None) -> None:
        self.server = grpc.aio.server(
            interceptors=[guard],
            options=grpcsettings.arguments(grpcsettings.SERVER_ARGUMENTS, options),
            maximum_concurrent_rpcs=MAX_CONCURRENT_CALLS,
        )

    def bind(self, listener: Listener, certificates: ServerCertificates | None) -> int:
        """Binds one address."""
        try:
            if listener.path is not None:
                prepare_socket(listener.path)
                before = os.umask(0o177)
                try:
                    self.server.add_insecure_port(f"unix:{listener.path}")
                finally:
                    os.umask(before)
                return 0
            assert certificates is not None
            return self.server.add_secure_port(listener.address, certificates.credentials())
        except RuntimeError as error:
            raise _taken(listener, error) from error

    async def start(self) -> None:
        """Serves from now on."""
        await self.server.start()

    async def stop(self, grace: float) -> None:
        """Open calls get `grace` seconds."""
        await self.server.stop(grace)


class H2Engine:
    """`axoneme.lib.h2server`."""

    def __init__(self, guard: Edge, options: Options | None) -> None:
        self._h2 = H2Server(guard, limits_of(options))
        # Generated code and `register` call nothing but add_…_handlers, which it has.
        self.server = cast("grpc.aio.Server", cast("Any", self._h2))

    def bind(self, listener: Listener, certificates: ServerCertificates | None) -> int:
        """Binds one address."""
        try:
            if listener.path is None:
                return self._h2.add_tcp(listener.address, certificates)
            prepare_socket(listener.path)
            before = os.umask(0o177)
            try:
                self._h2.add_unix(listener.path)
            finally:
                os.umask(before)
        except OSError as error:
            raise _taken(listener, error) from error
        return 0

    async def start(self) -> None:
        """Serves from now on."""
        await self._h2.start()

    async def stop(self, grace: float) -> None:
        """Open calls get `grace` seconds."""
        await self._h2.stop(grace)


def _taken(listener: Listener, error: Exception) -> Unavailable:
    return Unavailable(f"cannot listen on {listener.address}: {error}", reason="ADDRESS_IN_USE")
