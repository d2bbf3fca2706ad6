"""Tries again whatever failed, as its time comes: looks often, works seldom."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from axoneme.lib import log
from axoneme.lib.errors import AxonemeError
from shim.nodeapis import NodeApis
from shim.nodeipcache import IpcacheSink
from shim.nodeparts import NodeParts

logger = logging.getLogger(__name__)

SLOW_SECONDS = 5.0
"""Between two rounds of what may need another process or the network."""


class Maintenance:
    """Retries of one node."""

    def __init__(
        self,
        parts: NodeParts,
        apis: NodeApis,
        *,
        probe_features: Callable[[], Awaitable[None]],
        checkpoint: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self._parts, self._apis, self._clock = parts, apis, clock
        self._probe_features, self._checkpoint = probe_features, checkpoint
        self._slow_due = 0.0

    async def keep(self, interval_seconds: float) -> None:
        """Runs until cancelled; what a round raises is logged."""
        while True:
            await asyncio.sleep(interval_seconds)
            try:
                await self._retry()
                if self._clock() >= self._slow_due:
                    self._slow_due = self._clock() + SLOW_SECONDS
                    await self._maintain_slowly()
            except (AxonemeError, OSError) as error:
                logger.warning("maintenance failed", extra={log.ERROR: log.clip(error)})

    async def _retry(self) -> None:
        parts, streams = self._parts, self._parts.streams
        if self._due(parts.ipcache.reconciler.next_due()):
            parts.ipcache.reconciler.flush()
            await streams.ipcache.report_failures(IpcacheSink(parts.ipcache).failures())
        if self._due(parts.endpoint_map.reconciler.next_due()):
            parts.endpoint_map.reconciler.flush()
        if self._due(parts.node_maps.next_due()):
            parts.node_maps.flush()
        if self._due(parts.proxied_ports.next_due()):
            parts.proxied_ports.flush()
        for entries in (parts.local_endpoints, parts.endpoint_namespaces):
            if self._due(entries.reconciler.next_due()):
                entries.reconciler.flush()
        if self._due(parts.nodes.routes.next_due()):
            await parts.nodes.retry()
            await streams.nodes.report_failures(parts.nodes.failures())
        await self._retry_services()
        if await parts.policies.retry_due():
            await streams.policy.report_failures(dict(parts.policies.failures))

    async def _retry_services(self) -> None:
        balancer, stream = self._parts.balancer, self._parts.streams.services
        if self._due(balancer.next_due()):
            await balancer.retry()
        if stream is not None:
            await stream.report_failures(balancer.failures())

    async def _maintain_slowly(self) -> None:
        parts, apis = self._parts, self._apis
        made = await parts.network.retry()
        await parts.health.follow(parts.membership.node)
        if made or not apis.status.features:
            await self._probe_features()
        await apis.cni_commands.work_off_notes()
        await parts.workloads.finish_removals()
        await parts.workloads.releases.retry()
        await parts.membership.retry_declaration()
        parts.cookies.forget_unused(parts.policies.cookies_in_use)
        self._checkpoint()

    def _due(self, moment: float | None) -> bool:
        return moment is not None and moment <= self._clock()
