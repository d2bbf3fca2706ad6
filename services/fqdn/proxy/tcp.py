"""TCP: who may have a connection, and which one ends when there are too many.

Above a limit the connection that has been idle for longest makes room: of the same client at the client's
limit, of all at the total. Without an idle one the new connection is reset. So a flood of silent connections
costs its sender, not its neighbours.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from functools import partial
from typing import Final

from services.fqdn.model import TCP, EventSink, Flow, ProxySettings
from services.fqdn.proxy import sockets
from services.fqdn.proxy.clients import Client, Clients
from services.fqdn.proxy.connection import Connection
from services.fqdn.proxy.lookups import Lookups
from services.fqdn.proxy.mishaps import Mishaps
from services.fqdn.proxy.poller import READ, Poller

BATCH: Final = 16  # connections before lookups have their turn
_EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class TcpFront:
    """All connections of clients."""

    def __init__(
        self,
        settings: ProxySettings,
        lookups: Lookups,
        clients: Clients,
        poller: Poller,
        mishaps: Mishaps,
        sink: EventSink,
        *,
        clock: Callable[[], float],
    ) -> None:
        self.settings = settings
        self.lookups = lookups
        self.counters = lookups.counters
        self.poller = poller
        self.mishaps = mishaps
        self.sink = sink
        self.now = clock
        self._clients = clients
        self._connections: dict[Connection, None] = {}
        self._idle: dict[Connection, None] = {}  # longest idle first
        self._listeners: list[socket.socket] = []
        self._paused: list[socket.socket] = []

    def listen(self, listener: socket.socket) -> None:
        self._listeners.append(listener)
        self.poller.register(listener.fileno(), READ, partial(self._accept, listener))

    def _accept(self, listener: socket.socket, _: int) -> None:
        for _ in range(BATCH):
            try:
                one, peer = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._pause(listener)
                    return
                continue  # this connection is gone already
            try:
                self._admit(one, peer)
            except Exception as error:  # noqa: BLE001  one connection must not end the loop
                self.mishaps.note("accept", error)
                one.close()

    def _pause(self, listener: socket.socket) -> None:
        """No descriptor is left: asking again at once would only burn time. Until the next tick."""
        self.counters.connections_refused += 1
        self.poller.forget(listener.fileno())
        self._paused.append(listener)

    def _admit(self, one: socket.socket, peer: tuple[str, int]) -> None:
        one.setblocking(False)
        client = self._clients.join(peer[0])
        if not self._has_room(client):
            self._clients.leave(client)
            self.counters.connections_refused += 1
            sockets.reset_on_close(one)
            one.close()
            return
        remote = one.getsockname()  # the original destination
        family = one.family
        flow = Flow(
            TCP, socket.inet_pton(family, peer[0]), peer[1], socket.inet_pton(family, remote[0]), remote[1]
        )
        client.connections += 1
        connection = Connection(self, one, flow, client, (peer[0], peer[1]), (remote[0], remote[1]))
        self._connections[connection] = self._idle[connection] = None
        self.counters.connections_opened += 1
        self.counters.connections = len(self._connections)

    def _has_room(self, client: Client) -> bool:
        """Makes room if it can."""
        if client.connections >= self.settings.max_connections_per_client:
            return self._evict(client)
        return len(self._connections) < self.settings.max_connections or self._evict(None)

    def _evict(self, client: Client | None) -> bool:
        for connection in self._idle:
            if client is None or connection.route.client is client:
                self.counters.connections_evicted += 1
                connection.close()
                return True
        return False

    # Called by connections

    def idle(self, connection: Connection) -> None:
        self._idle.setdefault(connection)

    def busy(self, connection: Connection) -> None:
        self._idle.pop(connection, None)

    def gone(self, connection: Connection) -> None:
        self._idle.pop(connection, None)
        if connection in self._connections:
            del self._connections[connection]
            connection.route.client.connections -= 1
            self._clients.leave(connection.route.client)
            self.counters.connections = len(self._connections)

    # Called by the loop

    def tick(self, now: float) -> None:
        """Timeouts of all connections; listens again after a pause."""
        for connection in list(self._connections):
            connection.tick(now)
        paused, self._paused = self._paused, []
        for listener in paused:
            self.poller.register(listener.fileno(), READ, partial(self._accept, listener))

    def close(self) -> None:
        for connection in list(self._connections):
            connection.close(reset=True)
        for listener in self._listeners:
            self.poller.forget(listener.fileno())
            listener.close()
