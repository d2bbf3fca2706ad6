"""What the proxy has done, as numbers that another thread reads for the metrics.

Only the proxy's thread writes. Each field is one int (or a list of ints of fixed length), so a reader sees
old or new values, never halves. They only grow, except those named as gauges.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

# Upper bounds of the latencies of servers, in seconds: half a millisecond doubled; the last has no bound.
LATENCY_BUCKETS: Final = 16
LATENCY_BOUNDS: Final = tuple(0.0005 * 2**n for n in range(LATENCY_BUCKETS - 1))
STEPS_PER_SECOND: Final = 2_000


@dataclass(slots=True)
class Counters:
    """All counts since the start."""

    udp_queries: int = 0
    tcp_queries: int = 0
    malformed_queries: int = 0
    denied: int = 0
    timeouts: int = 0
    # The limits of queries in flight: Cilium's fqdn_semaphore_rejected_total.
    rejected: int = 0
    forward_errors: int = 0
    # Answers that nobody waits for (late, or invented), to other questions, or that cannot be read.
    unexpected_answers: int = 0
    mismatched_answers: int = 0
    malformed_answers: int = 0
    held: int = 0
    held_released: int = 0
    held_dropped: int = 0  # by the learner, or because too many were held
    send_errors: int = 0  # answers that the kernel did not take
    fragmented: int = 0
    listener_drops: int = 0  # datagrams that did not fit the listeners' buffers
    upstreams_opened: int = 0
    upstreams_evicted: int = 0
    upstreams_refused: int = 0
    connections_opened: int = 0
    connections_evicted: int = 0
    connections_refused: int = 0
    connections_timed_out: int = 0
    mishaps: int = 0  # exceptions that ended one message or connection: bugs
    # Gauges
    in_flight: int = 0
    upstreams: int = 0
    connections: int = 0
    held_now: int = 0
    buffered_bytes: int = 0  # of all TCP connections
    # Answers that were released to clients, by latency of the server; and the sum of latencies in seconds.
    latencies: list[int] = field(default_factory=lambda: [0] * LATENCY_BUCKETS)
    latency_sum: float = 0.0

    @property
    def answered(self) -> int:
        return sum(self.latencies)

    @property
    def forwarded(self) -> int:
        """Queries that were to go to a server."""
        queries = self.udp_queries + self.tcp_queries
        return queries - self.malformed_queries - self.denied - self.rejected - self.upstreams_refused

    def answered_within(self, seconds: float) -> None:
        """Bucket n holds what took less than half a millisecond times 2^n."""
        bucket = int(seconds * STEPS_PER_SECOND).bit_length()
        self.latencies[bucket if bucket < LATENCY_BUCKETS else -1] += 1
        self.latency_sum += seconds
