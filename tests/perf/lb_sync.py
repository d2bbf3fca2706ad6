"""First sync of many services: from the stream's snapshot to entries in the maps, end to end.

    AXONEME_BENCH_SCALE=0.1 python -m tests.perf lb_sync

50,000 services of one backend each, and 1000 of fifty. Real maps need root; on a machine without it the maps
are in memory. Entries are those of all maps together: frontends, slots, backends.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from axoneme.lib.bpf.create import create_map
from axoneme.lib.bpf.kinds import MapSpec
from axoneme.lib.bpf.maps import BpfMap
from axoneme.lib.bpf.memory import MemoryMap
from shim.endpoints import EndpointTable
from shim.lb.balancer import LoadBalancer
from shim.lb.model import MAGLEV, Backend, NodeView, Port, Service
from shim.maps import lb
from shim.maps.base import address_bytes
from tests.perf.result import Result

SCALE = float(os.environ.get("AXONEME_BENCH_SCALE", "1"))
ROUNDS = 3
ROOM = 200_000


class Maps:
    """The maps of load balancing alone."""

    def __init__(self, make: Callable[[MapSpec], BpfMap]) -> None:
        self._make = make
        self.maps: Mapping[str, BpfMap] = {
            spec.name: make(replace(spec, max_entries=ROOM) if spec is lb.LB else spec) for spec in lb.SPECS
        }

    async def new_maglev_table(self, size: int) -> BpfMap:
        """Made here, not by the helper."""
        return self._make(replace(lb.MAGLEV_INNER, max_entries=size))

    async def open_maglev_table(self, set_id: int) -> BpfMap | None:
        """Nothing is audited."""
        del set_id
        return None

    def entries(self) -> int:
        """Entries in all of them."""
        specs = (lb.LB, lb.LB_SLOTS, lb.LB_BACKENDS)
        return sum(len(self.maps[spec.name].items()) for spec in specs)

    def close(self) -> None:
        """Gives the maps back."""
        for one in self.maps.values():
            one.close()


def service(number: int, backends: int, algorithm: str = "") -> Service:
    """A service with a cluster IP of IPv4."""
    first = number * backends
    return Service(
        namespace="default",
        name=f"s{number}",
        ports=(Port(protocol=6, port=80, target_port=8080),),
        cluster_ips=(address_bytes(f"10.96.{number // 250}.{number % 250}"),),
        backends=tuple(
            Backend(address=address_bytes(f"10.{n // 62_500}.{n // 250 % 250}.{n % 250}"), node_name="node2")
            for n in range(first, first + backends)
        ),
        algorithm=algorithm,
    )


def sync(make: Callable[[MapSpec], BpfMap], services: list[Service]) -> tuple[float, float, float]:
    """Seconds of the first sync, entries, and milliseconds for one more backend in one service."""
    maps = Maps(make)
    try:
        return asyncio.run(_sync(maps, services))
    finally:
        maps.close()


async def _sync(maps: Maps, services: list[Service]) -> tuple[float, float, float]:
    view = NodeView(node_name="node1", addresses=(address_bytes("192.0.2.1"),), maglev_table_size=16_381)
    balancer = LoadBalancer(maps, node=view, endpoints=EndpointTable(), clock=time.monotonic)
    await balancer.restore()
    begun = time.perf_counter()
    failures = await balancer.apply({one.key: one for one in services}, (), complete=True)
    taken = time.perf_counter() - begun
    if failures:
        raise RuntimeError(f"{len(failures)} services failed: {next(iter(failures.values()))}")
    more = Backend(address=address_bytes("10.250.0.1"), node_name="node2")
    changed = replace(services[0], backends=(*services[0].backends, more))
    begun = time.perf_counter()
    await balancer.apply({changed.key: changed}, (), complete=False)
    return taken, maps.entries(), 1_000 * (time.perf_counter() - begun)


def run() -> Iterable[Result]:
    """Memory everywhere, the kernel as root."""
    yield from _results("memory", MemoryMap)
    if os.geteuid() == 0:
        yield from _results("kernel", create_map)


def _results(kind: str, make: Callable[[MapSpec], BpfMap]) -> Iterator[Result]:
    for count, backends, algorithm in (
        (int(50_000 * SCALE), 1, ""),
        (int(1_000 * SCALE), 50, ""),
        (int(100 * SCALE), 50, MAGLEV),
    ):
        services = [service(number, backends, algorithm) for number in range(count)]
        rounds = [sync(make, services) for _ in range(ROUNDS)]
        name = f"{count:,} services × {backends} backends{', Maglev' if algorithm else ''}, {kind} maps"
        yield Result(name=f"first sync, {name}", unit="s", values=[taken for taken, _, _ in rounds])
        yield Result(name="  entries written", unit="1/s", values=[n / taken for taken, n, _ in rounds])
        yield Result(name="  one more backend after it", unit="ms", values=[more for _, _, more in rounds])
