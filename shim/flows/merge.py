"""The order of records that lie in several stores: by time.

Records of one store keep their order, also where their times are not quite in it, since several processors
write them. Of equal times those of the first store come first.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from axoneme.api.hubble.flow import flow_pb2

Numbers = npt.NDArray[np.int64]
Times = npt.NDArray[np.int64]
"""Nanoseconds; those of records from before the last boot may be negative."""


class Merged(NamedTuple):
    """Records of several stores in one order: which store, and the number there."""

    stores: npt.NDArray[np.int8]
    numbers: Numbers


def merged(numbers: Sequence[Numbers], times: Sequence[Times]) -> Merged:
    """Merge ascending numbers by the times of their records; a record comes before all that follow it."""
    stores = np.repeat(np.arange(len(numbers), dtype=np.int8), [len(part) for part in numbers])
    together = np.concatenate(numbers) if numbers else np.empty(0, dtype=np.int64)
    if sum(1 for part in numbers if len(part)) > 1:
        keys = np.concatenate([np.minimum.accumulate(part[::-1])[::-1] for part in times])
        order = np.argsort(keys, kind="stable")
        stores, together = stores[order], together[order]
    return Merged(stores, together)


class Match(NamedTuple):
    """A flow that was found: its store, its number there and the flow."""

    store: int
    number: int
    flow: flow_pb2.Flow


def time_of(match: Match) -> tuple[int, int]:
    """The time of a match, to compare."""
    return match.flow.time.seconds, match.flow.time.nanos


async def merged_matches(
    sources: Sequence[AsyncIterator[Match | None]],
) -> AsyncIterator[Match | None]:
    """Matches of several sources by time, each taken only when it is its turn; None as the sources say it."""
    heads: list[tuple[AsyncIterator[Match | None], Match]] = []
    for source in sources:
        async for head in source:
            if head is not None:
                heads.append((source, head))
                break
            yield None
    while heads:
        index = min(range(len(heads)), key=lambda at: time_of(heads[at][1]))
        source, head = heads[index]
        yield head
        async for following in source:
            if following is not None:
                heads[index] = (source, following)
                break
            yield None
        else:
            del heads[index]
