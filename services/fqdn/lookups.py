"""Messages as the proxy sees them, to whoever watches: the hot loop puts in, readers take out in their time.

A reader has a queue of its own. When it is full the oldest goes, and the reader is told exactly how many it
lost. Without readers a message costs a count.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from axoneme.lib.dns.wire import Answer, Question
from services.fqdn.model import Flow, Ruling, Verdict

MAX_QUEUED: Final = 8_192
MAX_BATCH: Final = 256


class Seen(NamedTuple):
    """A query, or with `answer` a response; times in ns of the wall clock."""

    time_ns: int
    flow: Flow
    ruling: Ruling
    question: Question
    answer: Answer | None
    latency_ns: int
    verdict: Verdict
    error: str


class LookupReader:
    """One watcher's queue. The hot loop puts in and drops; everything else is its owner's."""

    def __init__(self, wake: Callable[[], None], limit: int = MAX_QUEUED) -> None:
        self._queue: deque[Seen] = deque()
        self._limit = limit
        self._wake = wake
        self._awake = False
        self._lost = 0
        self._told = 0

    def put(self, seen: Seen) -> None:
        """From the hot loop: never waits, wakes once until the next `take`."""
        if len(self._queue) >= self._limit:
            try:
                self._queue.popleft()
                self._lost += 1
            except IndexError:  # the owner took the last one meanwhile
                pass
        self._queue.append(seen)
        if not self._awake:
            self._awake = True
            self._wake()

    def take(self, limit: int = MAX_BATCH) -> tuple[list[Seen], int]:
        """The oldest messages, and how many were lost since the last call."""
        self._awake = False  # before the queue is read: what comes after that wakes again
        found: list[Seen] = []
        while len(found) < limit:
            try:
                found.append(self._queue.popleft())
            except IndexError:
                break
        lost = self._lost
        told, self._told = lost - self._told, lost
        return found, told

    def __len__(self) -> int:
        return len(self._queue)


class LookupFeed:
    """`EventSink` of the hot loop, which alone counts here: queries by what became of them."""

    def __init__(self, *, wall_ns: Callable[[], int] = time.time_ns) -> None:
        self._readers: tuple[LookupReader, ...] = ()
        self._wall_ns = wall_ns
        self._queries = [0] * (max(Verdict) + 1)
        self.watched = False
        self.unseen = 0
        self.malformed_count = 0

    def open(self, wake: Callable[[], None], limit: int = MAX_QUEUED) -> LookupReader:
        """A new reader; `wake` is called in the hot loop's thread."""
        reader = LookupReader(wake, limit)
        self._readers = (*self._readers, reader)
        self.watched = True
        return reader

    def close(self, reader: LookupReader) -> None:
        """Ends a reader."""
        self._readers = tuple(one for one in self._readers if one is not reader)
        self.watched = bool(self._readers)

    @property
    def queries(self) -> dict[Verdict, int]:
        """Queries by what became of them."""
        found = {verdict: self._queries[verdict] for verdict in Verdict}
        found[Verdict.FORWARDED] += self.unseen
        return found

    def request(self, flow: Flow, ruling: Ruling, question: Question, verdict: Verdict, error: str) -> None:
        """See `model.EventSink`."""
        self._queries[verdict] += 1
        if self._readers:
            self._put(Seen(self._wall_ns(), flow, ruling, question, None, 0, verdict, error))

    def response(
        self,
        flow: Flow,
        ruling: Ruling,
        question: Question,
        answer: Answer,
        latency_ns: int,
        verdict: Verdict,
        error: str,
    ) -> None:
        """See `model.EventSink`."""
        if self._readers:
            self._put(Seen(self._wall_ns(), flow, ruling, question, answer, latency_ns, verdict, error))

    def malformed(self, flow: Flow, error: str) -> None:  # noqa: ARG002 - bytes of nobody's question
        """See `model.EventSink`."""
        self.malformed_count += 1

    def _put(self, seen: Seen) -> None:
        for reader in self._readers:
            reader.put(seen)
