"""Metrics of intent streams, one set per registry however many hosts share it."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from prometheus_client import CollectorRegistry, Counter, Gauge


class StreamMetrics:
    """Counters of the publishing side; the label `stream` is the name of the host."""

    def __init__(self, registry: CollectorRegistry) -> None:
        label = ["stream"]
        self.streams = Gauge("axoneme_intent_streams", "Open streams.", label, registry=registry)
        self.updates = Counter("axoneme_intent_updates", "Updates sent.", label, registry=registry)
        self.changes = Counter(
            "axoneme_intent_changes", "Resources sent in updates.", label, registry=registry
        )
        self.snapshots = Counter("axoneme_intent_snapshots", "Snapshots begun.", label, registry=registry)
        self.resyncs = Counter(
            "axoneme_intent_resyncs", "Snapshots asked for by nodes.", label, registry=registry
        )
        self.goodbyes = Counter(
            "axoneme_intent_goodbyes", "Streams ended by this side.", [*label, "reason"], registry=registry
        )
        self.failed = Gauge(
            "axoneme_intent_failed_resources", "Resources not in effect on a node.", label, registry=registry
        )
        self.unacknowledged = Counter(
            "axoneme_intent_wait_timeouts", "Waits for Acks that ran out of time.", label, registry=registry
        )


_by_registry: WeakKeyDictionary[CollectorRegistry, StreamMetrics] = WeakKeyDictionary()


def stream_metrics(registry: CollectorRegistry) -> StreamMetrics:
    """Returns the metrics of a registry, made at first use."""
    metrics = _by_registry.get(registry)
    if metrics is None:
        metrics = _by_registry[registry] = StreamMetrics(registry)
    return metrics
