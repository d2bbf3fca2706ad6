"""UDP paths: one for each client socket and server, with the upstream socket that has the client's port.

A path's socket opens with its first forwarded query and is shared by all queries of the path; it stays for
`linger_seconds` without any. When there are too many, or descriptors run out, an idle path that was not used
for long makes room (of a few, the one unused for longest). Paths with queries in flight stay.
"""

from __future__ import annotations

import errno
import mmap
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Final

from services.fqdn.model import Flow, ProxySettings
from services.fqdn.proxy import sockets
from services.fqdn.proxy.clients import Client, Clients
from services.fqdn.proxy.lookups import Lookups, Reply, Route
from services.fqdn.proxy.mishaps import Mishaps
from services.fqdn.proxy.poller import READ, Poller

BATCH: Final = 64  # answers of one socket before others have their turn
MAX_ANSWER: Final = 65_535
CHANCES: Final = 4  # paths that are looked at to make room for one

# The client's address and the original destination, as the kernel writes them (`sockets.ends_of`).
PathKey = bytes
_Make = Callable[[Flow, str], Reply]


class Path(Route):
    """Queries of one client socket to one server."""

    __slots__ = ("local", "recv", "remote", "send", "socket", "used")

    def __init__(
        self, flow: Flow, client: Client, local: sockets.Address, remote: sockets.Address, reply: Reply
    ) -> None:
        super().__init__(flow, client, reply)
        self.local = local
        self.remote = remote
        self.used = 0.0  # monotonic seconds of the last query
        self.socket: sockets.Socket | None = None
        self.send: Callable[[bytes], int] | None = None
        self.recv: Callable[[mmap.mmap], int] | None = None


class Paths:
    """All UDP paths."""

    def __init__(
        self,
        settings: ProxySettings,
        lookups: Lookups,
        clients: Clients,
        poller: Poller,
        mishaps: Mishaps,
        clock: Callable[[], float],
    ) -> None:
        self._clock = clock
        self._settings = settings
        self._lookups = lookups
        self._counters = lookups.counters
        self._clients = clients
        self._poller = poller
        self._mishaps = mishaps
        self.by_key: OrderedDict[PathKey, Path] = OrderedDict()
        self._buffer = mmap.mmap(-1, MAX_ANSWER)  # its slices are bytes

    def add(self, key: PathKey, flow: Flow, make: _Make) -> Path:
        """A new path. Raises NoRoom."""
        if len(self.by_key) >= self._settings.max_upstreams and not self._make_room():
            raise NoRoom
        local = sockets.text_of(flow.client), flow.client_port
        remote = sockets.text_of(flow.server), flow.server_port
        path = Path(flow, self._clients.join(local[0]), local, remote, make(flow, local[0]))
        self.by_key[key] = path
        self._counters.upstreams = len(self.by_key)
        return path

    def failed(self, path: Path, identifier: bytes, error: OSError) -> None:
        """The kernel did not take a query: it is refused."""
        reason = f"not forwarded: {error.strerror}"
        if error.errno == errno.ECONNREFUSED:  # the server's port is closed: of what was sent before
            self._lookups.fail(path, reason)
        else:
            self._lookups.fail_one(path, identifier, reason)

    def open(self, path: Path) -> Callable[[bytes], int]:
        """The path's socket; its `send`. Raises OSError."""
        try:
            one = sockets.udp_upstream(path.local, path.remote, self._settings.mark)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE) or not self._make_room():
                raise
            one = sockets.udp_upstream(path.local, path.remote, self._settings.mark)
        path.socket, path.send, path.recv = one, one.send, one.recv_into
        self._counters.upstreams_opened += 1
        self._poller.register(one.fileno(), READ, partial(self._read, path))
        return one.send

    def _read(self, path: Path, _: int) -> None:
        """Takes what has come; no more than what is waited for is looked for."""
        recv, pending, take, buffer = path.recv, path.pending, self._lookups.take, self._buffer
        if recv is None:
            return
        now = self._clock()
        for _ in range(BATCH):
            try:
                message = buffer[: recv(buffer)]
            except BlockingIOError:
                return
            except OSError as error:
                self._lookups.fail(path, f"not forwarded: {error.strerror}")
                return
            try:
                take(path, message, now)
            except Exception as error:  # noqa: BLE001  one answer must not end the loop
                self._mishaps.note("answer", error)
            if not pending:
                return

    def sweep(self, now: float) -> None:
        """Expires queries, and closes what nobody uses."""
        limit = now - self._settings.linger_seconds
        for key, path in list(self.by_key.items()):
            if path.pending:
                self._lookups.expire(path, now)
            elif path.used <= limit:
                self._remove(key, path)

    def _make_room(self) -> bool:
        """Closes one idle path: of a few, the one not used for longest; else the first. False: none is."""
        idle: tuple[PathKey, Path] | None = None
        for one in list(islice(self.by_key.items(), CHANCES)):
            self.by_key.move_to_end(one[0])  # others have their turn next
            if not one[1].pending and (idle is None or one[1].used < idle[1].used):
                idle = one
        if idle is None:
            idle = next((one for one in self.by_key.items() if not one[1].pending), None)
        if idle is None:
            return False
        self._remove(*idle)
        self._counters.upstreams_evicted += 1
        return True

    def _remove(self, key: PathKey, path: Path) -> None:
        del self.by_key[key]
        self._close(path)
        self._counters.upstreams = len(self.by_key)

    def _close(self, path: Path) -> None:
        if path.socket is not None:
            self._poller.closing(path.socket.fileno())
            path.socket.close()
            path.socket = path.send = path.recv = None
        self._lookups.forget(path)
        self._clients.leave(path.client)

    def close(self) -> None:
        for path in self.by_key.values():
            self._close(path)
        self.by_key.clear()
        self._counters.upstreams = 0


class NoRoom(Exception):  # noqa: N818  named by the situation
    """Every path is in use."""
