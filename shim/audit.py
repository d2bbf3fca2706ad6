"""Compares everything in the kernel with what it should hold, repairs from desired, counts.

Runs every 60 s ± 10 %, so that the nodes of a cluster don't do it together, and on request. What differs is
drift: somebody else wrote the map, or a bug did. Entries that are known to have failed are not drift.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import random
from collections.abc import Awaitable, Callable, Sequence

from axoneme.lib import log
from axoneme.lib.errors import AxonemeError
from shim.endpointmap import EndpointMap
from shim.links import LinkCheck
from shim.maps import layout
from shim.nodeipcache import NodeIpcache
from shim.nodes import NodeSink
from shim.policies import PolicySink
from shim.workloads import Workloads

logger = logging.getLogger(__name__)


class MapAudit:
    """The audit of one node."""

    def __init__(
        self,
        *,
        ipcache: NodeIpcache,
        endpoint_map: EndpointMap,
        policies: PolicySink,
        nodes: NodeSink,
        workloads: Workloads,
        links: LinkCheck,
        now: Callable[[], dt.datetime],
        steps: Sequence[Callable[[], Awaitable[list[str]]]] = (),
    ) -> None:
        """`steps` come first, in this order: what others rest on, such as devices that routes lead to."""
        self.repairs = 0
        self.last_time: dt.datetime | None = None
        self.problem = ""
        self._ipcache = ipcache
        self._endpoint_map = endpoint_map
        self._policies = policies
        self._nodes = nodes
        self._workloads = workloads
        self._links = links
        self._now = now
        self._steps = steps
        self._lock = asyncio.Lock()

    async def run(self) -> list[str]:
        """One audit; returns what was repaired, as `map: key: what`."""
        async with self._lock:
            repairs = [f"axoneme_ipcache: {key}: {what}" for key, what in self._audit_ipcache()]
            found = self._endpoint_map.reconciler.audit(prune=self._policies.complete)
            repairs += [
                f"axoneme_ep: ifindex {layout.endpoint_key_ifindex(key)}: {what}" for key, what in found
            ]
            repairs += await self._policies.audit()
            self.problem = ""
            parts = (self._nodes.audit, self._links.run, self._workloads.attachments.repair_interfaces)
            for step in (*self._steps, *parts):
                repairs += await self._guarded(step)
            self.repairs += len(repairs)
            self.last_time = self._now()
        if repairs:
            logger.warning("drift repaired", extra={log.COUNT: len(repairs), log.KEY: repairs[:10]})
        return repairs

    async def keep(
        self, interval_seconds: float, *, rng: random.Random, sleep: Callable[[float], Awaitable[None]]
    ) -> None:
        """Audits until cancelled."""
        while True:
            await sleep(interval_seconds * rng.uniform(0.9, 1.1))
            try:
                await self.run()
            except (AxonemeError, OSError) as error:
                self.problem = f"the map audit failed: {log.clip(error)}"
                logger.warning("map audit failed", extra={log.ERROR: log.clip(error)})

    def _audit_ipcache(self) -> list[tuple[str, str]]:
        return self._ipcache.reconciler.audit(prune=self._ipcache.complete)

    async def _guarded(self, step: Callable[[], Awaitable[list[str]]]) -> list[str]:
        """Parts that need the helper must not keep the others from being audited."""
        try:
            return await step()
        except AxonemeError as error:
            self.problem = f"the map audit is incomplete: {error.message}"
            return []
