"""Prometheus metrics of load balancing, read from the books when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from shim.lb.balancer import LoadBalancer


class LbMetrics(Collector):
    """Collects on each scrape."""

    def __init__(self, registry: CollectorRegistry, balancer: LoadBalancer) -> None:
        self._balancer = balancer
        registry.register(self)

    def describe(self) -> Iterator[Metric]:
        """Nothing is known before the first scrape, and nothing needs to be."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """One scrape."""
        balancer = self._balancer
        books = balancer.books
        for name, text, value in (
            ("services", "Services that this node was told.", sum(1 for _ in balancer.services())),
            ("frontends", "Addresses and ports that lead to backends.", len(books.maps.frontends.content)),
            ("backends", "Backends in the kernel.", len(books.maps.backends.content)),
            ("backend_sets", "Lists of backends in the kernel.", len(books.sets)),
            ("maglev_tables", "Maglev tables in the kernel.", len(books.maps.tables.content)),
            ("failures", "Services and host ports that are not in effect.", balancer.failing),
        ):
            yield GaugeMetricFamily(f"axoneme_shim_lb_{name}", text, value=value)
