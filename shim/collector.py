"""Removes connections and translations whose time is over, so that their maps hold what lives.

The maps are LRU and would make room by themselves, but only when they are full, and then also of entries that
live. An entry may come to life again between the look and its removal, so it is looked at once more right
before; the kernel offers no removal on a condition. What is left is the time of one system call, for a
connection that had been silent for its whole lifetime.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from axoneme.lib import log
from axoneme.lib.bpf.errors import BpfError
from axoneme.lib.bpf.maps import BpfMap
from shim.lifetimes import Lifetimes
from shim.maps import layout, lb

logger = logging.getLogger(__name__)

MARGIN_NS = 5_000_000_000  # renewals are written once a second; leave the ones at the edge alone
LeftNs = Callable[[bytes, bytes, int], int]


@dataclass(slots=True)
class Collected:
    """Totals since the start."""

    connections: int = 0
    translations: int = 0


class Collector:
    """The garbage collection of one node."""

    def __init__(
        self,
        connections: BpfMap,
        translations: BpfMap,
        *,
        lifetimes: Lifetimes | None = None,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.collected = Collected()
        self._connections, self._translations = connections, translations
        self._lifetimes = lifetimes or Lifetimes()
        self._now_ns = now_ns

    def run(self) -> tuple[int, int]:
        """One collection; how many connections and translations went. Blocks: call it in a thread."""
        gone = (
            self._sweep(self._connections, self._connection_left),
            self._sweep(self._translations, self._translation_left),
        )
        self.collected.connections += gone[0]
        self.collected.translations += gone[1]
        return gone

    async def keep(
        self, interval_seconds: float, *, rng: random.Random, sleep: Callable[[float], Awaitable[None]]
    ) -> None:
        """Collects until cancelled."""
        while True:
            await sleep(interval_seconds * rng.uniform(0.9, 1.1))
            try:
                connections, translations = await asyncio.to_thread(self.run)
            except (BpfError, OSError) as error:
                logger.warning("collection failed", extra={log.ERROR: log.clip(error)})
                continue
            if connections or translations:
                logger.debug("collected", extra={log.COUNT: connections + translations})

    def _sweep(self, bpf_map: BpfMap, left: LeftNs) -> int:
        now = self._now_ns()
        return sum(
            self._remove(bpf_map, key, left)
            for key, value in bpf_map.items()
            if left(key, value, now) < -MARGIN_NS
        )

    def _remove(self, bpf_map: BpfMap, key: bytes, left: LeftNs) -> bool:
        value = bpf_map.lookup(key)
        if value is None or left(key, value, self._now_ns()) >= 0:
            return False
        return bpf_map.delete(key)

    def _connection_left(self, key: bytes, value: bytes, now_ns: int) -> int:
        return self._lifetimes.connection_left_ns(
            layout.CtKey.unpack(key), layout.CtEntry.unpack(value), now_ns
        )

    def _translation_left(self, key: bytes, value: bytes, now_ns: int) -> int:
        return self._lifetimes.translation_left_ns(lb.NatKey.unpack(key), lb.NatEntry.unpack(value), now_ns)
