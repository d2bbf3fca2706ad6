"""Tells the other replicas what this one's nodes hold: one key on a lease, written when it changes.

The key goes away with the replica, at the latest when its lease ends. A store that cannot be reached is
tried again; nothing else depends on this task.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from axoneme.lib import log
from axoneme.lib.errors import StoreUnavailable
from axoneme.lib.kvstore import layout
from axoneme.lib.kvstore.port import LeaseLost, Store
from services.policy.records.progress import Progress, encode

logger = logging.getLogger(__name__)

LEASE_SECONDS: Final = 30
INTERVAL_SECONDS: Final = 1.0


class ProgressReporter:
    """The progress key of this replica."""

    def __init__(
        self,
        store: Store,
        *,
        replica: str,
        progress: Callable[[], Progress],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.key = f"{layout.POLICY_PROGRESS}{replica}"
        self._store = store
        self._progress = progress
        self._sleep = sleep
        self._lease = 0
        self._written = b""
        self._steps_since_renewal = 0

    async def run(self) -> None:
        """Report until cancelled; the key is taken away then."""
        try:
            while True:
                try:
                    await self.step()
                except LeaseLost as error:
                    self._lease, self._written = 0, b""
                    logger.warning("progress not reported", extra={log.ERROR: log.clip(error)})
                except StoreUnavailable as error:
                    self._written = b""  # it may have been written or not; the lease may well live on
                    logger.warning("progress not reported", extra={log.ERROR: log.clip(error)})
                await self._sleep(INTERVAL_SECONDS)
        finally:
            await self._leave()

    async def step(self) -> None:
        """Write what changed, and keep the lease alive. Raises StoreUnavailable or LeaseLost."""
        if not self._lease:
            self._lease, self._steps_since_renewal = await self._store.grant(LEASE_SECONDS), 0
        value = encode(self._progress())
        if value != self._written:
            await self._store.put(self.key, value, lease=self._lease)
            self._written = value
        self._steps_since_renewal += 1
        if self._steps_since_renewal * INTERVAL_SECONDS >= LEASE_SECONDS / 3:
            self._steps_since_renewal = 0
            await self._store.keep_alive(self._lease)

    async def _leave(self) -> None:
        if not self._lease:
            return
        try:
            await asyncio.wait_for(self._store.revoke(self._lease), 1.0)
        except (StoreUnavailable, LeaseLost, TimeoutError):
            return
