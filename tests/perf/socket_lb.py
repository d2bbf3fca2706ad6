"""Cost of connect() with and without load balancing at sockets: `python -m tests.perf.socket_lb`.

One process in a cgroup connects one UDP socket again and again, to a frontend and to an address that is
none; 60,000 frontends are in the map. The programs are attached and detached between the two halves of a
round, in alternating order; a ratio is of one round. Connecting a UDP socket sends nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from axoneme.lib.bpf.cgrouplinks import SOCKET_PROGRAMS, CgroupLink
from axoneme.lib.bpf.features import is_bpffs
from axoneme.lib.bpf.object import BpfObject
from axoneme.lib.bpf.program import BpfProgram
from shim.bpf.compile import CompilerMissing, compile_objects
from shim.bpf.manifest import object_path
from shim.maps import base, lb
from tests.bpf.socketlab import BPFFS, Balancer, Worker, network, unique, workload_cgroup
from tests.perf.result import CannotRunError, Result, table

ROUNDS, CONNECTS, FRONTENDS = 25, 20_000, 60_000
UDP, PORT = 17, 80
FRONTEND = {4: "10.96.0.10", 6: "fd96::10"}
OTHER = {4: "10.77.0.2", 6: "fd77::2"}
BACKEND = {4: "10.77.0.1", 6: "fd77::1"}


@dataclass
class Bench:
    """The client's process, and what it meets in its cgroup."""

    client: Worker
    cgroup: Path
    programs: dict[str, BpfProgram]

    @contextmanager
    def attached(self) -> Iterator[None]:
        links = [
            CgroupLink.create(self.programs[name], cgroup=self.cgroup, hook=hook)
            for name, hook in SOCKET_PROGRAMS.items()
        ]
        try:
            yield
        finally:
            for link in links:
                link.close()

    def connect_ns(self, address: str) -> float:
        return float(self.client.call("connect_ns", address, PORT, CONNECTS))


def fill(balancer: Balancer) -> None:
    for v in (4, 6):
        balancer.backends(v, {v: (BACKEND[v], 8080)}, UDP)
        balancer.frontend(FRONTEND[v], PORT, UDP, lb.LbService(v, 1))
    pairs = []
    for number in range(FRONTENDS - 2):
        address = base.address_bytes(f"10.{97 + (number >> 16)}.{number >> 8 & 255}.{number & 255}")
        pairs.append((lb.LbKey(address, b"\0P", UDP, lb.LB_INSIDE).pack(), lb.LbService(4, 1).pack()))
    balancer.maps["axoneme_lb"].update_batch(pairs)


@contextmanager
def bench() -> Iterator[Bench]:
    with ExitStack() as stack:
        cgroup = stack.enter_context(workload_cgroup(unique("perf")))
        addresses = [one[v] for one in (BACKEND, OTHER, FRONTEND) for v in (4, 6)]
        netns = stack.enter_context(network(unique("perf"), addresses))
        pins = BPFFS / unique("perf")
        stack.callback(shutil.rmtree, pins, ignore_errors=True)
        client = Worker(netns, cgroup)
        stack.callback(client.close)
        with BpfObject(object_path("sock.o")) as loaded:
            loaded.load(pins=pins)
            maps = {name: loaded.map(name) for name in loaded.map_specs()}
            programs = loaded.programs()
        fill(Balancer(maps))
        yield Bench(client, cgroup, programs)


def prepare() -> None:
    """Raises CannotRunError."""
    if os.geteuid() != 0:
        raise CannotRunError("BPF programs need root")
    try:
        compile_objects()
    except CompilerMissing as error:
        raise CannotRunError(str(error)) from error
    if not is_bpffs(BPFFS):
        subprocess.run(["mount", "-t", "bpf", "bpf", str(BPFFS)], check=True)


def run() -> Iterator[Result]:
    """All figures."""
    prepare()
    targets = [(v, what, one[v]) for v in (4, 6) for what, one in (("frontend", FRONTEND), ("other", OTHER))]
    figures: dict[tuple[int, str], list[tuple[float, float]]] = {}
    with bench() as one:
        for number in range(ROUNDS):
            for v, what, address in targets:
                pair: dict[bool, float] = {}
                for attached in (number % 2 == 0, number % 2 == 1):
                    if attached:
                        with one.attached():
                            pair[attached] = one.connect_ns(address)
                    else:
                        pair[attached] = one.connect_ns(address)
                figures.setdefault((v, what), []).append((pair[False], pair[True]))
    for (v, what), pairs in figures.items():
        name = f"socket_lb: UDP connect() to {'a frontend' if what == 'frontend' else 'no frontend'}, IPv{v}"
        yield Result(name=f"{name}, without", unit="ns", values=[without for without, _ in pairs])
        yield Result(name=f"{name}, with", unit="ns", values=[with_ for _, with_ in pairs])
        added = [with_ - without for without, with_ in pairs]
        yield Result(name=f"{name}, added, paired", unit="ns", values=added)


if __name__ == "__main__":
    print(table(run()))
