"""Merges the flows of many nodes into time order with a bounded buffer. Pure.

Each node sends its flows about in order; nodes differ by delay. A heap holds the newest few responses: when
it is full the oldest leaves, when nothing arrived for a while everything older than that while leaves, at
the end all do. So the order is best effort: a node that lags by more than the buffer holds comes out of
order, and nothing waits for ever. Ties keep the order of arrival.
"""

from __future__ import annotations

import heapq
from typing import Generic, TypeVar

Item = TypeVar("Item")

DEFAULT_CAPACITY = 100


def buffer_capacity(number: int, peers: int, *, longest: int = DEFAULT_CAPACITY) -> int:
    """Returns how many responses to hold back; `number` may be 2**64-1 ("all") or 0 ("no limit")."""
    wanted = number * max(peers, 1)
    return min(longest, wanted) if wanted > 0 else longest


class TimeOrder(Generic[Item]):
    """A bounded heap of items by time in nanoseconds."""

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError("capacity must be at least 1")
        self._capacity = capacity
        self._arrivals = 0
        self._heap: list[tuple[int, int, Item]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, time_ns: int, item: Item) -> list[Item]:
        """Takes an item and returns what has to leave: nothing, or the oldest one of a full buffer."""
        self._arrivals += 1
        entry = (time_ns, self._arrivals, item)
        if len(self._heap) < self._capacity:
            heapq.heappush(self._heap, entry)
            return []
        return [heapq.heappushpop(self._heap, entry)[2]]

    def pop_until(self, time_ns: int) -> list[Item]:
        """Returns, in order, everything up to a time."""
        popped = []
        while self._heap and self._heap[0][0] <= time_ns:
            popped.append(heapq.heappop(self._heap)[2])
        return popped

    def drain(self) -> list[Item]:
        """Returns all that is left, in order."""
        entries, self._heap = sorted(self._heap, key=lambda entry: entry[:2]), []
        return [item for _, _, item in entries]
