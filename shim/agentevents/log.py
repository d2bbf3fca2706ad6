"""The newest agent events and those who wait for the next one.

Events are kept as the step that builds their message: a snapshot of a large cluster brings a hundred thousand
of them, most of which nobody reads. Everything runs in the event loop's thread.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Final, NamedTuple

from axoneme.api.hubble.flow import flow_pb2
from axoneme.api.hubble.observer import observer_pb2
from shim.flows.bell import Bell

CAPACITY: Final = 16_384
EVENTS_AT_ONCE: Final = 256
"""Events after which others get a turn of the event loop, should the reader never make us wait."""
LOST: Final = "EVENTS_LOST"
FOREVER: Final = 1 << 63
Request = observer_pb2.GetAgentEventsRequest
Message = Callable[[], flow_pb2.AgentEvent]


class AgentEvent(NamedTuple):
    """One event: nanoseconds since 1970 and what builds it."""

    time_ns: int
    message: Message


class AgentEventLog:
    """The newest `capacity` events."""

    def __init__(self, capacity: int = CAPACITY, *, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._events: deque[AgentEvent] = deque(maxlen=capacity)
        self._seen = 0
        self._clock_ns = clock_ns
        self._bell = Bell()

    def __len__(self) -> int:
        return len(self._events)

    def now_ns(self) -> int:
        """The time that an event of this moment gets."""
        return self._clock_ns()

    def add(self, message: Message) -> None:
        """Something happened just now."""
        self._events.append(AgentEvent(self._clock_ns(), message))
        self._seen += 1
        self._bell.ring()

    async def events(self, request: Request) -> AsyncGenerator[AgentEvent, None]:
        """Events of a request: the newest or first `number`, in its times, then what comes if it follows.

        A follower that was overtaken gets an event that says how many it missed.
        """
        since_ns = request.since.ToNanoseconds() if request.HasField("since") else 0
        until_ns = request.until.ToNanoseconds() if request.HasField("until") else FOREVER
        position = self._seen
        for event in self._past(request, since_ns, until_ns):
            yield event
        while request.follow and self._clock_ns() <= until_ns:
            fresh, missed = self._from(position)
            position += missed + len(fresh)
            if missed:
                yield AgentEvent(self._clock_ns(), partial(lost_event, missed))
            for event in fresh:
                if since_ns <= event.time_ns <= until_ns:
                    yield event
            await self._bell.wait(partial(self._has_news, position), self._patience(until_ns))

    def _past(self, request: Request, since_ns: int, until_ns: int) -> list[AgentEvent]:
        limit = min(request.number, len(self._events))
        if request.follow and not request.number and not request.HasField("since"):
            return []
        found = [one for one in self._events if since_ns <= one.time_ns <= until_ns]
        if not request.number:
            return found
        return found[:limit] if request.first else found[len(found) - min(limit, len(found)) :]

    def _from(self, position: int) -> tuple[list[AgentEvent], int]:
        """The next events from a position on, and how many before them are gone."""
        oldest = self._seen - len(self._events)
        missed = max(0, oldest - position)
        start = position + missed - oldest
        return [self._events[at] for at in range(start, min(len(self), start + EVENTS_AT_ONCE))], missed

    def _has_news(self, position: int) -> bool:
        return self._seen > position

    def _patience(self, until_ns: int) -> float | None:
        return None if until_ns == FOREVER else max(0.0, (until_ns + 1 - self._clock_ns()) / 1e9)


def lost_event(count: int) -> flow_pb2.AgentEvent:
    """Events that a reader missed; the API has no kind of its own for them."""
    text = f"{count} agent events were overwritten before they were read"
    unknown = flow_pb2.AgentEventUnknown(type=LOST, notification=text)
    return flow_pb2.AgentEvent(type=flow_pb2.AGENT_EVENT_UNKNOWN, unknown=unknown)
