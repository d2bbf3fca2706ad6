"""Writes events in a thread of its own, so that neither a disk nor JSON ever holds the event loop.

The queue is bounded. An event that finds no room, or that the disk refuses, is counted, and the count is
written as lost events before the next one that gets through: who reads the file knows what is missing.

    event loop ─ put ─► queue ─► thread: mask, JSON, rotation ─► file
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from axoneme.api.hubble.flow import flow_pb2
from axoneme.api.hubble.observer import observer_pb2
from axoneme.lib import log
from shim.hubble.export.eventjson import event_line
from shim.hubble.export.rotation import RotatedFile

logger = logging.getLogger(__name__)

CAPACITY: Final = 4_096
BATCH: Final = 128
RETRY_SECONDS: Final = 1.0
STOP_SECONDS: Final = 5.0
Make = Callable[[], Message]
"""Builds an event; called in the thread."""


class _Item(NamedTuple):
    """An event of the queue, and how many events would be missing without it."""

    make: Make
    stands_for: int
    counted: bool = False
    """Whether these were counted as lost already: the event says so."""


@dataclass(slots=True)
class Lost:
    """Events that were lost, since something was written last."""

    count: int = 0
    first_ns: int = 0
    last_ns: int = 0

    def add(self, count: int, now_ns: int) -> None:
        """Count more."""
        self.first_ns = self.first_ns if self.count else now_ns
        self.last_ns = now_ns
        self.count += count

    def event(self, node_name: str) -> observer_pb2.ExportEvent:
        """As a line of the file says it."""
        last = _timestamp(self.last_ns)
        lost = flow_pb2.LostEvent(
            source=flow_pb2.OBSERVER_EVENTS_QUEUE,
            num_events_lost=self.count,
            first=_timestamp(self.first_ns),
            last=last,
        )
        return observer_pb2.ExportEvent(lost_events=lost, node_name=node_name, time=last)


class EventWriter:
    """A queue, and a thread that empties it into a file."""

    def __init__(
        self,
        file: RotatedFile,
        *,
        node_name: str,
        capacity: int = CAPACITY,
        clock_ns: Callable[[], int] = time.time_ns,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        self._file, self._node_name = file, node_name
        self._capacity, self._clock_ns, self._retry_seconds = capacity, clock_ns, retry_seconds
        self._changed = threading.Condition()
        self._queue: deque[_Item] = deque()
        self._refused = Lost()
        self._failed = Lost()
        self._stopping = False
        self.written = 0
        """Lines in the file, but for those about losses of this queue."""
        self.lost = 0
        """Events that are not in the file, and never will be."""
        self.problem = ""
        """Why the file cannot be written, in words."""
        self._thread = threading.Thread(target=self._run, name="flow export", daemon=True)
        self._thread.start()

    def put(self, make: Make, count: int = 1) -> bool:
        """Queue an event; never waits. False when there was no room: that many events are lost."""
        with self._changed:
            if len(self._queue) >= self._capacity or self._stopping:
                self._refused.add(count, self._clock_ns())
                self.lost += count
                return False
            self._queue_refused()
            self._queue.append(_Item(make, count))
            self._changed.notify()
            return True

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Write what is queued, as far as the time allows, and end."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(seconds)

    def _queue_refused(self) -> None:
        """What found no room is told before what comes next."""
        if self._refused.count:
            lost, self._refused = self._refused, Lost()
            self._queue.append(self._loss(lost))

    def _loss(self, lost: Lost) -> _Item:
        return _Item(partial(lost.event, self._node_name), lost.count, counted=True)

    def _run(self) -> None:
        while batch := self._next():
            if self._failed.count:
                lost, self._failed = self._failed, Lost()
                batch.insert(0, self._loss(lost))
            if not self._write(batch):
                with self._changed:
                    self._changed.wait_for(lambda: self._stopping, self._retry_seconds)
        self._file.close()

    def _next(self) -> list[_Item]:
        """The next events; none when there will be none."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._queue) or self._stopping)
            if not self._queue:
                self._queue_refused()
            return [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]

    def _write(self, batch: list[_Item]) -> bool:
        """Write events; what cannot be written is counted. False when the file cannot be written at all."""
        lines, done, problem = [], 0, ""
        try:
            lines = [event_line(item.make()) for item in batch]
            done = self._file.write(lines)
        except OSError as error:
            problem = error.strerror or str(error)
        except (TypeError, ValueError) as error:  # of an event that cannot be told as JSON
            problem = f"no JSON: {error}"
        self._tell(problem)
        self.written += sum(not item.counted for item in batch[:done])
        for item in batch[done:]:
            self._failed.add(item.stands_for, self._clock_ns())
            if not item.counted:
                with self._changed:
                    self.lost += item.stands_for
        return not problem

    def _tell(self, problem: str) -> None:
        if problem != self.problem:
            self.problem = problem
            level = logging.WARNING if problem else logging.INFO
            logger.log(level, "flow export", extra={log.ERROR: log.clip(problem or "works again")})


def _timestamp(time_ns: int) -> Timestamp:
    return Timestamp(seconds=time_ns // 1_000_000_000, nanos=time_ns % 1_000_000_000)
