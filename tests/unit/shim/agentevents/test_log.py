"""The log of agent events: what a request gets of the past, and what a follower gets."""

from __future__ import annotations

import asyncio
from functools import partial
from itertools import accumulate
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from axoneme.api.hubble.flow import flow_pb2
from axoneme.api.hubble.observer import observer_pb2
from shim.agentevents.log import LOST, AgentEvent, AgentEventLog


class Clock:
    """A wall clock that stands where it is put."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


def numbered(number: int) -> flow_pb2.AgentEvent:
    update = flow_pb2.PolicyUpdateNotification(revision=number)
    return flow_pb2.AgentEvent(type=flow_pb2.POLICY_UPDATED, policy_update=update)


def filled(times: list[int], capacity: int = 100) -> tuple[AgentEventLog, Clock]:
    """Event n (from 1) happened at the nth time."""
    clock = Clock()
    log = AgentEventLog(capacity, clock_ns=clock)
    for number, clock.now_ns in enumerate(times, start=1):
        log.add(partial(numbered, number))
    return log, clock


def asked(**fields: Any) -> observer_pb2.GetAgentEventsRequest:
    times = {name: fields.pop(name) for name in ("since", "until") if fields.get(name) is not None}
    fields = {name: value for name, value in fields.items() if value is not None}
    request = observer_pb2.GetAgentEventsRequest(**fields)
    for name, at in times.items():
        getattr(request, name).CopyFrom(Timestamp(seconds=at // 10**9, nanos=at % 10**9))
    return request


def number_of(event: AgentEvent) -> int:
    return event.message().policy_update.revision


async def read(log: AgentEventLog, **fields: Any) -> list[int]:
    return [number_of(event) async for event in log.events(asked(**fields))]


@given(
    st.lists(st.integers(0, 3), max_size=12).map(lambda steps: list(accumulate(steps))),
    st.sampled_from([3, 100]),
    st.sampled_from([0, 1, 2, 5, 2**64 - 1]),
    st.booleans(),
    st.none() | st.integers(0, 20),
    st.none() | st.integers(0, 20),
)  # fmt: skip
def test_the_past_equals_brute_force(
    times: list[int], capacity: int, number: int, first: bool, since: int | None, until: int | None
) -> None:
    log, _ = filled(times, capacity)
    kept = list(enumerate(times, start=1))[-capacity:]
    wanted = [
        event for event, at in kept if (since is None or at >= since) and (until is None or at <= until)
    ]
    if number:
        wanted = wanted[:number] if first else wanted[-number:]
    assert asyncio.run(read(log, number=number, first=first, since=since, until=until)) == wanted


async def test_a_follower_gets_the_past_that_it_asked_for_and_what_comes() -> None:
    log, _ = filled([1, 2, 3])
    stream = log.events(asked(number=2, follow=True))
    assert [number_of(await anext(stream)) for _ in range(2)] == [2, 3]
    waiting = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    log.add(partial(numbered, 4))
    assert number_of(await waiting) == 4
    await stream.aclose()


async def test_following_without_a_number_starts_at_the_end() -> None:
    log, _ = filled([1, 2])
    stream = log.events(asked(follow=True))
    waiting = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    log.add(partial(numbered, 3))
    assert number_of(await waiting) == 3
    await stream.aclose()


async def test_a_follower_ends_at_its_end_time() -> None:
    log, clock = filled([1, 2])
    clock.now_ns = 10
    assert await read(log, follow=True, since=1, until=9) == [1, 2]


async def test_a_follower_that_was_overtaken_is_told_how_many_it_missed() -> None:
    log, _ = filled([1], capacity=4)
    stream = log.events(asked(number=1, follow=True))
    assert number_of(await anext(stream)) == 1
    for number in range(2, 12):
        log.add(partial(numbered, number))
    lost = (await anext(stream)).message()
    assert lost.type == flow_pb2.AGENT_EVENT_UNKNOWN
    assert lost.unknown.type == LOST
    assert lost.unknown.notification.startswith("6 agent events")
    assert [number_of(await anext(stream)) for _ in range(4)] == [8, 9, 10, 11]
    await stream.aclose()
