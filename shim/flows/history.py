"""What a number or an address meant at a time, without I/O.

Records are named when they are asked for, which may be long after their names changed hands. A history keeps
for each key the spans in which it had a value: the present ones without bound (their owner bounds them), of
those that ended the newest `max_ended` over all keys. Times count since boot, as in records.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Generic, NamedTuple, TypeVar

K = TypeVar("K")
V = TypeVar("V")

EVER = 0
"""The time of a statement that also holds for everything before it."""


class _Span(NamedTuple, Generic[V]):
    """A value from `since_ns` on, until just before `until_ns`."""

    since_ns: int
    until_ns: int | None
    value: V


class History(Generic[K, V]):
    """Values by key and time."""

    def __init__(self, max_ended: int) -> None:
        self._max_ended = max_ended
        self._spans: dict[K, list[_Span[V]]] = {}
        self._ended: deque[K] = deque()
        self.revision = 0
        """Grows with each change, for those who remember answers."""

    def __contains__(self, key: K) -> bool:
        return key in self._spans

    def __iter__(self) -> Iterator[K]:
        return iter(self._spans)

    def __len__(self) -> int:
        return sum(len(spans) for spans in self._spans.values())

    def put(self, key: K, value: V, since_ns: int) -> None:
        """Gives a key a value from now on; what it has already changes nothing."""
        spans = self._spans.setdefault(key, [])
        if spans:
            last = spans[-1]
            if last.until_ns is None and last.value == value:
                return
            since_ns = max(since_ns, last.since_ns, last.until_ns or 0)
            self.end(key, since_ns)
        self._spans.setdefault(key, spans).append(_Span(since_ns, None, value))
        self.revision += 1

    def end(self, key: K, at_ns: int) -> None:
        """Takes the value of a key away; ending what has none changes nothing."""
        spans = self._spans.get(key)
        if not spans or spans[-1].until_ns is not None:
            return
        last = spans[-1]
        spans[-1] = last._replace(until_ns=max(at_ns, last.since_ns))
        self.revision += 1
        self._ended.append(key)
        while len(self._ended) > self._max_ended:
            self._forget(self._ended.popleft())

    def at(self, key: K, time_ns: int | None) -> V | None:
        """The value of a key at a time; None asks for the last one that it had."""
        spans = self._spans.get(key)
        if not spans:
            return None
        if time_ns is None:
            return spans[-1].value
        index = bisect_right(spans, time_ns, key=lambda span: span.since_ns) - 1
        if index < 0:
            return None
        span = spans[index]
        return span.value if span.until_ns is None or time_ns < span.until_ns else None

    def values(self, key: K) -> Iterable[V]:
        """All values that are remembered of a key, in order of time."""
        return [span.value for span in self._spans.get(key, ())]

    def times(self, key: K, after_ns: int) -> list[int]:
        """Times after `after_ns` at which the value of a key may have changed."""
        found = []
        for since_ns, until_ns, _ in self._spans.get(key, ()):
            if since_ns > after_ns:
                found.append(since_ns)
            if until_ns is not None and until_ns > after_ns:
                found.append(until_ns)
        return found

    def _forget(self, key: K) -> None:
        """Drops the oldest span of a key, which has ended: a key's spans end in their order."""
        spans = self._spans[key]
        del spans[0]
        if not spans:
            del self._spans[key]
