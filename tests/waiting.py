"""Waiting in tests: poll a condition with a bound, never sleep for a guessed time."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

Value = TypeVar("Value")

DEFAULT_SECONDS = 10.0
FIRST_STEP, LAST_STEP = 0.002, 0.1


async def eventually(
    condition: Callable[[], Value | Awaitable[Value]], *, seconds: float = DEFAULT_SECONDS, message: str = ""
) -> Value:
    """Returns the first true value of `condition` (plain or async); an AssertionError counts as false."""
    deadline, step = time.monotonic() + seconds, FIRST_STEP
    while True:
        value, reason = await _ask(condition)
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {message or reason or condition}")
        await asyncio.sleep(step)
        step = min(step * 2, LAST_STEP)


async def _ask(condition: Callable[[], Value | Awaitable[Value]]) -> tuple[Value | None, str]:
    try:
        answer = condition()
        return (await answer if inspect.isawaitable(answer) else answer), ""
    except AssertionError as error:
        return None, str(error)


def eventually_sync(
    condition: Callable[[], Value], *, seconds: float = DEFAULT_SECONDS, message: str = ""
) -> Value:
    """The same outside an event loop."""
    deadline, step = time.monotonic() + seconds, FIRST_STEP
    while True:
        reason = ""
        try:
            value = condition()
        except AssertionError as error:
            value, reason = None, str(error)
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {message or reason or condition}")
        time.sleep(step)
        step = min(step * 2, LAST_STEP)


class FakeClock:
    """A clock that tests move by hand; `clock()` gives seconds."""

    def __init__(self, start: float = 1_000.0) -> None:
        self.now = start
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Moves the time and wakes who slept until then."""
        self.now += seconds
        due = [sleeper for sleeper in self._sleepers if sleeper[0] <= self.now]
        self._sleepers = [sleeper for sleeper in self._sleepers if sleeper[0] > self.now]
        for _, future in sorted(due, key=lambda sleeper: sleeper[0]):
            if not future.done():
                future.set_result(None)

    async def sleep(self, seconds: float) -> None:
        """Sleeps in this clock's time."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.now + seconds, future))
        await future

    @property
    def sleepers(self) -> int:
        """Number of coroutines that sleep now."""
        return sum(not future.done() for _, future in self._sleepers)
