"""The server: sockets, connections, calls, and what generated code calls of a grpc.aio.Server.

    sockets ─ Acceptor ─► H2Protocol ─► Connection ─► Call ─► Dispatch ─► interceptor ─► servicer

Nothing here knows roles, health or reflection; they are registered like any service.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from axoneme.lib.h2server.call import Call
from axoneme.lib.h2server.dispatch import Dispatch, GenericHandler, Handler, Interceptor
from axoneme.lib.h2server.faults import CallFault
from axoneme.lib.h2server.handshake import FollowingContext
from axoneme.lib.h2server.limits import Limits
from axoneme.lib.h2server.listening import Acceptor, bound_tcp, bound_unix
from axoneme.lib.h2server.transport import H2Protocol
from axoneme.lib.tasks import TaskScope
from axoneme.lib.tls import ServerCertificates

CLOSE_SECONDS = 1.0


class H2Server:
    """Serves gRPC over HTTP/2 by itself."""

    def __init__(self, interceptor: Interceptor, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._dispatch = Dispatch(interceptor)
        self._acceptors: list[Acceptor] = []
        self._connections: set[H2Protocol] = set()
        self._calls = 0
        self._accepting = TaskScope("h2 listeners")
        self._serving = TaskScope("h2 calls")
        self._idle = asyncio.Event()
        self._idle.set()

    def add_generic_rpc_handlers(self, handlers: Sequence[GenericHandler]) -> None:
        """Called by generated code."""
        self._dispatch.add_generic_rpc_handlers(handlers)

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """Called by generated code."""
        self._dispatch.add_registered_method_handlers(service, handlers)

    def add_tcp(self, address: str, certificates: ServerCertificates | None) -> int:
        """Binds `host:port` and returns the port. Raises OSError. Without certificates: for tests alone."""
        opened = bound_tcp(address)
        context = FollowingContext(certificates) if certificates is not None else None
        self._add(Acceptor(opened, context, self.limits, self._make, self._count))
        port: int = opened.getsockname()[1]
        return port

    def add_unix(self, path: Path) -> None:
        """Binds a unix socket. Raises OSError."""
        self._add(Acceptor(bound_unix(path), None, self.limits, self._make, self._count))

    def _add(self, acceptor: Acceptor) -> None:
        self._acceptors.append(acceptor)

    def _make(self) -> H2Protocol:
        return H2Protocol(self)

    def _count(self) -> int:
        return len(self._connections)

    async def start(self) -> None:
        """Accepts from now on."""
        for acceptor in self._acceptors:
            self._accepting.start("accept", acceptor.run(self._accepting))

    def opened(self, wire: H2Protocol) -> None:
        """A connection is ready."""
        self._connections.add(wire)

    def closed(self, wire: H2Protocol) -> None:
        """A connection is gone."""
        self._connections.discard(wire)
        self._note_idle()

    def start_call(self, call: Call) -> asyncio.Task[None]:
        """Runs a call in a task of its own."""
        self._calls += 1
        self._idle.clear()
        task = self._serving.start("call", call.run(self._serve), critical=False)
        task.add_done_callback(self._on_call_ended)
        return task

    async def _serve(self, call: Call) -> None:
        if self._calls > self.limits.calls:
            raise CallFault("RESOURCE_EXHAUSTED", "too many calls at once")
        await self._dispatch.serve(call)

    def _on_call_ended(self, _: asyncio.Task[None]) -> None:
        self._calls -= 1
        self._note_idle()

    def _note_idle(self) -> None:
        if not self._calls:
            self._idle.set()

    async def stop(self, grace: float | None) -> None:
        """No further connections and calls; open calls get `grace` seconds, then they end UNAVAILABLE."""
        for acceptor in self._acceptors:
            acceptor.close()
        await self._accepting.close()
        for wire in list(self._connections):
            wire.drain()
        if not await self._quiet(grace or 0.0):
            for wire in list(self._connections):
                wire.end_calls()
            await self._quiet(CLOSE_SECONDS)
        await self._serving.close()
        await self._hang_up()

    async def _quiet(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        return not self._calls

    async def _hang_up(self) -> None:
        """Sends what is left and closes; who does not take it is cut."""
        for wire in list(self._connections):
            wire.close()
        gone = [wire.gone.wait() for wire in self._connections]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await asyncio.gather(*gone)
        for wire in list(self._connections):
            wire.abort("the server stops")
