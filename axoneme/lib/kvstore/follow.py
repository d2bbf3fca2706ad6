"""Following prefixes: a snapshot, then every change, for as long as the consumer reads.

Several prefixes are listed at one revision and watched as one range, so their changes arrive in the
order of the store. After a compaction the prefixes are listed again and only the difference is told;
after a restore the consumer gets a new snapshot, marked, since nothing that it knew holds. The consumer
owns what it builds from this, and closes the generator (`contextlib.aclosing`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from axoneme.lib import log
from axoneme.lib.errors import RevisionCompacted, StoreUnavailable
from axoneme.lib.kvstore.port import Batch, Delete, KeyRange, Put, ReadStore, Row, StoreRestored

logger = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 0.1
LAST_PAUSE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything there is; what is not named is gone. `restored`: the store went back to an old backup."""

    rows: tuple[Row, ...]
    revision: int
    restored: bool = False


@dataclass(frozen=True, slots=True)
class Synced:
    """Everything up to `revision` has been told."""

    revision: int


Step = Snapshot | Put | Delete | Synced


async def follow(
    store: ReadStore, prefix: str | Sequence[str], *, rng: random.Random | None = None
) -> AsyncGenerator[Step, None]:
    """Snapshot, Synced, then Put and Delete with a Synced behind each batch. Ends by an error or `aclose`."""
    prefixes = (prefix,) if isinstance(prefix, str) else tuple(prefix)
    jitter = rng or random.Random()  # noqa: S311 - jitter only
    rows, revision = await _list(store, prefixes, jitter)
    known = {row.key: row.mod_revision for row in rows}
    yield Snapshot(tuple(rows), revision)
    yield Synced(revision)
    while True:
        try:
            async with contextlib.aclosing(_watch(store, prefixes, revision + 1)) as batches:
                async for batch in batches:
                    for event in batch.events:
                        if isinstance(event, Put):
                            known[event.key] = event.mod_revision
                            yield event
                        elif known.pop(event.key, None) is not None:
                            yield event
                    revision = max(revision, batch.revision)
                    yield Synced(revision)
        except RevisionCompacted as error:
            logger.warning("history was compacted, listing again", extra={log.ERROR: str(error)})
            rows, revision = await _list(store, prefixes, jitter)
            for event in _difference(known, rows, revision):
                yield event
        except StoreRestored as error:
            logger.error("the store went back in time, starting over", extra={log.ERROR: str(error)})
            rows, revision = await _list(store, prefixes, jitter)
            yield Snapshot(tuple(rows), revision, restored=True)
        known = {row.key: row.mod_revision for row in rows}
        yield Synced(revision)


async def _list(store: ReadStore, prefixes: Sequence[str], rng: random.Random) -> tuple[list[Row], int]:
    """All prefixes at one revision, tried until the store answers."""
    pause = FIRST_PAUSE_SECONDS
    while True:
        try:
            rows, revision = await store.list(prefixes[0])
            for prefix in prefixes[1:]:
                more, _ = await store.list(prefix, revision=revision)
                rows = rows + more
            return rows, revision
        except (StoreUnavailable, RevisionCompacted, StoreRestored) as error:
            logger.warning("cannot list, trying again", extra={log.KEY: prefixes[0], log.ERROR: str(error)})
        await asyncio.sleep(rng.uniform(pause / 2, pause))
        pause = min(pause * 2, LAST_PAUSE_SECONDS)


async def _watch(store: ReadStore, prefixes: Sequence[str], start: int) -> AsyncGenerator[Batch, None]:
    """The covering range, without the keys between the prefixes."""
    keys = KeyRange.covering(prefixes)
    async with contextlib.aclosing(store.watch(keys, start)) as batches:
        async for batch in batches:
            wanted = tuple(event for event in batch.events if event.key.startswith(tuple(prefixes)))
            yield Batch(wanted, batch.revision)


def _difference(known: dict[str, int], rows: Sequence[Row], revision: int) -> list[Put | Delete]:
    """What a consumer of `known` has to be told to arrive at `rows`; puts first."""
    present = {row.key for row in rows}
    events: list[Put | Delete] = [Put(row) for row in rows if known.get(row.key) != row.mod_revision]
    return events + [Delete(key, revision) for key in known if key not in present]
