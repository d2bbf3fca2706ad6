"""What a stream tells about events that it cannot show.

Losses on the way into a store stand where they were noticed; those of a reader that was overtaken are told at
most once a second. Times are boot times until they leave in a response.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from axoneme.api.hubble.flow import flow_pb2
from axoneme.api.hubble.observer import observer_pb2
from shim.flows.decode import FlowDecoder, timestamp
from shim.flows.feed import FlowFeed, Loss

LOST_INTERVAL_NS: Final = 1_000_000_000
Response = observer_pb2.GetFlowsResponse


@dataclass(slots=True)
class Missed:
    """Events that a stream was overtaken on."""

    count: int = 0
    first_ns: int = 0
    told_ns: int = 0

    def add(self, count: int, now_ns: int) -> None:
        """Count more of them."""
        if count <= 0:
            return
        self.first_ns = self.first_ns if self.count else now_ns
        self.count += count

    def due(self, now_ns: int) -> bool:
        """Whether it is time to tell."""
        return self.count > 0 and now_ns - self.told_ns >= LOST_INTERVAL_NS

    def take(self, now_ns: int, names: FlowDecoder) -> Response:
        """Tell them."""
        count, self.count, self.told_ns = self.count, 0, now_ns
        return _response(names, flow_pb2.HUBBLE_RING_BUFFER, count, self.first_ns, now_ns)


class PastLosses:
    """Losses of several feeds that are still to be told among flows of the past."""

    def __init__(self, feeds: Sequence[FlowFeed], losses: Sequence[list[Loss]]) -> None:
        """Take the losses of each feed in their order."""
        self._feeds = feeds
        self._losses = losses

    def before(self, feed: int, number: int, names: FlowDecoder) -> Iterator[Response]:
        """Those of one feed that were noticed before one of its records."""
        losses = self._losses[feed]
        while losses and losses[0].position <= number:
            yield loss_response(names, self._feeds[feed], losses.pop(0))

    def rest(self, names: FlowDecoder) -> Iterator[Response]:
        """All others."""
        for feed, losses in zip(self._feeds, self._losses, strict=True):
            for loss in losses:
                yield loss_response(names, feed, loss)


def loss_response(names: FlowDecoder, feed: FlowFeed, loss: Loss) -> Response:
    """The response for a loss of a feed."""
    return _response(names, feed.loss_source, loss.count, loss.first_ns, loss.last_ns)


def _response(
    names: FlowDecoder, source: flow_pb2.LostEventSource.ValueType, count: int, first_ns: int, last_ns: int
) -> Response:
    offset_ns = names.boot_offset_ns
    lost = flow_pb2.LostEvent(
        source=source,
        num_events_lost=count,
        first=timestamp(first_ns + offset_ns),
        last=timestamp(last_ns + offset_ns),
    )
    return Response(lost_events=lost, node_name=names.full_node_name, time=lost.last)
