"""The proxy's thread: one loop around epoll.

    Proxy(...) ─ open() binds ─ run() until the stop descriptor is readable ─ close()

`wake()` and `counters` may be used from other threads; all else belongs to the thread that runs.
"""

from __future__ import annotations

import errno
import os
import select
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Final, TypeVar

from services.fqdn.model import EventSink, Judge, Learner, ProxySettings
from services.fqdn.proxy import sockets
from services.fqdn.proxy.clients import Clients
from services.fqdn.proxy.counters import Counters
from services.fqdn.proxy.lookups import Lookups
from services.fqdn.proxy.mishaps import Mishaps
from services.fqdn.proxy.paths import Paths
from services.fqdn.proxy.poller import MAX_EVENTS, READ, Poller
from services.fqdn.proxy.tcp import TcpFront
from services.fqdn.proxy.udp import Replies, UdpFront

TICK_SECONDS: Final = 0.5
HELD_SECONDS: Final = 0.005  # how often held answers are asked for, beside `wake`
_BIND_STEP_SECONDS: Final = 0.05
T = TypeVar("T")


class Stopped(Exception):  # noqa: N818  named by the situation
    """The stop descriptor became readable before the sockets were open."""


class Proxy:
    """The DNS proxy of this node."""

    def __init__(
        self,
        settings: ProxySettings,
        judge: Judge,
        learner: Learner,
        sink: EventSink,
        *,
        stop: int,
        heartbeat: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """`stop`: a descriptor (an eventfd) that is readable when the proxy should end; it stays open."""
        self.counters = Counters()
        self._settings = settings
        self._sink = sink
        self._clock = clock
        self._random_bytes = random_bytes
        self._stop = stop
        self._heartbeat = heartbeat
        self._stopping = False
        self._next_tick = 0.0
        self._stack = ExitStack()
        self._poller = Poller()
        self._stack.callback(self._poller.close)
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stack.callback(os.close, self._wake)
        self._mishaps = Mishaps(self.counters)
        self._clients = Clients()
        self._lookups = Lookups(settings, judge, learner, sink, self.counters, random_bytes=random_bytes)
        self._paths = Paths(settings, self._lookups, self._clients, self._poller, self._mishaps, clock)
        self._tcp = TcpFront(
            settings, self._lookups, self._clients, self._poller, self._mishaps, sink, clock=clock
        )
        self._udp: list[UdpFront] = []

    def open(self) -> None:
        """Binds; a port in use is tried again for `bind_seconds`. Raises OSError, or Stopped.

        Takes as many descriptors as the process may have.
        """
        sockets.raise_file_limit()
        self._stack.callback(self._paths.close)
        self._stack.callback(self._tcp.close)
        for address in self._settings.listen_addresses:
            self._open_udp((address, self._settings.port))
            self._tcp.listen(self._bound(sockets.tcp_listener, (address, self._settings.port)))
        self._poller.register(self._stop, READ, self._on_stop)
        self._poller.register(self._wake, READ, self._on_wake)

    def _open_udp(self, address: sockets.Address) -> None:
        listener = self._bound(sockets.udp_listener, address)
        self._stack.callback(listener.close)
        sender = sockets.raw_sender(sockets.family_of(address[0]), self._settings.mark)
        self._stack.callback(sender.close)
        front = UdpFront(
            listener,
            Replies(sender, self.counters, self._identification),
            self._paths,
            self._lookups,
            self._sink,
            self._mishaps,
            clock=self._clock,
            max_query_bytes=self._settings.max_query_bytes,
        )
        self._udp.append(front)
        self._poller.register(listener.fileno(), READ, front.readable)

    def _bound(self, make: Callable[[sockets.Address, int], T], address: sockets.Address) -> T:
        """Raises OSError, or Stopped."""
        limit = self._clock() + self._settings.bind_seconds
        while True:
            try:
                return make(address, self._settings.mark)
            except OSError as error:
                if error.errno != errno.EADDRINUSE or self._clock() > limit:
                    raise
            if select.select([self._stop], [], [], _BIND_STEP_SECONDS)[0]:
                raise Stopped
            self._heartbeat()

    def _identification(self) -> int:
        return int.from_bytes(self._random_bytes(2), "big") | 1

    def run(self) -> None:
        """Serves until the stop descriptor is readable."""
        poll, handlers, clock = self._poller.poll, self._poller.handlers, self._clock
        while not self._stopping:
            held = self._lookups.waiting
            for descriptor, events in poll(self._timeout(held), MAX_EVENTS):
                try:
                    if handler := handlers.get(descriptor):
                        handler(events)
                except Exception as error:  # noqa: BLE001  a bug is counted; lookups go on
                    self._mishaps.note("event", error)
            now = clock()
            if held:
                self._guarded("release", partial(self._lookups.release, now))
            if now >= self._next_tick:
                self._next_tick = now + TICK_SECONDS
                self._tick(now)

    def _timeout(self, held: bool) -> float:
        left = self._next_tick - self._clock()
        return max(0.0, min(left, HELD_SECONDS) if held else left)

    def _guarded(self, where: str, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001  a bug is counted; lookups go on
            self._mishaps.note(where, error)

    def _tick(self, now: float) -> None:
        self._guarded("heartbeat", self._heartbeat)
        self._guarded("paths", partial(self._paths.sweep, now))
        self._guarded("connections", partial(self._tcp.tick, now))
        self._guarded("release", partial(self._lookups.release, now))
        self._guarded("drops", self._count_drops)

    def _count_drops(self) -> None:
        self.counters.listener_drops = sum(sockets.drops(one.listener) for one in self._udp)

    def _on_stop(self, _: int) -> None:
        self._stopping = True

    def _on_wake(self, _: int) -> None:
        os.eventfd_read(self._wake)
        self._lookups.release(self._clock())

    def wake(self) -> None:
        """Asks the learner soon what may be released. From any thread, until `close`."""
        os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """Resets connections, closes all sockets."""
        self._stack.close()
