"""Figures of the proxy, read when somebody asks: the hot loop only counts.

What Cilium has under the same name after `axoneme_` means the same: fqdn_gc_deletions_total,
fqdn_active_names, fqdn_active_ips, fqdn_selectors, fqdn_semaphore_rejected_total, policy_l7_total,
proxy_upstream_reply_seconds, proxy_datapath_update_timeout_total.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import accumulate
from typing import Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from services.fqdn.core import Core
from services.fqdn.model import Verdict
from services.fqdn.proxy.counters import LATENCY_BOUNDS, Counters

_RULES: Final = {Verdict.FORWARDED: "forwarded", Verdict.DENIED: "denied", Verdict.ERROR: "parse_errors"}
_OF_PROXY: Final = (
    ("malformed_queries", "Queries that are no DNS message, and went nowhere."),
    ("malformed_answers", "Answers that are no DNS message, and went nowhere."),
    ("mismatched_answers", "Answers to another question."),
    ("unexpected_answers", "Answers that nobody waited for."),
    ("timeouts", "Queries without an answer in time."),
    ("send_errors", "Answers that the kernel did not take."),
    ("listener_drops", "Queries that the listener's buffer had no room for."),
    ("upstreams_evicted", "Upstream sockets closed to make room."),
    ("connections_evicted", "TCP connections closed to make room."),
    ("connections_refused", "TCP connections over a client's limit."),
    ("mishaps", "Messages that ended in an exception: bugs."),
)
_GAUGES: Final = (
    ("in_flight", "Queries that wait for an answer."),
    ("upstreams", "Open sockets towards servers."),
    ("connections", "Open TCP connections of endpoints."),
    ("held_now", "Answers that wait for the kernel."),
)


class FqdnCollector(Collector):
    """All metrics of one process."""

    def __init__(self, core: Core, counters: Callable[[], Counters], stale: Callable[[], float]) -> None:
        self._core = core
        self._counters = counters
        self._stale = stale

    def collect(self) -> Iterable[Metric]:
        """Called by the registry."""
        yield from self._of_names()
        yield from self._of_lookups()
        yield from self._of_proxy()

    def _of_names(self) -> Iterable[Metric]:
        learner, book = self._core.learner, self._core.book
        counts, cache = learner.counts, learner.cache
        yield _counter("axoneme_fqdn_gc_deletions", "Names that expired.", counts.expired_names)
        yield _counter("axoneme_fqdn_learned_addresses", "Addresses taken in.", counts.learned)
        yield _counter("axoneme_fqdn_evictions", "Names and addresses over a limit.", cache.evicted)
        yield _counter(
            "axoneme_fqdn_unforeseen_sets", "Sets of selectors without a number.", counts.unforeseen
        )
        yield _counter("axoneme_fqdn_held_answers", "Answers that waited for a number.", counts.held)
        yield _counter(
            "axoneme_proxy_datapath_update_timeout",
            "Answers whose number came late.",
            counts.barrier_timeouts,
        )
        yield _counter("axoneme_fqdn_dropped_answers", "Answers not released by option.", counts.dropped)
        yield _counter(
            "axoneme_fqdn_map_failures", "Refused writes of learned addresses.", counts.map_failures
        )
        yield _counter("axoneme_fqdn_journal_failures", "Records not written.", self._core.journal.failures)
        yield GaugeMetricFamily("axoneme_fqdn_active_names", "Names in the cache.", cache.name_count)
        yield GaugeMetricFamily("axoneme_fqdn_active_ips", "Addresses in the cache.", cache.address_count)
        yield GaugeMetricFamily("axoneme_fqdn_selectors", "DNS selectors.", len(learner.table.selectors))
        yield GaugeMetricFamily("axoneme_fqdn_subjects", "Subjects with DNS rules.", len(book.current()))
        yield GaugeMetricFamily(
            "axoneme_fqdn_kept_rules", "Rules that only older redirects need.", book.kept_count()
        )
        yield GaugeMetricFamily(
            "axoneme_fqdn_rules_stale_seconds", "Time the stream of rules is out of step.", self._stale()
        )

    def _of_lookups(self) -> Iterable[Metric]:
        feed = self._core.feed
        rules = CounterMetricFamily("axoneme_policy_l7", "Queries by verdict.", labels=["rule", "proxy_type"])
        rules.add_metric(["received", "fqdn"], sum(feed.queries.values()))
        for verdict, word in _RULES.items():
            rules.add_metric([word, "fqdn"], feed.queries[verdict])
        yield rules

    def _of_proxy(self) -> Iterable[Metric]:
        counters = self._counters()
        yield _counter(
            "axoneme_fqdn_semaphore_rejected", "Queries over the limits in flight.", counters.rejected
        )
        for name, text in _OF_PROXY:
            yield _counter(f"axoneme_fqdn_{name}", text, getattr(counters, name))
        for name, text in _GAUGES:
            yield GaugeMetricFamily(
                f"axoneme_fqdn_{name.removesuffix('_now')}", text, getattr(counters, name)
            )
        replies = HistogramMetricFamily(
            "axoneme_proxy_upstream_reply_seconds",
            "Time that servers took.",
            labels=["error", "protocol_l7", "scope"],
        )
        bounds = [*map(str, LATENCY_BOUNDS), "+Inf"]
        buckets = list(zip(bounds, accumulate(counters.latencies), strict=True))
        replies.add_metric(["", "dns", "upstreamTime"], buckets, counters.latency_sum)
        yield replies


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value)
