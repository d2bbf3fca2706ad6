"""Going on with a stream of flows where it broke off: what to ask for again, and what was seen already.

Relays sort flows only roughly, so a new stream begins a little before the newest flow that came and what was
shown is left out by its content. Pure: times are nanoseconds since 1970.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Final

MARGIN_NS: Final = 5 * 10**9
MOST_KEYS: Final = 500_000


class Resumption:
    """What a follower has seen of late."""

    def __init__(self, start_ns: int, *, margin_ns: int = MARGIN_NS, most: int = MOST_KEYS) -> None:
        """`start_ns` is where a new stream begins while nothing came; `most` bounds the memory."""
        self._start_ns = start_ns
        self._margin_ns = margin_ns
        self._most = most
        self._newest_ns = 0
        self._floor_ns = 0
        self._recent: deque[tuple[int, int]] = deque()
        self._again: Counter[int] = Counter()

    def take(self, time_ns: int, key: int) -> bool:
        """Whether an item is new; equal items that came twice before are left out twice."""
        if self._again:
            if self._again.get(key):
                self._again[key] -= 1
                return False
            if time_ns > self._newest_ns + self._margin_ns:
                self._again.clear()
        self._newest_ns = max(self._newest_ns, time_ns)
        if 0 < time_ns < self._start_ns:  # what came by number, or a clock behind ours
            self._start_ns = time_ns
        self._recent.append((time_ns, key))
        self._forget()
        return True

    def since_ns(self) -> int:
        """From where a new stream has to begin."""
        if not self._newest_ns:
            return self._start_ns
        return max(self._newest_ns - self._margin_ns, self._floor_ns, self._start_ns)

    def restart(self) -> int:
        """A new stream begins: `since_ns`, and from now on what it repeats is left out."""
        since_ns = self.since_ns()
        self._again = Counter(key for time_ns, key in self._recent if time_ns >= since_ns)
        return since_ns

    def _forget(self) -> None:
        oldest_ns = self._newest_ns - self._margin_ns
        while self._recent and self._recent[0][0] < oldest_ns:
            self._recent.popleft()
        while len(self._recent) > self._most:
            time_ns, _ = self._recent.popleft()
            self._floor_ns = max(self._floor_ns, time_ns + 1)
