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


class HostMetrics:
    """The metrics of one host: the label is looked up once, not for each update of a thousand streams."""

    def __init__(self, metrics: StreamMetrics, stream: str) -> None:
        self.streams = metrics.streams.labels(stream)
        self.updates = metrics.updates.labels(stream)
        self.changes = metrics.changes.labels(stream)
        self.snapshots = metrics.snapshots.labels(stream)
        self.resyncs = metrics.resyncs.labels(stream)
        self.failed = metrics.failed.labels(stream)
        self.unacknowledged = metrics.unacknowledged.labels(stream)
        self._goodbyes = metrics.goodbyes
        self._stream = stream

    def count_goodbye(self, reason: str) -> None:
        """Counts a stream that this side ended."""
        self._goodbyes.labels(self._stream, reason).inc()


_by_registry: WeakKeyDictionary[CollectorRegistry, StreamMetrics] = WeakKeyDictionary()


def stream_metrics(registry: CollectorRegistry) -> StreamMetrics:
    """Returns the metrics of a registry, made at first use."""
    metrics = _by_registry.get(registry)
    if metrics is None:
        metrics = _by_registry[registry] = StreamMetrics(registry)
    return metrics
