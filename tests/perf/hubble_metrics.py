"""What a flow costs that metrics count: by columns, and by decoding each one.

python -m tests.perf.hubble_metrics
"""

from __future__ import annotations

import time

import numpy as np

from axoneme.api.hubble.flow import flow_pb2
from shim.flows import record
from shim.flows.record import EVENT_DTYPE, Records
from shim.hubble.metrics import follow
from shim.hubble.metrics.counting import FlowCounter
from shim.hubble.metrics.groups import RecordCounter
from tests.unit.shim.flows.scene import event
from tests.unit.shim.hubble.hubblescene import MetricScene

RECORDS = 200_000
EACH = 1_000
PODS = "sourceContext=pod;destinationContext=pod"
SETS = {
    "flow": ["flow"],
    "usual: dns drop tcp flow icmp port-distribution": [
        "dns", "drop", "tcp", "flow", "icmp", "port-distribution",
    ],
    "usual, each by pod": [
        f"{name}:{PODS}" for name in ("dns", "drop", "tcp", "flow", "icmp", "port-distribution")
    ],
    "flow by address (1,000 of them)": ["flow:destinationContext=ip"],
    "flow by DNS name or address": ["flow:destinationContext=dns|ip"],
}  # fmt: skip


def traffic(count: int, seed: int = 7) -> Records:
    """Traces, verdicts and drops of two pods with each other and with 1,000 addresses of the world."""
    rng = np.random.default_rng(seed)
    kinds = [
        event(event_type=kind, verdict=verdict, protocol=protocol, tcp_flags=flags, flags=reply)
        for kind, verdict in ((record.TRACE, 1), (record.POLICY_VERDICT, 1), (record.DROP, 2))
        for protocol, flags in ((6, 2), (6, 16), (6, 18), (6, 17), (17, 0))
        for reply in (record.FLAG_REPLY_KNOWN, record.FLAG_REPLY_KNOWN | record.FLAG_REPLY)
    ]
    records: Records = np.concatenate(kinds).astype(EVENT_DTYPE)[rng.integers(0, len(kinds), count)]
    records["source_port"] = rng.integers(32_768, 61_000, count)
    replies = records["flags"] & record.FLAG_REPLY != 0
    services = np.array([53, 80, 443, 5432, 8080], dtype=np.uint16)
    ports = services[rng.integers(0, len(services), count)]
    records["destination_port"] = np.where(replies, records["source_port"], ports)
    outside = np.flatnonzero(rng.random(count) < 0.5)
    raw = records.view(np.uint8).reshape(count, EVENT_DTYPE.itemsize)
    base = EVENT_DTYPE.fields["destination_ip"][1] if EVENT_DTYPE.fields else 32
    hosts = rng.integers(0, 1_000, len(outside))
    raw[outside, base + 12] = 198
    raw[outside, base + 13] = 18
    raw[outside, base + 14], raw[outside, base + 15] = hosts >> 8, hosts & 0xFF
    records["destination_identity"][outside] = 9
    records["time_ns"] = np.arange(count, dtype=np.uint64) * 1000 + 1
    return records


def by_columns(metrics: list[str], records: Records) -> tuple[float, float, int]:
    """CPU seconds a record at first sight and once all kinds are known; and the series made."""
    scene = MetricScene(metrics, capacity=1 << 20)
    counter = RecordCounter(scene.feed.store, scene.sources[0].decoder, scene.counter)
    seconds = []
    for _ in range(2):
        first = scene.feed.store.seen
        scene.feed.append(records)
        start = time.process_time()
        for begin in range(first, first + len(records), follow.CHUNK):
            for _step in counter.count(begin, min(begin + follow.CHUNK, first + len(records))):
                pass
        seconds.append((time.process_time() - start) / len(records))
    return seconds[0], seconds[1], len(scene.counter.table)


def by_decoding(metrics: list[str], records: Records) -> float:
    """CPU seconds a record."""
    scene = MetricScene(metrics, capacity=1 << 20)
    counter, decoder = FlowCounter(scene.wanted), scene.sources[0].decoder
    start = time.process_time()
    for number, one in enumerate(records[:EACH]):
        flow: flow_pb2.Flow = decoder.decode(one, number)
        counter.count(flow)
    return (time.process_time() - start) / EACH


def main() -> None:
    records = traffic(RECORDS)
    print(f"{'CPU a flow':52s} {'first':>9s} {'then':>9s} {'decoding':>10s} {'series':>8s}")
    for name, metrics in SETS.items():
        first, then, series = by_columns(metrics, records)
        each = by_decoding(metrics, records)
        print(f"{name:52s} {first * 1e9:6.0f} ns {then * 1e9:6.0f} ns {each * 1e6:7.1f} us {series:8d}")


if __name__ == "__main__":
    main()
