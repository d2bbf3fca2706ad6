"""Hubble's metrics as Prometheus reads them. Built when they are asked for; nothing here counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from shim.hubble.metrics.plugin import Family
from shim.hubble.metrics.series import Series, SeriesTable

PREFIX: Final = "hubble_"
LOST_SOURCES: Final = ("perf_event_ring_buffer", "observer_events_queue", "hubble_ring_buffer")


class HubbleCollector(Collector):
    """Collects the series of a node."""

    def __init__(
        self, registry: CollectorRegistry, table: SeriesTable, lost: Callable[[], Mapping[str, int]]
    ) -> None:
        self._table, self._lost = table, lost
        registry.register(self)

    def describe(self) -> Iterator[Metric]:
        """Nothing needs to be known before the first scrape."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """One scrape."""
        lost = CounterMetricFamily(
            f"{PREFIX}lost_events", "Events that were lost, by where.", labels=["source"]
        )
        counts = self._lost()
        for source in LOST_SOURCES:
            lost.add_metric([source], counts.get(source, 0))
        yield lost
        yield CounterMetricFamily(
            f"{PREFIX}metrics_overflow",
            "Samples without room for another series.",
            value=self._table.overflow,
        )
        yield GaugeMetricFamily(
            f"{PREFIX}metrics_series", "Series of flow metrics that are held.", value=len(self._table)
        )
        for index, family in enumerate(self._table.families):
            yield self._counters(index, family) if not family.buckets else self._histograms(index, family)

    def _counters(self, index: int, family: Family) -> Metric:
        metric = CounterMetricFamily(f"{PREFIX}{family.name}", family.text, labels=family.labels)
        for labels, series in self._table.items(index):
            metric.add_metric(labels, series.count)
        return metric

    def _histograms(self, index: int, family: Family) -> Metric:
        metric = HistogramMetricFamily(f"{PREFIX}{family.name}", family.text, labels=family.labels)
        for labels, series in self._table.items(index):
            metric.add_metric(labels, _buckets(series), sum_value=series.total)
        return metric


def _buckets(series: Series) -> list[tuple[str, float]]:
    bounds = [*map(floatToGoString, series.bounds), "+Inf"]
    return list(zip(bounds, map(float, accumulate(series.buckets)), strict=True))
