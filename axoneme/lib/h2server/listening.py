"""Sockets of a server: binding, accepting, handshakes with a bound on their number."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from pathlib import Path

from axoneme.lib import log
from axoneme.lib.h2server.handshake import FollowingContext
from axoneme.lib.h2server.limits import Limits
from axoneme.lib.h2server.transport import H2Protocol
from axoneme.lib.tasks import TaskScope

logger = logging.getLogger(__name__)

BACKLOG = 1_024
RETRY_SECONDS = 0.1
SHUTDOWN_SECONDS = 1.0
"""How long a client may take to answer the end of TLS."""


def bound_tcp(address: str) -> socket.socket:
    """A listening socket on `host:port`; `[::]` takes both families. Raises OSError."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    found = socket.getaddrinfo(host or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, target = found[0]
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        return _listening(opened, target)
    except OSError:
        opened.close()
        raise


def bound_unix(path: Path) -> socket.socket:
    """A listening socket at a path. Raises OSError."""
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        return _listening(opened, str(path))
    except OSError:
        opened.close()
        raise


def _listening(opened: socket.socket, target: object) -> socket.socket:
    opened.bind(target)  # type: ignore[arg-type]
    opened.listen(BACKLOG)
    opened.setblocking(False)
    return opened


class Acceptor:
    """Takes in the connections of one socket."""

    def __init__(
        self,
        opened: socket.socket,
        context: FollowingContext | None,
        limits: Limits,
        make: Callable[[], H2Protocol],
        count: Callable[[], int],
    ) -> None:
        self._socket = opened
        self._context = context
        self._limits = limits
        self._make = make
        self._count = count
        self._handshakes: dict[asyncio.Task[None], None] = {}

    async def run(self, scope: TaskScope) -> None:
        """Accepts until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, _ = await loop.sock_accept(self._socket)
            except OSError as error:
                # Such as no descriptors left: the connection waits in the backlog until some are.
                logger.warning("cannot accept", extra={log.ERROR: log.clip(error)})
                await asyncio.sleep(RETRY_SECONDS)
                continue
            self._admit(accepted, scope)

    def _admit(self, accepted: socket.socket, scope: TaskScope) -> None:
        if self._count() >= self._limits.connections:
            logger.warning("too many connections", extra={log.COUNT: self._limits.connections})
            accepted.close()
            return
        if len(self._handshakes) >= self._limits.handshakes:
            oldest = next(iter(self._handshakes))
            del self._handshakes[oldest]
            oldest.cancel()
        task = scope.start("handshake", self._shake(accepted), critical=False)
        self._handshakes[task] = None
        task.add_done_callback(lambda done: self._handshakes.pop(done, None))

    async def _shake(self, accepted: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        context = self._context.current() if self._context is not None else None
        seconds = self._limits.handshake_seconds if context is not None else None
        try:
            await loop.connect_accepted_socket(
                self._make,
                accepted,
                ssl=context,
                ssl_handshake_timeout=seconds,
                ssl_shutdown_timeout=SHUTDOWN_SECONDS if context is not None else None,
            )
        except (OSError, asyncio.CancelledError) as error:
            # A wrong or missing certificate, no TLS at all, or somebody who hung up.
            logger.debug("handshake failed", extra={log.ERROR: log.clip(error)})
            with contextlib.suppress(OSError):
                accepted.close()

    def close(self) -> None:
        """No further connections; handshakes end."""
        self._socket.close()
        for task in list(self._handshakes):
            task.cancel()
