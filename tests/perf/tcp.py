"""TCP_STREAM and TCP_RR between two pods of one node, with the programs and without any, in paired rounds.

The pair without programs lives in the same node namespace with the same kind of interfaces, routes and
neighbours; only the programs are missing. Both pairs are measured in each round, in alternating order; a
ratio is of one round.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from axoneme.lab.network import entering
from tests.e2e.policies import SAME_NODE_ALLOW
from tests.perf.laboratory import measured
from tests.perf.result import Result

ROUNDS = 8
STREAM_SECONDS, RR_SECONDS = 1, 1
STREAM_PORT, RR_PORT = 5201, 5202
RR = str(Path(__file__).with_name("tcp_rr.py"))
GATEWAY = "169.254.1.1"


@dataclass(frozen=True, slots=True)
class Pair:
    """Two namespaces and the address of the second."""

    client: str
    server: str
    address: str


def run() -> Iterator[Result]:
    rounds: list[dict[str, tuple[float, float]]] = []
    with measured() as lab, ExitStack() as stack:
        lab.apply(SAME_NODE_ALLOW)
        east = lab.cluster
        with_programs = Pair(east.netns("frontend"), east.netns("backend-near"), lab.ip("backend-near"))
        without = stack.enter_context(bare_pair(east.netns("node1")))
        pairs = {"with": with_programs, "without": without}
        for pair in pairs.values():
            stack.enter_context(servers(pair))
        for number in range(ROUNDS):
            order = list(pairs) if number % 2 else list(reversed(pairs))
            rounds.append({name: (stream(pairs[name]), rr(pairs[name])) for name in order})
    for index, (name, unit) in enumerate((("TCP_STREAM", "Gbit/s"), ("TCP_RR", "1/s"))):
        for kind in ("without", "with"):
            values = [one[kind][index] for one in rounds]
            yield Result(name=f"{name} {kind} programs", unit=unit, values=values)
        ratios = [one["with"][index] / one["without"][index] for one in rounds]
        yield Result(name=f"{name} with / without, paired", unit="ratio", values=ratios, goal="≥ 0.90")


def stream(pair: Pair) -> float:
    words = ["iperf3", "-J", "-c", pair.address, "-p", str(STREAM_PORT), "-t", str(STREAM_SECONDS)]
    report = json.loads(output([*entering(pair.client), *words]))
    return float(report["end"]["sum_received"]["bits_per_second"]) / 1e9


def rr(pair: Pair) -> float:
    words = [sys.executable, RR, "client", pair.address, str(RR_PORT), str(RR_SECONDS)]
    return float(output([*entering(pair.client), *words]))


def output(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout


@contextmanager
def servers(pair: Pair) -> Iterator[None]:
    """iperf3 and the echo of single bytes in the pair's second namespace."""
    inside = entering(pair.server)
    iperf = subprocess.Popen(
        [*inside, "iperf3", "-s", "-p", str(STREAM_PORT), "--forceflush"], stdout=subprocess.PIPE, text=True
    )
    single = subprocess.Popen(
        [*inside, sys.executable, RR, "server", str(RR_PORT)], stdout=subprocess.PIPE, text=True
    )
    assert iperf.stdout is not None
    assert single.stdout is not None
    try:
        while "listening" not in iperf.stdout.readline():
            assert iperf.poll() is None, "iperf3 ended"
        assert single.stdout.readline() == "READY\n"
        yield
    finally:
        for process in (iperf, single):
            process.kill()
            process.communicate()


@contextmanager
def bare_pair(node: str) -> Iterator[Pair]:
    """Two namespaces behind the node's namespace, as the shim would make them, without programs."""
    names = ("axt-bench-a", "axt-bench-b")
    addresses = ("10.250.0.1", "10.250.0.2")
    try:
        for number, (name, address) in enumerate(zip(names, addresses, strict=True)):
            attach(node, name, f"axt{number}", address)
        yield Pair(names[0], names[1], addresses[1])
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def attach(node: str, name: str, interface: str, address: str) -> None:
    ip("netns", "add", name)
    ip("-n", node, "link", "add", interface, "type", "veth", "peer", "name", "eth0", "netns", name)
    ip("-n", node, "link", "set", interface, "up")
    ip("-n", name, "address", "add", f"{address}/32", "dev", "eth0")
    ip("-n", name, "link", "set", "eth0", "up")
    ip("-n", node, "route", "add", f"{address}/32", "dev", interface, "scope", "link")
    ip(
        "-n",
        node,
        "neighbour",
        "replace",
        address,
        "lladdr",
        mac(name, "eth0"),
        "dev",
        interface,
        "nud",
        "permanent",
    )
    ip(
        "-n",
        name,
        "neighbour",
        "replace",
        GATEWAY,
        "lladdr",
        mac(node, interface),
        "dev",
        "eth0",
        "nud",
        "permanent",
    )
    ip("-n", name, "route", "add", f"{GATEWAY}/32", "dev", "eth0", "scope", "link")
    ip("-n", name, "route", "add", "default", "via", GATEWAY, "dev", "eth0")


def neighbour(netns: str, interface: str, address: str, lladdr: str) -> None:
    words = ("neighbour", "replace", address, "lladdr", lladdr, "dev", interface, "nud", "permanent")
    ip("-n", netns, *words)


def mac(netns: str, interface: str) -> str:
    shown = output(["ip", "-n", netns, "-json", "link", "show", interface])
    return str(json.loads(shown)[0]["address"])


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
