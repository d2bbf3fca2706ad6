"""Answers by request id: a repeated write gets the answer of the first, for 10 minutes.

One log per service process. Callers do not see each other's ids: the key is (caller, method, request id). A
repeat that arrives while the first still runs waits for it; a failed first run is forgotten, so that the
repeat tries again. The same id with other content is a mistake of the client and refused.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

from axoneme.lib.errors import InvalidArgument

KEEP_SECONDS = 600.0
MAX_ENTRIES = 10_000
MAX_ID_CHARACTERS = 64

Answer = TypeVar("Answer")
Key = tuple[str, str, str]


@dataclass(slots=True)
class _Entry:
    content: Hashable
    start_seconds: float
    answer: asyncio.Future[Any]


class RequestLog:
    """Remembers answers; bounded by age and number, oldest out first."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        keep_seconds: float = KEEP_SECONDS,
        max_entries: int = MAX_ENTRIES,
    ) -> None:
        self._clock = clock
        self._keep_seconds = keep_seconds
        self._max_entries = max_entries
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    async def run(
        self,
        caller: object,
        method: str,
        request_id: str,
        operation: Callable[[], Awaitable[Answer]],
        *,
        content: Hashable = None,
    ) -> Answer:
        """Runs `operation` once per id. `content` identifies the request, such as its serialized bytes.

        An empty id always runs. Raises InvalidArgument for a long id or one that was used with other content.
        """
        if not request_id:
            return await operation()
        if len(request_id) > MAX_ID_CHARACTERS:
            raise InvalidArgument.of_field("request_id", f"longer than {MAX_ID_CHARACTERS} characters")
        self._expire()
        key = (str(caller), method, request_id)
        while (entry := self._entries.get(key)) is not None:
            if entry.content != content:
                raise InvalidArgument.of_field("request_id", "was used for another request; take a new id")
            await asyncio.wait([entry.answer])
            if not entry.answer.cancelled() and entry.answer.exception() is None:
                answer: Answer = entry.answer.result()
                return answer
        return await self._first(key, content, operation)

    async def _first(self, key: Key, content: Hashable, operation: Callable[[], Awaitable[Answer]]) -> Answer:
        entry = _Entry(content, self._clock(), asyncio.get_running_loop().create_future())
        self._entries[key] = entry
        try:
            answer = await operation()
        except BaseException:
            # Forgotten before the waiters wake, so that one of them becomes the next first.
            if self._entries.get(key) is entry:
                del self._entries[key]
            entry.answer.cancel()
            raise
        entry.answer.set_result(answer)
        return answer

    def _expire(self) -> None:
        oldest_seconds = self._clock() - self._keep_seconds
        while self._entries:
            key, entry = next(iter(self._entries.items()))
            full = len(self._entries) >= self._max_entries
            if not full and entry.start_seconds > oldest_seconds:
                return
            del self._entries[key]
