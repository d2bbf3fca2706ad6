"""One probe: an HTTP request over TCP, or an ICMP echo from an unprivileged socket. Errors in words."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from shim.health.table import HTTP, ICMP, Outcome, Target

Probe: TypeAlias = Callable[[str], Awaitable[Outcome]]
"""Asks an address; never raises for what the network does."""

TIMEOUT_SECONDS: Final = 3.0
REQUEST: Final = b"GET /hello HTTP/1.1\r\nHost: axoneme-health\r\nConnection: close\r\n\r\n"
MAX_STATUS_LINE: Final = 256
_ECHO: Final = struct.Struct("!BBHHH")  # type, code, checksum, identifier (the kernel's), sequence number
_ECHO_REQUEST: Final = {4: 8, 6: 128}
_ECHO_REPLY: Final = {4: 0, 6: 129}
NOT_PERMITTED: Final = (
    "ICMP sockets are not permitted: net.ipv4.ping_group_range does not hold the group of the shim"
)


def probes(port: int, *, timeout_seconds: float = TIMEOUT_SECONDS) -> dict[str, Probe]:
    """The probes by kind."""

    async def http(address: str) -> Outcome:
        return await _timed(_ask_http(address, port), timeout_seconds)

    async def icmp(address: str) -> Outcome:
        return await _timed(_ask_icmp(address), timeout_seconds)

    return {HTTP: http, ICMP: icmp}


async def probe(target: Target, by_kind: dict[str, Probe]) -> Outcome:
    """The outcome of one target."""
    return await by_kind[target.kind](target.address)


async def _timed(asking: Awaitable[str], timeout_seconds: float) -> Outcome:
    started = time.perf_counter()
    try:
        async with asyncio.timeout(timeout_seconds):
            error = await asking
    except TimeoutError:
        return Outcome(error=f"no answer within {timeout_seconds:g} s")
    except OSError as refused:
        return Outcome(error=_in_words(refused))
    return Outcome(seconds=time.perf_counter() - started, error=error)


async def _ask_http(address: str, port: int) -> str:
    """Why the answer is not good; empty when it is. Raises OSError."""
    reader, writer = await asyncio.open_connection(address, port, limit=MAX_STATUS_LINE)
    try:
        writer.write(REQUEST)
        await writer.drain()
        line = await reader.readuntil(b"\r\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return f"port {port} does not speak HTTP"
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    words = line.decode("ascii", "replace").split()
    if words[:1] in (["HTTP/1.1"], ["HTTP/1.0"]):
        return "" if words[1:2] == ["200"] else f"answered {' '.join(words[1:])[:64]}"
    return f"port {port} does not speak HTTP"


async def _ask_icmp(address: str) -> str:
    """Sends an echo and waits for its reply. Raises OSError; ICMP errors of the way come as such."""
    version = 6 if ":" in address else 4
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    protocol = socket.IPPROTO_ICMPV6 if version == 6 else socket.IPPROTO_ICMP
    loop = asyncio.get_running_loop()
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, protocol) as ping:
        ping.connect((address, 0))  # a datagram socket: nothing is sent, nothing to wait for
        token = os.urandom(16)
        await loop.sock_sendall(ping, _ECHO.pack(_ECHO_REQUEST[version], 0, 0, 0, 1) + token)
        while True:
            answer = await loop.sock_recv(ping, 256)
            if answer[:1] == bytes([_ECHO_REPLY[version]]) and answer[_ECHO.size :] == token:
                return ""


def _in_words(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return NOT_PERMITTED if error.errno == errno.EACCES else "a firewall of this node refused the packet"
    if isinstance(error, ConnectionRefusedError):
        return "refused: nobody listens there"
    if isinstance(error, ConnectionResetError):
        return "the other side broke the connection off"
    return error.strerror or str(error)
