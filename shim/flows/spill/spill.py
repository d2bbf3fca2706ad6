"""Writes flows to disk as they come, and reads those of earlier lives into a store of their own.

The event loop asks for names, as of the flows' times, some thousand records at a time; files are written and
read in a thread. What a crash loses are the flows of the last seconds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import numpy as np

from axoneme.lib import log
from shim.flows.decode import FlowDecoder
from shim.flows.feed import FlowFeed
from shim.flows.lanes import Source
from shim.flows.spill.blocks import Block, encoded
from shim.flows.spill.context import RestoredNames
from shim.flows.spill.names import statements_of
from shim.flows.spill.options import SpillOptions
from shim.flows.spill.segments import Segments
from shim.flows.store import FlowStore

logger = logging.getLogger(__name__)

BLOCK_RECORDS: Final = 4_096
FLUSH_SECONDS: Final = 2.0
MAX_RESTORED: Final = 1 << 18


class FlowSpill:
    """The flows of one feed on disk, and those of earlier lives as a source of answers."""

    def __init__(
        self, options: SpillOptions, feed: FlowFeed, decoder: FlowDecoder, *, uuid_salt: int
    ) -> None:
        """Take the feed to write, what names its records, and 64 random bits for flows of earlier lives."""
        self._segments = Segments(options.directory, options.max_bytes)
        self._feed, self._decoder = feed, decoder
        self._written = feed.store.seen
        self.skipped = 0
        """Records that were overwritten before they could be written, or that no disk would take."""
        context = decoder.context
        self._names = RestoredNames(node_name=context.node_name, cluster_name=context.cluster_name)
        restored = FlowDecoder(self._names, boot_offset_ns=lambda: 0, uuid_salt=uuid_salt)
        store = FlowStore(MAX_RESTORED)
        clock: Callable[[], int] = lambda: 0  # noqa: E731 - nothing is lost in a store that does not grow
        self.source = Source(FlowFeed(store, boot_clock_ns=clock, bell=feed.bell), restored, live=False)

    async def run(self) -> None:
        """Reads what earlier lives left, then writes until cancelled."""
        try:
            await self.restore()
            while True:
                await asyncio.sleep(FLUSH_SECONDS)
                await self.flush()
        finally:
            await asyncio.shield(self.flush())

    async def restore(self) -> None:
        """Reads the files; a damaged one gives what stands before the damage."""
        blocks = await asyncio.to_thread(lambda: list(self._segments.read()))
        for block in blocks:
            self._take(block)
            await asyncio.sleep(0)
        if len(self.source.feed.store):
            logger.info("flows of an earlier life are back", extra={log.COUNT: len(self.source.feed.store)})

    def _take(self, block: Block) -> None:
        try:
            self._names.learn(block.statements)
        except (ValueError, KeyError, TypeError) as error:
            logger.warning("a block of flows is not readable", extra={log.ERROR: log.clip(error)})
            return
        self.source.feed.store.append(block.records)

    async def flush(self) -> None:
        """Writes what came since the last call."""
        store = self._feed.store
        end = store.seen
        while self._written < end:
            start = max(self._written, store.oldest)
            self.skipped += start - self._written
            last = min(start + BLOCK_RECORDS, end)
            try:
                await asyncio.to_thread(self._segments.append, self._block(start, last))
            except OSError as error:
                self.skipped += last - start
                logger.warning("flows are not written", extra={log.ERROR: log.clip(error)})
            self._written = last

    def _block(self, start: int, last: int) -> bytes:
        records = self._feed.store.rows(np.arange(start, last, dtype=np.int64))
        offset_ns = self._decoder.boot_offset_ns
        statements = statements_of(records, self._decoder.context, offset_ns)
        records["time_ns"] += np.uint64(offset_ns)
        return encoded(statements, records)
