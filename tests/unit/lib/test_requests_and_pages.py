"""Request log and pages."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axoneme.lib.errors import InvalidArgument, NotFound
from axoneme.lib.pagination import decode_token, encode_token, page
from axoneme.lib.requests import RequestLog
from tests.waiting import FakeClock, eventually


class Counted:
    """An operation that counts its runs and waits for `go`."""

    def __init__(self) -> None:
        self.runs = 0
        self.go = asyncio.Event()
        self.go.set()
        self.error: Exception | None = None

    async def __call__(self) -> int:
        self.runs += 1
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return self.runs


async def test_same_id_gives_the_same_answer_for_ten_minutes() -> None:
    clock, operation = FakeClock(), Counted()
    log = RequestLog(clock=clock)
    assert [await log.run("ann", "Put", "1", operation) for _ in range(3)] == [1, 1, 1]
    clock.advance(599)
    assert await log.run("ann", "Put", "1", operation) == 1
    clock.advance(2)
    assert await log.run("ann", "Put", "1", operation) == 2


async def test_ids_belong_to_caller_and_method() -> None:
    log, operation = RequestLog(), Counted()
    keys = [
        ("ann", "Put", "1"),
        ("eve", "Put", "1"),
        ("ann", "Delete", "1"),
        ("ann", "Put", ""),
        ("ann", "Put", ""),
    ]
    assert [await log.run(*key, operation) for key in keys] == [1, 2, 3, 4, 5]


async def test_repeat_waits_for_the_first() -> None:
    log, operation = RequestLog(), Counted()
    operation.go.clear()
    calls = [asyncio.ensure_future(log.run("ann", "Put", "1", operation)) for _ in range(5)]
    await eventually(lambda: operation.runs == 1)
    operation.go.set()
    assert await asyncio.gather(*calls) == [1] * 5


async def test_failure_is_forgotten() -> None:
    log, operation = RequestLog(), Counted()
    operation.error = NotFound("no")
    operation.go.clear()
    calls = [asyncio.ensure_future(log.run("ann", "Put", "1", operation)) for _ in range(3)]
    await eventually(lambda: operation.runs == 1)
    operation.go.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(result, NotFound) for result in results)
    operation.error = None
    assert await log.run("ann", "Put", "1", operation) == 4


async def test_cancelled_first_lets_the_repeat_try() -> None:
    log, operation = RequestLog(), Counted()
    operation.go.clear()
    first = asyncio.ensure_future(log.run("ann", "Put", "1", operation))
    await eventually(lambda: operation.runs == 1)
    second = asyncio.ensure_future(log.run("ann", "Put", "1", operation))
    await asyncio.sleep(0)
    first.cancel()
    operation.go.set()
    assert await second == 2


async def test_other_content_and_long_ids_are_refused() -> None:
    log, operation = RequestLog(), Counted()
    await log.run("ann", "Put", "1", operation, content=b"a")
    with pytest.raises(InvalidArgument):
        await log.run("ann", "Put", "1", operation, content=b"b")
    with pytest.raises(InvalidArgument):
        await log.run("ann", "Put", "x" * 65, operation)


async def test_log_is_bounded() -> None:
    log, operation = RequestLog(max_entries=10), Counted()
    for number in range(100):
        await log.run("ann", "Put", str(number), operation)
    assert len(log) == 10


@given(
    st.sets(st.text(max_size=5), max_size=40), st.integers(1, 7), st.sets(st.text(max_size=5), max_size=10)
)
def test_pages_cover_what_stays(keys: set[str], size: int, removed: set[str]) -> None:
    """Items that exist throughout appear exactly once, though others vanish between two pages."""
    items, token, seen = sorted(keys), "", []
    while True:
        chosen, token = page(items, str, size, token)
        assert len(chosen) <= size
        seen += chosen
        items = sorted(keys - removed)
        if not token:
            break
    assert len(seen) == len(set(seen))
    assert keys - removed <= set(seen)


def test_sizes_and_tokens() -> None:
    items = [f"{number:05}" for number in range(2_000)]
    assert [len(page(items, str, size, "")[0]) for size in (0, 1, 5_000)] == [500, 1, 1_000]
    assert page([], str, 0, "") == ([], "")
    assert decode_token(encode_token("ns/ä")) == "ns/ä"
    for wrong in ("x", "====", "a2V5", "ä"):
        with pytest.raises(InvalidArgument):
            page(items, str, 0, wrong)
    with pytest.raises(InvalidArgument):
        page(items, str, -1, "")
