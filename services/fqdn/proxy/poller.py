"""epoll with one handler per descriptor, level-triggered."""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Final

Handler = Callable[[int], None]  # gets the events
READ: Final = select.EPOLLIN
WRITE: Final = select.EPOLLOUT
MAX_EVENTS: Final = 256


class Poller:
    """Who is called when a descriptor is ready.

    A descriptor's number may be reused between two events of one round: a handler may be called for nothing,
    so all of them read or write without blocking and take "not now" for an answer.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self.handlers: dict[int, Handler] = {}
        self.poll = self._epoll.poll

    def register(self, descriptor: int, events: int, handler: Handler) -> None:
        self._epoll.register(descriptor, events)
        self.handlers[descriptor] = handler

    def modify(self, descriptor: int, events: int) -> None:
        self._epoll.modify(descriptor, events)

    def closing(self, descriptor: int) -> None:
        """The descriptor is closed next, and is the only one of its socket: epoll drops it by itself."""
        self.handlers.pop(descriptor, None)

    def forget(self, descriptor: int) -> None:
        """Of a descriptor that stays open, or is closed next; forgetting twice is fine."""
        if self.handlers.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def close(self) -> None:
        self.handlers.clear()
        self._epoll.close()
