"""Traces through OpenTelemetry; metrics are prometheus_client objects of the process's own registry.

Traces are off until `setup_tracing`, then sampled, and never made for streams or hot calls: a count through
OpenTelemetry costs 18 times what prometheus_client takes. Without the exporter package (extra `otlp`) or
without an endpoint in the environment, spans are made and dropped, and their ids still appear in the logs.
"""

from __future__ import annotations

import logging
import os
from importlib import metadata

from opentelemetry import trace
from prometheus_client import CollectorRegistry, Gauge

from axoneme.lib import log

logger = logging.getLogger(__name__)

ENDPOINT_VARIABLE = "OTEL_EXPORTER_OTLP_ENDPOINT"
DEFAULT_SAMPLE_RATIO = 0.01
DURATION_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


def tracer() -> trace.Tracer:
    """The tracer of this process; makes no spans before `setup_tracing`."""
    return trace.get_tracer("axoneme", version())


def setup_tracing(service: str, *, sample_ratio: float = DEFAULT_SAMPLE_RATIO) -> None:
    """Samples `sample_ratio` of new traces; exports by OTLP when the environment names an endpoint."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    name = f"axoneme-{service.removeprefix('axoneme-')}"
    resource = Resource.create({"service.name": name, "service.version": version()})
    provider = TracerProvider(resource=resource, sampler=ParentBased(TraceIdRatioBased(sample_ratio)))
    if os.environ.get(ENDPOINT_VARIABLE):
        _add_exporter(provider)
    trace.set_tracer_provider(provider)


def _add_exporter(provider: object) -> None:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    assert isinstance(provider, TracerProvider)
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    except ImportError:
        logger.warning("no trace exporter: install axoneme[otlp]", extra={log.KEY: ENDPOINT_VARIABLE})
        return
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))


def new_registry(service: str) -> CollectorRegistry:
    """A registry with the process's own figures and `axoneme_build_info`."""
    from prometheus_client import GCCollector, PlatformCollector, ProcessCollector

    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    build = Gauge(
        "axoneme_build_info",
        "1, labelled with version and service.",
        ["version", "service"],
        registry=registry,
    )
    build.labels(version(), service).set(1)
    return registry


def version() -> str:
    """Version of the installed distribution; `unknown` when run from a bare tree."""
    try:
        return metadata.version("axoneme")
    except metadata.PackageNotFoundError:
        return "unknown"
