"""The socket of the privileged helper: root-only, one packet a request, one request at a time.

Who connects must have uid 0 (SO_PEERCRED) besides being able to reach a socket of mode 0600 in a directory
of mode 0700. A request that is not on the list, or not well formed, is answered with an error and logged;
it never ends the helper. Requests run one after the other in one thread, so that setns() is never seen by
another request.
"""

from __future__ import annotations

import array
import json
import logging
import os
import selectors
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from axoneme.lib import log
from axoneme.lib.errors import AxonemeError, FailedPrecondition, Unavailable
from shim.privileged import packets, protocol

logger = logging.getLogger(__name__)

MAX_CLIENTS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a request gave: plain values, and descriptors that the client gets a copy of."""

    result: dict[str, Any] = field(default_factory=dict)
    fds: Sequence[int] = ()
    close_fds: bool = True


Handler = Callable[[Any], Answer]


class HelperServer:
    """Serves requests with `handlers`, by type of request, until `stop`."""

    def __init__(self, path: Path, handlers: dict[type[protocol.Request], Handler]) -> None:
        self.path = path
        self._handlers = handlers
        self._selector = selectors.DefaultSelector()
        self._stop_reader, self._stop_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._clients: set[socket.socket] = set()
        self._listener = self._listen()

    def _listen(self) -> socket.socket:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        umask = os.umask(0o177)
        try:
            listener.bind(str(self.path))
        finally:
            os.umask(umask)
        listener.listen(MAX_CLIENTS)
        self._selector.register(listener, selectors.EVENT_READ, None)
        self._selector.register(self._stop_reader, selectors.EVENT_READ, None)
        return listener

    def stop(self) -> None:
        """Makes `run` return; safe in a signal handler."""
        os.write(self._stop_writer, b"x")

    def run(self) -> None:
        """Serves until `stop`, then removes the socket."""
        try:
            while True:
                for key, _ in self._selector.select():
                    if key.fileobj == self._stop_reader:
                        return
                    if key.fileobj is self._listener:
                        self._accept()
                    elif isinstance(key.fileobj, socket.socket):
                        self._serve(key.fileobj)
        finally:
            self._close()

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        _, uid, _ = struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid != 0 or len(self._clients) >= MAX_CLIENTS:
            logger.warning("client refused", extra={log.CALLER: uid, log.COUNT: len(self._clients)})
            client.close()
            return
        client.settimeout(5.0)
        self._clients.add(client)
        self._selector.register(client, selectors.EVENT_READ, None)

    def _serve(self, client: socket.socket) -> None:
        try:
            packet = client.recv(packets.MAX_PACKET_BYTES + 1)
            if packet:
                self._answer(client, self._perform(packet))
                return
        except OSError as error:
            logger.warning("client lost", extra={log.ERROR: log.clip(error)})
        self._selector.unregister(client)
        self._clients.discard(client)
        client.close()

    def _perform(self, packet: bytes) -> tuple[dict[str, Any], Answer]:
        """The body of the answer with its descriptors; every exception becomes an error of the vocabulary."""
        try:
            request = packets.decode(packet)
            answer = self._handlers[type(request)](request)
        except AxonemeError as error:
            logger.warning("request refused", extra={log.REASON: error.reason, log.ERROR: log.clip(error)})
            return _failure(error), Answer()
        except OSError as error:
            logger.warning("request failed", extra={log.ERROR: log.clip(error)})
            return _failure(Unavailable(str(error), reason="KERNEL_REFUSED")), Answer()
        except Exception as error:
            logger.exception("request failed unexpectedly")
            return _failure(FailedPrecondition(log.clip(error), reason="HELPER_BUG")), Answer()
        return {"ok": True, "result": answer.result}, answer

    def _answer(self, client: socket.socket, performed: tuple[dict[str, Any], Answer]) -> None:
        body, answer = performed
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", answer.fds))] if answer.fds else []
        try:
            client.sendmsg([json.dumps(body).encode()], rights)
        finally:
            for fd in answer.fds if answer.close_fds else ():
                os.close(fd)

    def _close(self) -> None:
        for client in self._clients:
            client.close()
        self._listener.close()
        self._selector.close()
        self.path.unlink(missing_ok=True)
        os.close(self._stop_reader)
        os.close(self._stop_writer)


def _failure(error: AxonemeError) -> dict[str, Any]:
    return {"ok": False, "error": {"code": error.code, "reason": error.reason, "message": error.message}}
