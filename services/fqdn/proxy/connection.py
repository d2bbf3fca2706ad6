"""One TCP connection of a client, and its own connection to the server from the client's address and port.

    client ──► down ─ frames ─► Lookups.ask ─► up ──► server     several queries at once
    client ◄── down ◄─ Lookups.take ◄─ frames ─ up ◄── server    answers in any order

Bounded: a client's queries are read while fewer than `max_pipelined` are in flight and it takes its answers;
the server is read while the client takes its answers. When the server closes, so do we; the client asks again
as it would without a proxy. Half-closed clients get what they asked for.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Final, Protocol

from services.fqdn.model import EventSink, Flow, ProxySettings
from services.fqdn.proxy import sockets
from services.fqdn.proxy.clients import Client
from services.fqdn.proxy.counters import Counters
from services.fqdn.proxy.frames import FrameReader, TooLong, framed
from services.fqdn.proxy.lookups import Lookups, Route
from services.fqdn.proxy.mishaps import Mishaps
from services.fqdn.proxy.poller import READ, WRITE, Poller

CLIENT_CHUNK: Final = 8_192  # bytes read at once
SERVER_CHUNK: Final = 65_536
HIGH_WATER: Final = 65_536  # bytes for the client above which the server is not read


class Owner(Protocol):
    """What a connection needs of its front."""

    settings: ProxySettings
    lookups: Lookups
    poller: Poller
    counters: Counters
    mishaps: Mishaps
    sink: EventSink

    def now(self) -> float: ...
    def busy(self, connection: Connection) -> None: ...
    def idle(self, connection: Connection) -> None: ...
    def gone(self, connection: Connection) -> None: ...


class Connection:
    """A client connection."""

    __slots__ = (
        "_buffered",
        "_closing",
        "_connecting",
        "_down_events",
        "_down_reader",
        "_eof",
        "_handling",
        "_owner",
        "_to_down",
        "_to_up",
        "_up",
        "_up_events",
        "_up_reader",
        "closed",
        "down",
        "local",
        "remote",
        "route",
        "stamp",
    )

    def __init__(
        self,
        owner: Owner,
        down: socket.socket,
        flow: Flow,
        client: Client,
        local: sockets.Address,
        remote: sockets.Address,
    ) -> None:
        self._owner = owner
        self.down = down
        self.route = Route(flow, client, self._reply)
        self.local, self.remote = local, remote
        self.stamp = owner.now()  # of the last whole query, or when the client had all its answers
        self.closed = False
        self._up: sockets.Socket | None = None
        self._down_reader = FrameReader(owner.settings.max_query_bytes)
        self._up_reader = FrameReader()
        self._to_down = bytearray()
        self._to_up = bytearray()
        self._connecting = False
        self._eof = False  # the client sends no more
        self._closing = False  # the server sends no more
        self._handling = False
        self._buffered = 0
        self._down_events, self._up_events = READ, 0
        owner.poller.register(down.fileno(), READ, self._on_down)

    # Events

    def _on_down(self, _: int) -> None:
        self._handle(self._read_down)

    def _on_up(self, _: int) -> None:
        self._handle(self._read_up)

    def _handle(self, read: _Read) -> None:
        """Reads, asks, writes; then says what it waits for. An unexpected exception ends the connection."""
        if self.closed:
            return
        self._handling = True
        try:
            read()
            self._ask()
            self._settle()
        except Exception as error:  # noqa: BLE001  one connection must not end the loop
            self._owner.mishaps.note("connection", error)
            self.close(reset=True)
        finally:
            self._handling = False

    def _read_down(self) -> None:
        if self._down_events & READ:
            try:
                data = self.down.recv(CLIENT_CHUNK)
            except BlockingIOError:
                return
            except OSError:
                self.close(reset=True)
                return
            self._eof = not data
            self._down_reader.feed(data)
        elif self._hung_up():
            self.close(reset=True)

    def _hung_up(self) -> bool:
        """A reset of the client, seen while it is not read."""
        return self.down.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0

    def _ask(self) -> None:
        """Asks what the client has sent, as far as the limits go."""
        owner, pending = self._owner, self.route.pending
        while not self.closed and not self._closing and not self._to_down_full():
            if len(pending) >= owner.settings.max_pipelined:
                return
            try:
                query = self._down_reader.next()
            except TooLong as error:
                owner.counters.malformed_queries += 1
                owner.sink.malformed(self.route.flow, str(error))
                self.close(reset=True)
                return
            if query is None:
                return
            self._query(query)

    def _query(self, query: bytes) -> None:
        owner = self._owner
        owner.counters.tcp_queries += 1
        self.stamp = owner.now()
        try:
            message = owner.lookups.ask(self.route, query, self.stamp)
        except Exception as error:  # noqa: BLE001  one query must not end the connection
            owner.mishaps.note("query", error)
            return
        if message is None or self.closed:
            return
        try:
            if self._up is None:
                self._connect()
        except OSError as error:
            owner.lookups.fail_one(self.route, message[:2], f"not forwarded: {error.strerror}")
            return
        self._to_up += framed(message)

    # Towards the server

    def _connect(self) -> None:
        owner = self._owner
        self._up = sockets.tcp_upstream(self.local, self.remote, owner.settings.mark)
        self._up_reader = FrameReader()
        self._connecting = True
        self._up_events = WRITE
        owner.poller.register(self._up.fileno(), WRITE, self._on_up)

    def _read_up(self) -> None:
        up = self._up
        if up is None:
            return
        try:
            if self._connecting:
                self._connected(up)
                return
            data = up.recv(SERVER_CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            self._server_failed(error)
            return
        if not data:
            self._closing = True
            self._drop_server()
            self._owner.lookups.abandon(self.route, "the server closed the connection")
            return
        self._up_reader.feed(data)
        now = self._owner.now()
        while not self.closed and (message := self._up_reader.next()) is not None:
            try:
                self._owner.lookups.take(self.route, message, now)
            except Exception as error:  # noqa: BLE001  one answer must not end the connection
                self._owner.mishaps.note("answer", error)

    def _connected(self, up: sockets.Socket) -> None:
        """Raises OSError of the connection that was not made."""
        number = up.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            raise OSError(number, os.strerror(number))
        self._connecting = False

    def _server_failed(self, error: OSError) -> None:
        """The queries are refused, but not after a timeout: their own passes by itself."""
        self._drop_server()
        if error.errno != errno.ETIMEDOUT:
            self._owner.lookups.fail(self.route, f"not forwarded: {error.strerror}")

    def _drop_server(self) -> None:
        if self._up is not None:
            self._owner.poller.forget(self._up.fileno())
            self._up.close()
        self._up = None
        self._connecting = False
        self._to_up.clear()

    # Towards the client

    def _reply(self, query: bytes, message: bytes) -> None:
        if self.closed:
            return
        self._to_down += len(message).to_bytes(2, "big") + query[:2]
        self._to_down += memoryview(message)[2:]
        if not self._handling:  # released later than it came
            self._handle(lambda: None)

    def _to_down_full(self) -> bool:
        return len(self._to_down) > HIGH_WATER

    def _settle(self) -> None:
        """Writes what it can, then waits for the right events, or ends."""
        if not self.closed:
            self._flush()
        if self.closed:
            return
        route, owner = self.route, self._owner
        if not route.pending and not route.held:
            if (self._eof or self._closing) and not self._to_down:
                self.close(reset=not self._eof)
                return
            owner.idle(self)
        else:
            owner.busy(self)
        self._account()
        if owner.counters.buffered_bytes > owner.settings.max_buffered_bytes:
            owner.counters.connections_evicted += 1
            self.close(reset=True)
            return
        self._await()

    def _flush(self) -> None:
        try:
            if self._to_down:
                del self._to_down[: self.down.send(self._to_down)]
                self.stamp = self._owner.now() if not self._to_down else self.stamp
        except BlockingIOError:
            pass
        except OSError:
            self.close(reset=True)
            return
        try:
            if self._to_up and self._up is not None and not self._connecting:
                del self._to_up[: self._up.send(self._to_up)]
        except BlockingIOError:
            pass
        except OSError as error:
            self._server_failed(error)

    def _await(self) -> None:
        poller = self._owner.poller
        full = self._to_down_full() or len(self.route.pending) >= self._owner.settings.max_pipelined
        down = 0 if self._eof or self._closing or full else READ
        down |= WRITE if self._to_down else 0
        if down != self._down_events:
            poller.modify(self.down.fileno(), down)
            self._down_events = down
        if self._up is None:
            return
        up = 0 if self._connecting or self._to_down_full() else READ
        up |= WRITE if self._connecting or self._to_up else 0
        if up != self._up_events:
            poller.modify(self._up.fileno(), up)
            self._up_events = up

    def _account(self) -> None:
        held = len(self._to_down) + len(self._to_up) + self._down_reader.held + self._up_reader.held
        self._owner.counters.buffered_bytes += held - self._buffered
        self._buffered = held

    # Time, and the end

    def tick(self, now: float) -> None:
        """Expires queries; closes who does nothing, or does not take its answers."""
        route, owner = self.route, self._owner
        owner.lookups.expire(route, now)
        if self._connecting and not route.pending:
            self._drop_server()
        stuck = bool(self._to_down)
        if now - self.stamp > owner.settings.idle_connection_seconds and (
            stuck or not (route.pending or route.held)
        ):
            owner.counters.connections_timed_out += 1
            self.close(reset=True)
            return
        self._handle(lambda: None)

    def close(self, *, reset: bool = False) -> None:
        """Ends both connections; twice is fine.

        Who ends first keeps the pair of addresses and ports for a minute (TIME_WAIT), and a client that takes
        the same port again would get no answer: so a connection that the client has not ended is reset.
        """
        if self.closed:
            return
        self.closed = True
        owner = self._owner
        self._drop_server()
        owner.poller.forget(self.down.fileno())
        if reset:
            sockets.reset_on_close(self.down)
        self.down.close()
        owner.counters.buffered_bytes -= self._buffered
        owner.lookups.forget(self.route)
        owner.gone(self)


class _Read(Protocol):
    def __call__(self) -> None: ...
