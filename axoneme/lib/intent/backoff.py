"""Delays between attempts: doubling bound, full jitter, so that a thousand nodes do not come back at once."""

from __future__ import annotations

from collections.abc import Callable


class Backoff:
    """Yields delays in seconds; `draw` returns a float in [0, 1)."""

    def __init__(self, draw: Callable[[], float], *, first: float = 0.2, limit: float = 30.0) -> None:
        self._draw = draw
        self._first = first
        self._limit = limit
        self._bound = first

    def next_delay(self) -> float:
        """Returns the next delay and doubles the bound."""
        delay = self._draw() * self._bound
        self._bound = min(self._bound * 2, self._limit)
        return delay

    def reset(self) -> None:
        """Starts over after a success."""
        self._bound = self._first

    def raise_to_limit(self) -> None:
        """Makes the next delay one of the longest."""
        self._bound = self._limit
