"""Flow path of a node: ingestion from a ring, queries over a full store, decoding, memory.

CPU seconds of this process, best of several rounds; run with `python -m tests.perf.flows`.
"""

from __future__ import annotations

import asyncio
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from axoneme.api.hubble.flow import flow_pb2
from shim.flows import record
from shim.flows.query import FlowQuery
from shim.flows.record import EVENT_DTYPE, Records
from shim.flows.ring import STRIDE, RingReader
from shim.flows.spill.options import SpillOptions
from shim.flows.spill.spill import FlowSpill
from shim.flows.store import FlowStore
from tests.unit.shim.flows.scene import event, make_feed

CAPACITY = 1 << 20
RING_BYTES = 1 << 22
PAGE = 4096
ROUNDS = 5
SPILLED = 1 << 16


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    what: str
    value: float
    unit: str
    goal: str


def batch(size: int, start: int) -> Records:
    """Records of many connections between many identities; one in a hundred is a drop."""
    random = np.random.default_rng(start)
    records = np.repeat(event(), size)
    records["time_ns"] = (np.arange(size) + start) * 1_000
    records["source_identity"] = random.integers(256, 2000, size)
    records["destination_identity"] = random.integers(256, 2000, size)
    records["source_port"] = random.integers(1024, 65535, size)
    records["destination_port"] = random.choice([53, 80, 443, 8080], size)
    addresses = np.zeros((size, 16), dtype=np.uint8)
    addresses[:, 10:12] = 0xFF
    addresses[:, 12:] = random.integers(0, 256, (size, 4))
    records["destination_ip"] = addresses.view("V16")[:, 0]
    dropped = random.random(size) < 0.01
    records["verdict"][dropped] = flow_pb2.DROPPED
    records["event_type"][dropped] = record.DROP
    records["drop_reason"][dropped] = record.POLICY_DENIED
    return records


def filled_ring(records: Records) -> tuple[RingReader, Callable[[], None]]:
    """A ring in plain memory and a function that makes it full again."""
    count = RING_BYTES // STRIDE
    slot = np.dtype(
        {"names": ["len", "event"], "formats": ["<u4", EVENT_DTYPE], "offsets": [0, 8], "itemsize": STRIDE}
    )
    shared = bytearray(PAGE + 2 * RING_BYTES)
    consumer = bytearray(PAGE)
    slots = np.frombuffer(shared, dtype=slot, count=count, offset=PAGE)
    slots["len"] = record.EVENT_BYTES
    slots["event"] = records[:count]
    reader = RingReader(consumer, shared, RING_BYTES, -1)

    def refill() -> None:
        consumer[:8] = bytes(8)
        shared[:8] = (count * STRIDE).to_bytes(8, "little")

    return reader, refill


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU time of the fastest of several rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


def ingestion() -> Figure:
    store = FlowStore(CAPACITY)
    records = batch(RING_BYTES // STRIDE, 1)
    reader, refill = filled_ring(records)

    def work() -> None:
        for _ in range(10):
            refill()
            store.append(reader.read())

    seconds = cpu_seconds(work)
    assert store.seen == ROUNDS * 10 * len(records)
    return Figure("ring to store", 10 * len(records) / seconds / 1e6, "M records/s", ">= 5")


def queries() -> list[Figure]:
    feed, decoder, _ = make_feed(CAPACITY)
    for start in range(0, CAPACITY, 65_536):
        feed.append(batch(65_536, start))
    store = feed.store
    nobody = "shop/nobody"
    cases = {
        "verdict DROPPED, newest 20": flow_pb2.FlowFilter(verdict=[flow_pb2.DROPPED]),
        "address, no match": flow_pb2.FlowFilter(destination_ip=["192.0.2.200"]),
        "CIDR and port": flow_pb2.FlowFilter(destination_ip=["10.99.0.0/16"], destination_port=["443"]),
        "identity, no match": flow_pb2.FlowFilter(source_identity=[77]),
        "pod, no match": flow_pb2.FlowFilter(source_pod=[nobody]),
        "destination pod, no match": flow_pb2.FlowFilter(destination_pod=[nobody]),
        "label, no match": flow_pb2.FlowFilter(source_label=["app=nobody"]),
        "namespace, no match": flow_pb2.FlowFilter(destination_pod=["nowhere/"]),
        "DNS name, no match": flow_pb2.FlowFilter(destination_fqdn=["nobody.test"]),
        "reply, newest 20": flow_pb2.FlowFilter(reply=[True], verdict=[flow_pb2.DROPPED]),
        "node name, no match": flow_pb2.FlowFilter(node_name=["elsewhere"]),
    }
    figures = [Figure("memory of 1 Mi flows", store.memory_bytes / 2**20, "MiB", "<= 128")]
    for name, flow_filter in cases.items():

        def work(flow_filter: flow_pb2.FlowFilter = flow_filter) -> None:
            list(FlowQuery(store, decoder, [flow_filter], []).newest(0, store.seen, 20))

        figures.append(Figure(f"query {name}", cpu_seconds(work) * 1e3, "ms", "<= 50"))
    either = [flow_pb2.FlowFilter(source_pod=[nobody]), flow_pb2.FlowFilter(destination_pod=[nobody])]
    seconds = cpu_seconds(lambda: list(FlowQuery(store, decoder, either, []).newest(0, store.seen, 20)))
    figures.append(Figure("query pod at either end, no match", seconds * 1e3, "ms", ""))
    everything = FlowQuery(store, decoder, [], [])
    seconds = cpu_seconds(lambda: list(islice(everything.flows(0, 2000), 2000)))
    figures.append(Figure("decode one flow", seconds / 2000 * 1e6, "us", ""))
    return figures


def spilling() -> list[Figure]:
    """What it costs to write flows to disk with their names, and to read them again."""
    feed, decoder, _ = make_feed(SPILLED)
    records = batch(SPILLED, 0)
    records["destination_ip"] = records["destination_ip"][np.arange(SPILLED) % 500]
    with tempfile.TemporaryDirectory(prefix="axt-") as folder:
        options = SpillOptions(directory=Path(folder), max_bytes=64 << 20)
        spill = FlowSpill(options, feed, decoder, uuid_salt=1)
        feed.append(records)
        write = cpu_once(lambda: asyncio.run(spill.flush()))
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
        again = FlowSpill(options, feed, decoder, uuid_salt=1)
        read = cpu_once(lambda: asyncio.run(again.restore()))
        assert len(again.source.feed.store) == SPILLED
    return [
        Figure("write one flow to disk", write / SPILLED * 1e6, "us", ""),
        Figure("one flow on disk", size / SPILLED, "bytes", ""),
        Figure("read one flow again", read / SPILLED * 1e6, "us", ""),
    ]


def cpu_once(work: Callable[[], object]) -> float:
    """CPU time of one round."""
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    figures = [ingestion(), *queries(), *spilling()]
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    figures.append(Figure("resident memory, two stores", resident, "MiB", ""))
    for figure in figures:
        print(f"{figure.what:40} {figure.value:10.1f} {figure.unit:12} {figure.goal}")


if __name__ == "__main__":
    main()
