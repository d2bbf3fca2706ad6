"""Metrics of exports as Prometheus reads them; names and labels are Hubble's, and two of our own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, UnknownMetricFamily
from prometheus_client.registry import Collector

from shim.hubble.export.running import Exports

OPERATIONS = ("add", "update", "remove")


class ExportCollector(Collector):
    """Collects on each scrape."""

    def __init__(self, registry: CollectorRegistry, exports: Exports) -> None:
        self._exports = exports
        registry.register(self)

    def describe(self) -> Iterator[Metric]:
        """Nothing needs to be known before the first scrape."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """One scrape."""
        exporters = self._exports.exporters
        states = Counter("active" if self._exports.is_up(name) else "inactive" for name in exporters)
        # A gauge with the name of a counter, which is what Hubble calls it: told without a type.
        number = UnknownMetricFamily(
            "hubble_dynamic_exporter_exporters_total", "Configured exporters.", labels=["status"]
        )
        for state in ("active", "inactive"):
            number.add_metric([state], states[state])
        yield number
        up = GaugeMetricFamily("hubble_dynamic_exporter_up", "Whether an exporter writes.", labels=["name"])
        for name in exporters:
            up.add_metric([name], float(self._exports.is_up(name)))
        yield up
        yield from self._changes()
        yield from self._events()

    def _changes(self) -> Iterator[Metric]:
        changes = self._exports.changes
        done = CounterMetricFamily(
            "hubble_dynamic_exporter_reconfigurations", "Changes of exporters.", labels=["op"]
        )
        for operation in OPERATIONS:
            done.add_metric([operation], changes.operations[operation])
        yield done
        yield GaugeMetricFamily(
            "hubble_dynamic_exporter_config_hash",
            "Hash of the list in force.",
            value=changes.config_hash,
        )
        yield GaugeMetricFamily(
            "hubble_dynamic_exporter_config_last_applied",
            "When the list in force was applied, in seconds since 1970.",
            value=changes.applied_seconds,
        )
        yield GaugeMetricFamily(
            "hubble_dynamic_exporter_config_refused",
            "Whether the list that is there could not be applied.",
            value=float(bool(changes.problem)),
        )

    def _events(self) -> Iterator[Metric]:
        written = CounterMetricFamily("hubble_export_events", "Events written to files.", labels=["name"])
        lost = CounterMetricFamily("hubble_export_lost_events", "Events not written.", labels=["name"])
        for name, total in sorted(self._exports.totals().items()):
            written.add_metric([name], total.written)
            lost.add_metric([name], total.lost)
        yield written
        yield lost
