"""The small node with names that change hands, and metrics over its flows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address

import numpy as np

from axoneme.api.hubble.flow import flow_pb2
from shim.flows.answer import Source
from shim.flows.context import Address, WorkloadInfo
from shim.flows.decode import FlowDecoder
from shim.flows.feed import FlowFeed
from shim.flows.lookups import Lookups
from shim.flows.lookupstore import LookupStore
from shim.flows.store import FlowStore
from shim.hubble.metrics.counting import FlowCounter
from shim.hubble.metrics.follow import MetricsFollower
from shim.hubble.metrics.options import parse_metrics
from tests.unit.shim.flows.scene import API, BOOT_OFFSET_NS, Clock, Scene

MOVED = WorkloadInfo(namespace="shop", pod_name="moved-1", identity=20102, cluster_name="east")
MOVING = ip_address("10.1.1.12")
NAMED = ip_address("192.0.2.7")


@dataclass
class ChangingScene(Scene):
    """API's address is another's from a time on, and a DNS name is known until a time."""

    moves_ns: int = 1 << 62
    forgets_ns: int = 1 << 62

    def workload_at(self, address: Address, time_ns: int | None) -> WorkloadInfo | None:
        owner = super().workload_at(address, time_ns)
        if owner is API and address == MOVING and (time_ns is None or time_ns >= self.moves_ns):
            return MOVED
        return owner

    def change_times(
        self, identity: int, address: Address | None, endpoint_id: int, after_ns: int
    ) -> list[int]:
        return [self.moves_ns] if address == MOVING and self.moves_ns > after_ns else []

    def names(self, endpoint_id: int, address: Address, time_ns: int | None) -> tuple[str, ...]:
        known = time_ns is None or time_ns < self.forgets_ns
        return super().names(endpoint_id, address, time_ns) if known else ()

    def name_times(self, endpoint_id: int, address: Address, after_ns: int) -> list[int]:
        return [self.forgets_ns] if address == NAMED and self.forgets_ns > after_ns else []


class MetricScene:
    """Stores of packets and messages, counted by columns."""

    def __init__(self, metrics: Sequence[str], *, capacity: int = 64, max_series: int = 20_000) -> None:
        self.clock, self.names = Clock(), ChangingScene()
        decoder = FlowDecoder(self.names, boot_offset_ns=lambda: BOOT_OFFSET_NS, uuid_salt=1)
        self.feed = FlowFeed(FlowStore(capacity), boot_clock_ns=self.clock)
        self.lookups = Lookups(
            decoder, boot_clock_ns=self.clock, bell=self.feed.bell, store=LookupStore(capacity)
        )
        self.sources = [Source(self.feed, decoder), Source(self.lookups.feed, self.lookups.decoder)]
        self.wanted = parse_metrics("hubble_metrics", metrics)
        self.counter = FlowCounter(self.wanted, max_series)
        self.follower = MetricsFollower(self.counter, self.sources, decoder, boot_clock_ns=self.clock)

    def flows(self) -> list[flow_pb2.Flow]:
        """Every flow that is held, decoded."""
        flows = []
        for source in self.sources:
            store = source.feed.store
            numbers = np.arange(store.oldest, store.seen)
            pairs = zip(numbers.tolist(), store.events(numbers), strict=True)
            flows += [source.decoder.decode(one, number) for number, one in pairs]
        return flows


def values(counter: FlowCounter) -> dict[tuple[str, tuple[str, ...]], int]:
    """Counts by name and labels."""
    table = counter.table
    return {
        (family.name, labels): series.count
        for index, family in enumerate(table.families)
        for labels, series in table.items(index)
    }
