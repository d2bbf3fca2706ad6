"""The node's side of `axoneme-cni`: one JSON request a connection on `cni.sock`, root only.

    runtime ─► axoneme-cni ── cni.sock ──► CniServer ─► CniCommands ─► Workloads (as the node API)
                    └─ shim away: note in <state_directory>/cni ──► worked off at the next start

docs/cni.md has the schema; nothing here knows versions of CNI, which are the plugin's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from axoneme.lib import log
from axoneme.lib.errors import AxonemeError
from shim.cnicommands import CniCommands
from shim.cnirequests import REFUSED, TRY_AGAIN_LATER, Refused, Request, failure, failure_of

logger = logging.getLogger(__name__)

PROTOCOL_VERSION = 1
MAX_REQUEST_BYTES = 4 << 20
MAX_REQUESTS = 64
READ_SECONDS = 5.0


class CniServer:
    """Serves the plugin for one node."""

    def __init__(self, commands: CniCommands) -> None:
        self._running = 0
        self._commands: dict[str, Callable[[Request], Awaitable[dict[str, Any]]]] = {
            "ADD": commands.add,
            "DEL": commands.delete,
            "CHECK": commands.check,
            "GC": commands.collect,
            "STATUS": commands.status,
        }

    @contextlib.asynccontextmanager
    async def serving(self, path: Path) -> AsyncIterator[None]:
        """Listens on a socket of mode 0600 in a directory of mode 0700."""
        server = await asyncio.start_unix_server(self._on_connection, sock=_listener(path))
        async with server:
            yield

    # --- one connection

    async def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self._is_root(writer):
                request = await _read(reader)
                answer = json.dumps(await self.answer(request)).encode()
                writer.write(len(answer).to_bytes(4, "big") + answer)
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError) as error:
            logger.warning("CNI request not served", extra={log.ERROR: log.clip(error)})
        finally:
            writer.close()

    def _is_root(self, writer: asyncio.StreamWriter) -> bool:
        connection: socket.socket = writer.get_extra_info("socket")
        _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid != 0:
            logger.warning("CNI client refused", extra={log.CALLER: uid})
        return bool(uid == 0)

    async def answer(self, request: Request) -> dict[str, Any]:
        """The answer to a request; every expected error is one."""
        self._running += 1
        try:
            if self._running > MAX_REQUESTS:
                raise Refused(TRY_AGAIN_LATER, "too many requests of the CNI plugin at once; ask again")
            command = self._commands.get(str(request.get("command")))
            if command is None or request.get("version") != PROTOCOL_VERSION:
                raise Refused(REFUSED, "this shim does not know the plugin's request; install its own plugin")
            return {"ok": True, "endpoint": await command(request)}
        except Refused as error:
            return failure(error.code, str(error))
        except AxonemeError as error:
            return failure_of(error)
        except OSError as error:
            return failure(TRY_AGAIN_LATER, f"the kernel or the disk refused: {error}", "KERNEL_REFUSED")
        except (KeyError, TypeError, AttributeError) as error:
            return failure(REFUSED, "the plugin's request is not well formed", repr(error))
        finally:
            self._running -= 1


def _listener(path: Path) -> socket.socket:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    umask = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(umask)
    return listener


async def _read(reader: asyncio.StreamReader) -> Request:
    """One frame: four bytes of length, big-endian, and JSON. Raises ValueError for anything else."""
    async with asyncio.timeout(READ_SECONDS):
        length = int.from_bytes(await reader.readexactly(4), "big")
        if length > MAX_REQUEST_BYTES:
            raise ValueError(f"request of {length} bytes")
        request = json.loads(await reader.readexactly(length))
    if not isinstance(request, dict):
        raise ValueError("request is not an object")
    return request
