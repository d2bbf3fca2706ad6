"""The shim's end of the helper's socket: blocking calls, one at a time, reconnecting when the helper was
restarted."""

from __future__ import annotations

import json
import os
import socket
import threading
from pathlib import Path
from typing import Any

from axoneme.lib.errors import Unavailable, error_type
from shim.privileged import packets, protocol

TIMEOUT_SECONDS = 30.0
MAX_FDS = 8


class HelperClient:
    """Sends requests to the helper. Safe to call from several threads."""

    def __init__(self, path: Path, *, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self._path = path
        self._timeout_seconds = timeout_seconds
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None

    def call(self, request: protocol.Request) -> dict[str, Any]:
        """The result of a request without descriptors. Raises what the helper answered, or Unavailable."""
        result, fds = self.call_with_fds(request)
        for fd in fds:
            os.close(fd)
        return result

    def call_with_fds(self, request: protocol.Request) -> tuple[dict[str, Any], list[int]]:
        """The result with the descriptors that came along; the caller owns them."""
        with self._lock:
            packet, fds = self._exchange(packets.encode(request))
        body = json.loads(packet)
        if body["ok"]:
            return body["result"], fds
        error = body["error"]
        raise error_type(error["code"], error["reason"])(error["message"], reason=error["reason"])

    def close(self) -> None:
        """Closes the connection; a later call opens another."""
        with self._lock:
            self._drop()

    def _exchange(self, packet: bytes) -> tuple[bytes, list[int]]:
        """One request and its answer. A connection that the helper's restart broke is opened again, once."""
        for fresh in (False, True):
            connected = self._socket is None
            try:
                return self._send(packet)
            except (ConnectionError, FileNotFoundError) as error:
                self._drop()
                if fresh or connected:
                    raise self._gone(error) from error
            except OSError as error:
                self._drop()
                raise self._gone(error) from error
        raise AssertionError("the loop returns or raises")

    def _send(self, packet: bytes) -> tuple[bytes, list[int]]:
        if self._socket is None:
            connecting = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
            connecting.settimeout(self._timeout_seconds)
            try:
                connecting.connect(str(self._path))
            except OSError:
                connecting.close()
                raise
            self._socket = connecting
        self._socket.sendall(packet)
        answer, fds, _, _ = socket.recv_fds(self._socket, packets.MAX_PACKET_BYTES, MAX_FDS)
        if not answer:
            raise ConnectionResetError("the helper closed the connection")
        return answer, fds

    def _drop(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _gone(self, error: OSError) -> Unavailable:
        return Unavailable(
            f"the privileged helper at {self._path} does not answer ({error}); is `axoneme node serve` up?",
            reason="HELPER_UNAVAILABLE",
        )
