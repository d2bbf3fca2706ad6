"""Answers probes: a very small HTTP/1.1 server on the node's addresses and those of its health endpoint.

`GET /hello` is 200, everything else 404, without any content: it says that packets come here and back, and
nothing about the node. One request a connection, bounded in size, time and number.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from axoneme.lib import log
from axoneme.lib.errors import AxonemeError

logger = logging.getLogger(__name__)

HELLO: Final = b"GET /hello HTTP/1."
MAX_HEADER_BYTES: Final = 4096
MAX_SECONDS: Final = 3.0
MAX_CONNECTIONS: Final = 256

Open = Callable[[tuple[str, ...]], Awaitable[list[socket.socket]]]


class HealthResponder:
    """Listens where `follow` says; what cannot be opened is tried again with the next call."""

    def __init__(self, *, port: int, open_health: Open) -> None:
        self._port, self._open_health = port, open_health
        self._nodes: dict[str, asyncio.Server] = {}
        self._health: dict[str, asyncio.Server] = {}
        self._faults: dict[str, str] = {}
        self._busy = 0

    async def follow(self, node_ips: Iterable[str], health_ips: Iterable[str]) -> None:
        """Makes these all addresses that answer."""
        wanted = dict.fromkeys(node_ips)
        self._close(self._nodes, keep=wanted)
        for ip in wanted:
            if ip not in self._nodes:
                await self._try(ip, self._open_node(ip))
        wanted_health = tuple(dict.fromkeys(health_ips))
        if wanted_health != tuple(self._health):
            self.forget_endpoint()
            if wanted_health:
                await self._try("the health endpoint", self._open_endpoint(wanted_health))

    def forget_endpoint(self) -> None:
        """The health endpoint's namespace is another one: the next `follow` opens its sockets anew."""
        self._close(self._health, keep=())
        self._faults.pop("the health endpoint", None)

    def problems(self) -> list[str]:
        """Where nothing answers, in words."""
        return [
            f"health probes to {where} find no answer: {why}; it is tried again"
            for where, why in sorted(self._faults.items())
        ]

    def close(self) -> None:
        """Stops listening."""
        self._close(self._nodes, keep=())
        self._close(self._health, keep=())

    async def _try(self, where: str, opening: Awaitable[None]) -> None:
        try:
            await opening
        except (AxonemeError, OSError) as error:
            if self._faults.get(where) != str(error):
                logger.warning("health responder", extra={log.ADDRESS: where, log.ERROR: log.clip(error)})
            self._faults[where] = str(error)
        else:
            self._faults.pop(where, None)

    async def _open_node(self, ip: str) -> None:
        self._nodes[ip] = await self._serve(_listener(ip, self._port))

    async def _open_endpoint(self, ips: tuple[str, ...]) -> None:
        sockets = await self._open_health(ips)
        for ip, one in zip(ips, sockets, strict=False):
            self._health[ip] = await self._serve(one)

    async def _serve(self, listening: socket.socket) -> asyncio.Server:
        listening.setblocking(False)
        return await asyncio.start_server(self._answer, sock=listening, limit=MAX_HEADER_BYTES)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._busy += 1
        try:
            if self._busy <= MAX_CONNECTIONS:
                async with asyncio.timeout(MAX_SECONDS):
                    writer.write(response_to(await _header(reader)))
                    await writer.drain()
        except (OSError, TimeoutError):
            pass
        finally:
            self._busy -= 1
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _close(self, servers: dict[str, asyncio.Server], keep: Iterable[str]) -> None:
        for ip in [ip for ip in servers if ip not in keep]:
            servers.pop(ip).close()


async def _header(reader: asyncio.StreamReader) -> bytes:
    """The request up to the empty line; empty when there is none, or it is too long."""
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return b""


def response_to(header: bytes) -> bytes:
    """The whole answer to a request."""
    if not header:
        status = "400 Bad Request"
    elif header.startswith(HELLO) and header[len(HELLO) + 1 : len(HELLO) + 3] == b"\r\n":
        status = "200 OK"
    else:
        status = "404 Not Found"
    return f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()


def _listener(ip: str, port: int) -> socket.socket:
    """Raises OSError."""
    one = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_STREAM)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if one.family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind((ip, port))
        one.listen(MAX_CONNECTIONS)
    except BaseException:
        one.close()
        raise
    return one
