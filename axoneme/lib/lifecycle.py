"""Start and stop of a process.

`main.run` enters its resources on an AsyncExitStack (started in order, stopped in reverse), then waits for
the event of `until_signalled`. SIGTERM and SIGINT set it once; a second signal leaves at once, for the
operator whose drain hangs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import AsyncIterator

from axoneme.lib import log
from axoneme.lib.tasks import TaskScope

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextlib.asynccontextmanager
async def until_signalled() -> AsyncIterator[asyncio.Event]:
    """Yields an event that the first SIGTERM or SIGINT sets; the second exits with 128 + signal."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: signal.Signals) -> None:
        if stop.is_set():
            logger.warning("second signal, leaving at once", extra={log.SIGNAL: number.name})
            os._exit(128 + number)
        logger.info("stopping", extra={log.SIGNAL: number.name})
        stop.set()

    for number in SIGNALS:
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield stop
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)


async def wait_for_end(stop: asyncio.Event, scope: TaskScope) -> int:
    """Waits for a signal or the end of a critical task and returns the exit code: 0, or 1 after a failure."""
    waits = [
        asyncio.ensure_future(stop.wait()),
        asyncio.ensure_future(scope.wait_failed()),
    ]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
    if stop.is_set():
        return 0
    logger.error("a critical task ended, stopping", extra={log.TASK: scope.failed_task})
    return 1
