"""Where flows come from, and how far one answer got in each of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from shim.flows.feed import FlowFeed, Loss
from shim.flows.merge import Numbers, Times
from shim.flows.query import FlowQuery, RecordDecoder


@dataclass(frozen=True, slots=True)
class Source:
    """Flows of one kind and what decodes them."""

    feed: FlowFeed
    decoder: RecordDecoder
    live: bool = True
    """Whether followers hear of its records."""


@dataclass(slots=True)
class Lane:
    """One source of an answer: its query, where the past ends, and how far the stream got."""

    feed: FlowFeed
    query: FlowQuery
    live: bool
    end: int
    position: int
    told_losses: int
    told_lost: int
    ahead_ns: int
    """What to add to the times of its records to compare them with those of other lanes."""

    def times(self, numbers: Numbers) -> Times:
        """Times of records that are still held, comparable between lanes."""
        times: Times = self.feed.store.column("time_ns", numbers).astype(np.int64) + self.ahead_ns
        return times

    def losses_from(self, start: int, start_ns: int) -> list[Loss]:
        """Losses of the past from a record on, or from a time on where no record says it.

        What was noticed after the request came is told by what follows, if that was asked for.
        """
        losses = [loss for loss in self.feed.losses if start <= loss.position <= self.end]
        return [loss for loss in losses if loss.last_ns >= start_ns and loss.index < self.told_losses]

    def overtaken(self) -> int:
        """Records that were overwritten before this lane came to them; it goes on behind them."""
        gone = max(0, self.feed.store.oldest - self.position)
        self.position += gone
        return gone

    def fresh_losses(self) -> list[Loss]:
        """Losses that were not told yet; those that the feed forgot are in the first one's count."""
        losses = [loss for loss in self.feed.losses if loss.index >= self.told_losses]
        if losses and (forgotten := losses[0].before - self.told_lost):
            losses[0] = replace(losses[0], count=losses[0].count + forgotten)
        return losses

    def told(self, loss: Loss) -> None:
        """A loss was told."""
        self.told_losses, self.told_lost = loss.index + 1, self.told_lost + loss.count
