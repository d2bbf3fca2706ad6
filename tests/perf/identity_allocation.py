"""Rate and etcd CPU of new identities at 1, 8 and 64 workers: minimum, median and maximum of five runs.

Run it as `python -m tests.perf.identity_allocation`. Each run uses new label sets on one real etcd (unix
socket, data in the temporary folder). CPU is etcd's own, from /proc.
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import time
from pathlib import Path

from axoneme.lib.kvstore.etcd import EtcdStore
from axoneme.lib.labels import LabelSet
from axoneme.lib.tasks import TaskScope
from services.identity.allocation import Allocator
from services.identity.leases import LeaseBook
from services.identity.mirror import Mirror
from services.identity.state import ClusterState
from tests.etcdserver import EtcdServer, running_etcd

WORKERS = (1, 8, 64)
RUNS = 5
IDENTITIES = 400
HEADERS = ("workers", "identities/s min", "median", "max", "etcd CPU ms per identity min", "median", "max")


def cpu_seconds(pid: int) -> float:
    """CPU time of a process with its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def one_run(server: EtcdServer, workers: int, run: int, identities: int) -> tuple[float, float]:
    """(identities per second, etcd CPU ms per identity)."""
    async with EtcdStore.connect(server.endpoints, None) as store, TaskScope("bench") as scope:
        state = ClusterState("east", 1)
        mirror = Mirror(store, state, lambda: 1)
        scope.start("mirror", mirror.run())
        await mirror.synced.wait()
        allocator = Allocator(store, state, rng=random.Random(run))
        book = LeaseBook(store, 900)
        lease = await book.grant()
        todo = iter(range(identities))

        async def work() -> None:
            for number in todo:
                labels = LabelSet.parse(
                    [f"k8s:app=w{workers}-{run}-{number}", "k8s:io.cilium.k8s.policy.cluster=east",
                     "k8s:io.kubernetes.pod.namespace=default"]
                )  # fmt: skip
                found = await allocator.allocate(labels, "node1", lease)
                assert found.allocated

        before, start = cpu_seconds(server.pid), time.perf_counter()
        await asyncio.gather(*(work() for _ in range(workers)))
        seconds = time.perf_counter() - start
        await mirror.catch_up()
        return identities / seconds, (cpu_seconds(server.pid) - before) * 1000 / identities


def measure(runs: int = RUNS, identities: int = IDENTITIES) -> list[tuple[str, ...]]:
    """Rows of the table."""
    rows = []
    for workers in WORKERS:
        with running_etcd(unix_socket=True) as server:
            pairs = [asyncio.run(one_run(server, workers, run, identities)) for run in range(runs)]
        rates, costs = zip(*pairs, strict=True)
        rows.append(
            (
                str(workers),
                *(f"{value:.0f}" for value in (min(rates), statistics.median(rates), max(rates))),
                *(f"{value:.2f}" for value in (min(costs), statistics.median(costs), max(costs))),
            )
        )
    return rows


def main() -> None:
    """Prints the table."""
    print("  ".join(HEADERS))
    for row in measure():
        print("  ".join(value.rjust(len(header)) for header, value in zip(HEADERS, row, strict=True)))
    print(f"load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} CPUs")


if __name__ == "__main__":
    main()
