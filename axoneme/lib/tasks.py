"""Guarded tasks: every background coroutine has a name, an owner and a logged end.

A `TaskScope` belongs to one `async with` block; on exit it cancels what still runs and waits for it. A
critical task that ends, in whatever way, sets `failed`, so that the process can stop instead of running half
dead; supervised restarts beat that. `create_task` is not used anywhere else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self

from axoneme.lib import log

logger = logging.getLogger(__name__)

STUCK_SECONDS = 5.0
"""After this long a task that ignores its cancellation is named in the log."""


class TaskScope:
    """Owner of background tasks."""

    def __init__(self, name: str = "tasks") -> None:
        self.name = name
        self.failed = asyncio.Event()
        self.failure: BaseException | None = None
        self.failed_task = ""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def start(
        self, name: str, coroutine: Coroutine[Any, Any, Any], *, critical: bool = True
    ) -> asyncio.Task[Any]:
        """Runs a coroutine until it ends or the scope closes. Not critical: a normal end is expected."""
        if self._closing:
            coroutine.close()
            raise RuntimeError(f"{self.name} is closing; {name} was not started")
        task = asyncio.get_running_loop().create_task(coroutine, name=f"{self.name}/{name}")
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._on_end(name, done, critical))
        return task

    def __len__(self) -> int:
        return len(self._tasks)

    async def wait_failed(self) -> None:
        """Returns when a critical task ended; `failure` has its error, if it had one."""
        await self.failed.wait()

    async def close(self) -> None:
        """Cancels all tasks and waits for each; names those that do not end."""
        self._closing = True
        pending = set(self._tasks) - {asyncio.current_task()}
        for task in pending:
            task.cancel()
        while pending:
            _, pending = await asyncio.wait(pending, timeout=STUCK_SECONDS)
            for task in pending:
                logger.warning("task does not stop", extra={log.TASK: task.get_name()})
                task.cancel()

    def _on_end(self, name: str, task: asyncio.Task[Any], critical: bool) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if self._closing and (error is None or isinstance(error, asyncio.CancelledError)):
            return
        if error is not None:
            logger.error("task failed", extra={log.TASK: name}, exc_info=error)
        elif critical:
            logger.error("task ended unexpectedly", extra={log.TASK: name})
        if critical and not self.failed.is_set():
            self.failure, self.failed_task = error, name
            self.failed.set()
