"""Looks every few seconds whether both programs are on every endpoint's interface, and puts them back.

A link lives by its pin: whoever removes the pin opens the interface in that direction, and nothing in the
kernel says so. This look is one request to the helper, cheap enough to be much more frequent than the audit
of all maps. What was found stays in the node's problems for ten minutes, since packets may have passed
unjudged.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from axoneme.lib import log
from axoneme.lib.errors import AxonemeError
from shim.workloads import Workloads

logger = logging.getLogger(__name__)

REMEMBER_SECONDS, RETRY_SECONDS = 600.0, 1.0


class LinkCheck:
    """The programs of one node's endpoints."""

    def __init__(self, workloads: Workloads, *, clock: Callable[[], float]) -> None:
        self.repairs = 0
        self._workloads = workloads
        self._clock = clock
        self._found: dict[str, float] = {}  # interface and workload → when its programs were put back
        self._problem = ""
        self._lock = asyncio.Lock()

    async def run(self) -> list[str]:
        """One look; returns what was repaired. Raises AxonemeError when the helper cannot be asked."""
        async with self._lock:
            try:
                repaired = await self._workloads.attachments.repair_programs()
            except AxonemeError as error:
                self._problem = f"the programs of the endpoints cannot be checked: {error.message}"
                raise
            self._problem = ""
            for endpoint in repaired:
                self._found[f"{endpoint.interface_name} ({endpoint.name})"] = self._clock()
        self.repairs += len(repaired)
        if repaired:
            names = [endpoint.interface_name for endpoint in repaired]
            logger.warning("programs attached again", extra={log.COUNT: len(names), log.KEY: names[:10]})
        return [f"programs: {endpoint.interface_name}: missing, attached again" for endpoint in repaired]

    async def keep(self, interval_seconds: float, *, sleep: Callable[[float], Awaitable[None]]) -> None:
        """Looks until cancelled; again soon when the helper could not be asked."""
        while True:
            await sleep(min(interval_seconds, RETRY_SECONDS) if self._problem else interval_seconds)
            try:
                await self.run()
            except AxonemeError as error:
                logger.warning("links not checked", extra={log.ERROR: log.clip(error)})

    def problems(self) -> list[str]:
        """What is or was wrong, in words."""
        now = self._clock()
        self._found = {key: when for key, when in self._found.items() if now - when < REMEMBER_SECONDS}
        found = [
            f"somebody took programs off {name}; they were attached again {now - when:.0f} s ago, until then"
            " packets may have passed unjudged; who changes the pins under bpffs?"
            for name, when in sorted(self._found.items())
        ]
        return [self._problem, *found] if self._problem else found
