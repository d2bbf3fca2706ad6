"""Wakes readers of a feed: nobody polls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Bell:
    """Wakes all who wait for news; several feeds may share one."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def ring(self) -> None:
        """Something new is there."""
        rung, self._rung = self._rung, asyncio.Event()
        rung.set()

    async def wait(self, news: Callable[[], bool], timeout_seconds: float | None = None) -> None:
        """Return once `news` says so, asked now and after each ring, or at the timeout."""
        deadline = None if timeout_seconds is None else asyncio.get_running_loop().time() + timeout_seconds
        while not news():
            rung = self._rung
            try:
                async with asyncio.timeout_at(deadline):
                    await rung.wait()
            except TimeoutError:
                return
