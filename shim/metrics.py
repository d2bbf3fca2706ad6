"""The node's Prometheus metrics, read from the shim's tables when they are asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from axoneme.lib.bpf.maps import split_cpus
from axoneme.lib.intentstream import StreamState
from shim.audit import MapAudit
from shim.datapath import Datapath
from shim.endpoints import EndpointState
from shim.links import LinkCheck
from shim.maps import layout
from shim.maps.levels import map_levels
from shim.status import NodeStatus, lost_events_of
from shim.workloads import Workloads

DIRECTIONS = ("ingress", "egress")


class NodeMetrics(Collector):
    """Collects on each scrape; nothing is counted on a hot path."""

    def __init__(
        self,
        registry: CollectorRegistry,
        status: NodeStatus,
        streams: Callable[[], Sequence[StreamState]],
        workloads: Workloads,
        audit: MapAudit,
        links: LinkCheck,
        datapath: Datapath,
    ) -> None:
        self._status, self._streams = status, streams
        self._workloads, self._audit, self._links, self._datapath = workloads, audit, links, datapath
        registry.register(self)

    def describe(self) -> Iterator[Metric]:
        """Nothing is known before the first scrape, and nothing needs to be."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """One scrape."""
        stale = GaugeMetricFamily(
            "axoneme_shim_stream_stale_seconds", "Time a stream is out of step.", labels=["stream"]
        )
        failed = GaugeMetricFamily(
            "axoneme_shim_stream_failures", "Resources not in the kernel.", labels=["stream"]
        )
        for state in self._streams():
            stale.add_metric([state.name], state.stale_seconds)
            failed.add_metric([state.name], len(state.failures))
        yield stale
        yield failed
        entries = GaugeMetricFamily("axoneme_shim_map_entries", "Entries of a map.", labels=["map"])
        room = GaugeMetricFamily(
            "axoneme_shim_map_max_entries", "Entries that fit into a map.", labels=["map"]
        )
        for name, held, size in map_levels(self._datapath.maps):
            entries.add_metric([name], held)
            room.add_metric([name], size)
        yield entries
        yield room
        yield self._endpoints()
        yield CounterMetricFamily(
            "axoneme_shim_audit_repairs", "Differences repaired.", value=self._audit.repairs
        )
        yield CounterMetricFamily(
            "axoneme_shim_link_repairs",
            "Endpoints whose programs somebody had taken off, attached again.",
            value=self._links.repairs,
        )
        yield CounterMetricFamily(
            "axoneme_shim_identities_unacknowledged",
            "Addresses published before every node had the policy of their identity.",
            value=self._workloads.unpublished,
        )
        yield CounterMetricFamily(
            "axoneme_shim_lost_events",
            "Flow events without room in the ring.",
            value=lost_events_of(self._datapath),
        )
        yield GaugeMetricFamily(
            "axoneme_shim_problems", "Problems in words.", value=len(self._status.problems())
        )
        yield from self._packets()

    def _endpoints(self) -> Metric:
        family = GaugeMetricFamily("axoneme_shim_endpoints", "Endpoints by state.", labels=["state"])
        found = Counter(endpoint.state for endpoint in self._workloads.endpoints)
        for state in EndpointState:
            family.add_metric([state.name.lower()], found[state])
        return family

    def _packets(self) -> Iterator[Metric]:
        """Forwarded and dropped packets, as the programs count them."""
        packets = CounterMetricFamily(
            "axoneme_datapath_packets",
            "Packets by direction and drop reason; 0 is forwarded.",
            labels=["direction", "reason"],
        )
        octets = CounterMetricFamily(
            "axoneme_datapath_bytes",
            "Bytes by direction and drop reason; 0 is forwarded.",
            labels=["direction", "reason"],
        )
        metrics = self._datapath.maps[layout.METRICS.name]
        for key, raw in metrics.items():
            index = int.from_bytes(key, "little")
            slots = [layout.MetricEntry.unpack(slot) for slot in split_cpus(raw, metrics.value_size)]
            count = sum(slot.packets for slot in slots)
            if index >= layout.METRIC_LOST_EVENTS or not count:
                continue
            labels = [DIRECTIONS[index // layout.METRIC_REASONS], str(index % layout.METRIC_REASONS)]
            packets.add_metric(labels, count)
            octets.add_metric(labels, sum(slot.octets for slot in slots))
        yield packets
        yield octets
