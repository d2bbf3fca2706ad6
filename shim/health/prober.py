"""Runs the probes that are due, so many at a time, and on demand all of them."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import Callable, Mapping

from axoneme.lib.tasks import TaskScope
from shim.health.probes import Probe
from shim.health.table import HealthTable, Target

MAX_PROBES = 64
LONGEST_NAP_SECONDS = 1.0
"""New targets wait no longer than this for a look at them."""


class Prober:
    """Takes due targets of the table and puts results into it."""

    def __init__(
        self,
        table: HealthTable,
        probes: Mapping[str, Probe],
        *,
        now: Callable[[], dt.datetime],
        clock: Callable[[], float] = time.monotonic,
        max_probes: int = MAX_PROBES,
    ) -> None:
        self.table = table
        self._probes, self._now, self._clock = probes, now, clock
        self._max_probes = max_probes
        self._room = asyncio.Semaphore(max_probes)

    async def run(self) -> None:
        """Probes until cancelled."""
        async with TaskScope("health") as scope:
            while True:
                for target in self.table.take_due():
                    scope.start(f"probe {target.address}", self._probe(target), critical=False)
                due = self.table.next_due()
                nap = LONGEST_NAP_SECONDS if due is None else due - self._clock()
                await asyncio.sleep(min(max(nap, 0.01), LONGEST_NAP_SECONDS))

    async def probe_all(self) -> None:
        """Probes every target now and returns when all have a result."""
        await asyncio.gather(*map(self._probe, self.table.targets))

    async def _probe(self, target: Target) -> None:
        async with self._room:
            outcome = await self._probes[target.kind](target.address)
        self.table.finish(target, outcome, self._now())
