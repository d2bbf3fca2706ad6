"""One connection on the event loop: feeds `Connection`, sends what it has, asks whether the client is alive.

All that handlers write in one turn of the loop leaves in one write. While the socket does not take more,
nothing is taken out of the streams' buffers, so a connection holds a bounded number of bytes.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from typing import Protocol

from axoneme.lib import log
from axoneme.lib.h2server.call import STOPPING, Call
from axoneme.lib.h2server.connection import Connection
from axoneme.lib.h2server.faults import ConnectionFault, ErrorCode
from axoneme.lib.h2server.limits import Limits
from axoneme.lib.h2server.peer import auth_context, peer_name
from axoneme.lib.h2server.requesthead import RequestHead
from axoneme.lib.h2server.stream import Stream, StreamListener

logger = logging.getLogger(__name__)


class Host(Protocol):
    """The server that a connection belongs to."""

    limits: Limits

    def opened(self, wire: H2Protocol) -> None:
        """The connection is ready."""

    def closed(self, wire: H2Protocol) -> None:
        """The connection is gone."""

    def start_call(self, call: Call) -> asyncio.Task[None]:
        """Runs a call."""


class H2Protocol(asyncio.Protocol):
    """Transport side of one connection."""

    connection: Connection

    def __init__(self, host: Host) -> None:
        self.peer = ""
        self.auth_context: dict[str, list[bytes]] = {}
        self.calls: set[Call] = set()
        self.gone = asyncio.Event()
        self._host = host
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._paused = self._scheduled = self._closing = False
        self._heard = self._opened = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """After the handshake; a client that does not speak HTTP/2 by ALPN is not served."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._heard = self._opened = time.monotonic()
        self.connection = Connection(self._host.limits, self._start, self._opened)
        self._host.opened(self)
        wrapped = transport.get_extra_info("ssl_object")
        if isinstance(wrapped, ssl.SSLObject):
            if wrapped.selected_alpn_protocol() != "h2":
                self._fail(ConnectionFault(ErrorCode.HTTP_1_1_REQUIRED, "no h2 by ALPN"))
                return
            self.auth_context = auth_context(wrapped)
        self.peer = peer_name(transport)
        self._timer = self._loop.call_later(self._host.limits.handshake_seconds, self._on_timer)
        self.schedule()

    def data_received(self, data: bytes) -> None:
        """Bytes of the client."""
        if self._closing:
            return
        self._heard = time.monotonic()
        try:
            self.connection.receive(data, self._heard)
        except ConnectionFault as fault:
            self._fail(fault)
            return
        if self.connection.outbox.pending:
            self.schedule()

    def eof_received(self) -> bool:
        """The client ended its side; no call can be answered over half a connection of TLS."""
        return False

    def connection_lost(self, _: Exception | None) -> None:
        """Ends all calls."""
        self._closing = True
        self.gone.set()
        if self._timer is not None:
            self._timer.cancel()
        for call in list(self.calls):
            call.on_reset()
        if hasattr(self, "connection"):
            self.connection.streams.clear()
        self._host.closed(self)

    def pause_writing(self) -> None:
        """The socket does not take more."""
        self._paused = True

    def resume_writing(self) -> None:
        """It does again."""
        self._paused = False
        self.schedule()

    def schedule(self) -> None:
        """Sends at the end of this turn of the event loop."""
        if not self._scheduled and not self._paused and not self._closing:
            self._scheduled = True
            self._loop.call_soon(self._on_turn)

    def _on_turn(self) -> None:
        self._scheduled = False
        self.flush()
        if self.connection.outbox.pending:
            self.schedule()

    def flush(self) -> None:
        """Sends now what may be sent."""
        if self._paused or self._closing or self._transport is None:
            return
        data = self.connection.flush()
        if data:
            self._transport.write(data)

    def _start(self, stream: Stream, head: RequestHead) -> StreamListener:
        call = Call(self, stream, head, self._host.limits)
        self.calls.add(call)
        call.task = self._host.start_call(call)
        call.task.add_done_callback(lambda _: self._on_call_ended(call))
        return call

    def _on_call_ended(self, call: Call) -> None:
        self.calls.discard(call)
        self.connection.call_ended()
        if not call.over:
            call.abandon()

    def _on_timer(self) -> None:
        """Asks a silent client; one that says nothing at all, or does not answer, is cut."""
        limits, now = self._host.limits, time.monotonic()
        if not self.connection.settled:
            self.abort("the client did not speak HTTP/2 in time")
            return
        silent = now - self._heard
        if self.connection.pinged and silent >= limits.keepalive_timeout_seconds:
            self.abort("the client does not answer")
            return
        wait = limits.keepalive_seconds - silent
        if wait <= 0:
            self.connection.ping()
            self.schedule()
            wait = limits.keepalive_timeout_seconds
            self._heard = now
        self._timer = self._loop.call_later(wait, self._on_timer)

    def _fail(self, fault: ConnectionFault) -> None:
        """Says what was wrong and closes."""
        logger.info("connection refused", extra={log.PEER: self.peer, log.REASON: fault.text})
        if self._transport is not None:
            if not self._paused:
                self._transport.write(self.connection.last_words(fault))
            self._shut()

    def _shut(self) -> None:
        """Closes; a client that does not read the rest is not waited for."""
        self._closing = True
        for call in list(self.calls):
            call.on_reset()
        if self._transport is not None:
            self._transport.close()
            self._loop.call_later(self._host.limits.keepalive_timeout_seconds, self._transport.abort)

    def abort(self, reason: str) -> None:
        """Cuts the connection."""
        logger.info("connection cut", extra={log.PEER: self.peer, log.REASON: reason})
        self._closing = True
        if self._transport is not None:
            self._transport.abort()

    def drain(self) -> None:
        """No further calls on this connection."""
        self.connection.drain()
        self.schedule()

    def end_calls(self) -> None:
        """Ends all calls with UNAVAILABLE."""
        for call in list(self.calls):
            call.on_fault(STOPPING)

    def close(self) -> None:
        """Sends the rest and closes."""
        self.flush()
        self._shut()
