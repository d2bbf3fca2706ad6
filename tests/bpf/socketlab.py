"""Processes of our own in network namespaces and cgroups of our own, and the maps of load balancing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from axoneme.lib.bpf.cgrouplinks import cgroup2_root
from axoneme.lib.bpf.create import create_map
from axoneme.lib.bpf.kinds import MapKind, MapSpec
from axoneme.lib.bpf.maps import KernelMap
from shim.maps import base, lb

SCRIPT = str(Path(__file__).with_name("socketcalls.py"))
ANSWER_SECONDS = 60.0
BPFFS = Path("/sys/fs/bpf")


class Worker:
    """A process that makes calls of tests/bpf/socketcalls.py for us."""

    def __init__(self, netns: str, cgroup: Path | None = None) -> None:
        command = ["ip", "netns", "exec", netns, sys.executable, SCRIPT]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if cgroup is not None:
            (cgroup / "cgroup.procs").write_text(str(self._process.pid))

    def call(self, name: str, *arguments: object) -> Any:
        self.begin(name, *arguments)
        return self.finish()

    def begin(self, name: str, *arguments: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([name, *arguments]) + "\n")
        self._process.stdin.flush()

    def finish(self) -> Any:
        assert self._process.stdout is not None
        limit = threading.Timer(ANSWER_SECONDS, self._process.kill)
        limit.start()
        line = self._process.stdout.readline()
        limit.cancel()
        assert line, "the process of the sockets ended"
        return json.loads(line)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextmanager
def network(name: str, addresses: Sequence[str] = ()) -> Iterator[str]:
    """A namespace with `addresses` on lo."""
    run("ip", "netns", "add", name)
    try:
        run("ip", "-n", name, "link", "set", "lo", "up")
        for address in addresses:
            bits = "128" if ":" in address else "32"
            extra = ["nodad"] if ":" in address else []
            run("ip", "-n", name, "address", "add", f"{address}/{bits}", "dev", "lo", *extra)
        yield name
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=False)


@contextmanager
def workload_cgroup(name: str) -> Iterator[Path]:
    """A cgroup of v2. Processes in it end before it does."""
    root = cgroup2_root()
    if root is None:
        pytest.skip("no cgroup v2 is mounted")
    folder = root / name
    folder.mkdir()
    try:
        yield folder
    finally:
        folder.rmdir()


def run(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


class Balancer:
    """The maps of services, filled as the shim does."""

    def __init__(self, maps: Mapping[str, KernelMap]) -> None:
        self.maps = maps

    def reset(self) -> None:
        for name in ("axoneme_lb", "axoneme_lb_slots", "axoneme_lb_backends", "axoneme_maglev"):
            self.clear(name)
        self.clear("axoneme_affinity")
        self.clear("axoneme_sockets")

    def clear(self, name: str) -> None:
        self.maps[name].delete_batch([key for key, _ in self.maps[name].items()])

    def backends(self, set_id: int, numbers: Mapping[int, tuple[str, int]], protocol: int) -> None:
        for slot, (number, (address, port)) in enumerate(numbers.items()):
            self.backend(number, address, port, protocol)
            key = lb.LbSlotKey(set_id, slot).pack()
            self.maps["axoneme_lb_slots"].update(key, base.number_key(number))

    def backend(self, number: int, address: str, port: int, protocol: int, flags: int = 0) -> None:
        entry = lb.LbBackend(base.address_bytes(address), port.to_bytes(2, "big"), protocol, flags)
        self.maps["axoneme_lb_backends"].update(base.number_key(number), entry.pack())

    def frontend(
        self, address: str, port: int, protocol: int, service: lb.LbService, *, scope: int = lb.LB_INSIDE
    ) -> None:
        key = lb.LbKey(base.address_bytes(address), port.to_bytes(2, "big"), protocol, scope)
        self.maps["axoneme_lb"].update(key.pack(), service.pack())

    def maglev(self, set_id: int, table: Sequence[int]) -> None:
        spec = MapSpec(
            name="axoneme_mtab",
            kind=MapKind.ARRAY,
            key_size=4,
            value_size=4,
            max_entries=len(table),
            flags=lb.MAGLEV_INNER.flags,
        )
        inner = create_map(spec)
        inner.update_batch([(base.number_key(i), base.number_key(one)) for i, one in enumerate(table)])
        self.maps["axoneme_maglev"].set_inner(base.number_key(set_id), inner)
        inner.close()

    def affinities(self) -> dict[lb.LbAffinityKey, lb.LbAffinity]:
        return {
            lb.LbAffinityKey.unpack(key): lb.LbAffinity.unpack(value)
            for key, value in self.maps["axoneme_affinity"].items()
        }


def unique(what: str) -> str:
    return f"axt-e-{what}-{os.getpid()}"
