"""Looks every few seconds whether all programs are where they belong, and puts them back: both on every
endpoint's interface, the node's own on its devices, with the routes of its DNS proxy.

A link lives by its pin: whoever removes the pin opens the interface in that direction, and nothing in the
kernel says so. This look is two requests to the helper, cheap enough to be much more frequent than the audit
of all maps. What was found stays in the node's problems for ten minutes, since packets may have passed
unjudged.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from axoneme.lib import log
from axoneme.lib.errors import AxonemeError
from shim.nodenetwork import NodeNetwork
from shim.workloads import Workloads

logger = logging.getLogger(__name__)

REMEMBER_SECONDS, RETRY_SECONDS = 600.0, 1.0


class LinkCheck:
    """The programs of one node and its endpoints."""

    def __init__(
        self, workloads: Workloads, network: NodeNetwork | None = None, *, clock: Callable[[], float]
    ) -> None:
        self.repairs = 0
        self._workloads = workloads
        self._network = network
        self._clock = clock
        self._found: dict[str, float] = {}  # what was taken off → when it was put back
        self._problem = ""
        self._lock = asyncio.Lock()

    async def run(self) -> list[str]:
        """One look; returns what was repaired. Raises AxonemeError when the helper cannot be asked."""
        async with self._lock:
            try:
                repaired = await self._repair_endpoints() + await self._repair_network()
            except AxonemeError as error:
                self._problem = f"the attached programs cannot be checked: {error.message}"
                raise
            self._problem = ""
        return repaired

    async def _repair_endpoints(self) -> list[str]:
        repaired = await self._workloads.attachments.repair_programs()
        self._note([f"programs off {one.interface_name} ({one.name})" for one in repaired])
        return [f"programs: {endpoint.interface_name}: missing, attached again" for endpoint in repaired]

    async def _repair_network(self) -> list[str]:
        """Before the first network there is nothing to compare with; making it is tried elsewhere."""
        if self._network is None or self._network.facts is None:
            return []
        found = await self._network.audit()
        self._note(self._network.facts.repaired)
        return found

    def _note(self, what: Sequence[str]) -> None:
        self.repairs += len(what)
        self._found.update(dict.fromkeys(what, self._clock()))
        if what:
            logger.warning("programs attached again", extra={log.COUNT: len(what), log.KEY: list(what[:10])})

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
            f"somebody took {name}; put back {now - when:.0f} s ago, until then packets may have passed"
            " unjudged; who changes the pins under bpffs, or the node's routes?"
            for name, when in sorted(self._found.items())
        ]
        return [self._problem, *found] if self._problem else found
