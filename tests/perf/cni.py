"""ADD and DEL of `axoneme-cni` beside Debian's `ptp` with `host-local`: `python -m tests.perf.cni`.

One network namespace a pod, one pod after the other, both plugins run as a runtime does. CPU is that of the
plugin processes and, for ours, of the shim and its helper. What the time buys differs: ptp makes a veth pair
and returns; ours returns once the pod's identity is allocated, its policy is in force and every node that
may meet its address knows it. ptp waits for duplicate address detection with IPv6, so it has a row without
as well; ours needs none, since only it gives addresses of the PodCIDR.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from axoneme.lib import certs
from axoneme.lib.roles import parse_role
from axoneme.lib.tls import TlsFiles
from tests.cniruntime import DEBIAN_PLUGINS, CniRuntime, children_cpu_seconds
from tests.contract.test_cni import Node, ptp
from tests.perf.result import CannotRunError, Result, table
from tests.unit.shim.nodelab import node_lab

ROUNDS, PODS = 6, 5
SUBNETS = ["172.30.0.0/24", "fd00:30::/64"]
Figures = dict[str, list[float]]


def run() -> Iterator[Result]:
    """Paired rounds: ours, then ptp, and so on."""
    if os.geteuid() != 0 or not (DEBIAN_PLUGINS / "ptp").exists():
        raise CannotRunError("needs root and Debian's containernetworking-plugins")
    figures: dict[str, Figures] = {}
    with tempfile.TemporaryDirectory() as name, _node(Path(name)) as node:
        ours = node.runtime(name="ours")
        both = CniRuntime(node.lab.name, [ptp(SUBNETS, Path(name) / "ipam")], name="both")
        ipv4 = CniRuntime(node.lab.name, [ptp(SUBNETS[:1], Path(name) / "ipam")], name="ipv4")
        processes = [node.pids()[process] for process in ("shim", "helper")]
        for number in range(ROUNDS + 1):
            for label, runtime, pids in (
                ("axoneme-cni", ours, processes),
                ("ptp + host-local", both, []),
                ("ptp + host-local, IPv4 only", ipv4, []),
            ):
                found = _round(node, runtime, number, pids)
                for what, value in found.items() if number else ():  # the first round warms everything up
                    figures.setdefault(label, {}).setdefault(what, []).append(value)
    for label, one in figures.items():
        for what, values in one.items():
            yield Result(name=f"CNI {what}, {label}", unit="ms", values=values)
    yield _start()


def _round(node: Node, runtime: CniRuntime, number: int, pids: list[int]) -> dict[str, float]:
    """Milliseconds a pod: median time of ADD and of DEL, mean CPU of both together."""
    pods = {f"{runtime.name}-{number}-{index}": node.lab.add_workload() for index in range(PODS)}
    used = children_cpu_seconds() + _cpu_seconds(pids)
    added = [_timed(lambda p=p, n=n: runtime.add(p, n)) for p, n in pods.items()]  # type: ignore[misc]
    deleted = [_timed(lambda p=p, n=n: runtime.delete(p, n)) for p, n in pods.items()]  # type: ignore[misc]
    used = children_cpu_seconds() + _cpu_seconds(pids) - used
    for path in pods.values():
        name = path.rpartition("/")[2]
        subprocess.run(["ip", "netns", "del", name], check=True)
        node.lab.namespaces.remove(name)
    return {
        "ADD": statistics.median(added) * 1e3,
        "DEL": statistics.median(deleted) * 1e3,
        "CPU of ADD + DEL": used / PODS * 1e3,
    }


def _timed(doing: Callable[[], object]) -> float:
    begun = time.perf_counter()
    doing()
    return time.perf_counter() - begun


def _cpu_seconds(pids: list[int]) -> float:
    """User and system time of running processes."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _start() -> Result:
    """The plugin from exec to its answer, without a shim."""
    plugin = Path(__file__).parents[2] / "shim" / "cni.py"

    def ask() -> object:
        asked = b'{"cniVersion": "1.0.0"}'
        return subprocess.run(
            [plugin], input=asked, env={"CNI_COMMAND": "VERSION"}, capture_output=True, check=True
        )

    values = [_timed(ask) * 1e3 for _ in range(21)][1:]
    return Result(name="CNI VERSION, axoneme-cni", unit="ms", values=values, goal="≤ 50 ms")


@contextmanager
def _node(directory: Path) -> Iterator[Node]:
    def tls_files(role: str) -> TlsFiles:
        folder = directory / role.replace("/", "-")
        folder.mkdir(mode=0o700)
        parsed = parse_role(role)
        certs.issue(
            directory, parsed, parsed.name, folder, dns_sans=["localhost"], ip_sans=["127.0.0.1", "::1"]
        )
        return TlsFiles(folder / "ca.crt", folder / "tls.crt", folder / "tls.key")

    directory.chmod(0o700)
    certs.create_ca(directory, "east.mesh")
    with node_lab(directory) as lab:
        node = Node(lab, tls_files)
        node.start()
        node.wait_ready()
        yield node
        node.channel.close()


if __name__ == "__main__":
    print(table(run()))
