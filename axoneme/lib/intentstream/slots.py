"""Bounds how many snapshots are under way: a mass reconnect must not hold a thousand of them in memory."""

from __future__ import annotations

from collections.abc import Callable


class SnapshotSlots:
    """A semaphore whose holders lose their place after a time: a slow subscriber must not hold up the
    others.
    """

    def __init__(self, count: int, *, hold_seconds: float, clock: Callable[[], float]) -> None:
        self._count = count
        self._hold_seconds = hold_seconds
        self._clock = clock
        self._since_by_holder: dict[object, float] = {}
        self._waiting: dict[object, Callable[[], None]] = {}

    def take(self, holder: object, on_free: Callable[[], None]) -> bool:
        """Returns True when the holder may go on; else `on_free` is called once a place may be free."""
        now = self._clock()
        if holder in self._since_by_holder:
            return True
        for other, since in list(self._since_by_holder.items()):
            if now - since >= self._hold_seconds:
                del self._since_by_holder[other]
        if len(self._since_by_holder) < self._count:
            self._since_by_holder[holder] = now
            self._waiting.pop(holder, None)
            return True
        self._waiting[holder] = on_free
        return False

    def release(self, holder: object) -> None:
        """Gives the place back and wakes one that waits."""
        self._waiting.pop(holder, None)
        if self._since_by_holder.pop(holder, None) is None:
            return
        for waiting, on_free in list(self._waiting.items()):
            del self._waiting[waiting]
            on_free()
            return
