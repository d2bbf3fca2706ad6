"""When a node that stopped renewing counts as gone. Pure: the time is given in.

A node gets the full grace to declare itself again, counted from the last moment at which it may have been
impossible: its expiry, the start of this service, the return of etcd, or the end of a silence in which no
node at all was heard (then the fault is more likely on our side). During a silence nobody is given up.
"""

from __future__ import annotations

from collections.abc import Collection


class Grace:
    """Clocks of the nodes that have something to declare."""

    def __init__(self, seconds: float, now: float) -> None:
        self._seconds = seconds
        self._start = now
        self._contact: float | None = None
        self._since_by_node: dict[str, float] = {}

    def interrupted(self, now: float) -> None:
        """The store, or this service, was away until now: everybody starts over."""
        self._start = now

    def heard(self, now: float) -> None:
        """Some node called or is connected."""
        if self._contact is None or now - self._contact >= self._seconds:
            self._start = now
        self._contact = now

    def due(self, unsettled: Collection[str], now: float) -> list[str]:
        """Nodes to settle now, of those that still have something to declare."""
        self._since_by_node = {name: self._since_by_node.get(name, now) for name in unsettled}
        if self._contact is None or now - self._contact >= self._seconds:
            return []
        return sorted(
            name
            for name, since in self._since_by_node.items()
            if now - max(since, self._start) >= self._seconds
        )
