"""Connections that pass and that do not, over IPv4 and IPv6, many at a time; and pods that come and go."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from axoneme.lab import network
from tests.e2e.running import TRAFFIC, Running

PASSING_SECONDS, FIRST_PACKET_SECONDS, STOPPED_SECONDS = 5.0, 0.9, 0.4
PORT = 8080


@dataclass(frozen=True, slots=True)
class Party:
    """Who sends from, or listens at, an address of each family."""

    name: str
    netns: str
    ips: tuple[str, str]


Way = tuple[Party, Party] | tuple[Party, Party, int]
"""Sender, receiver and, if it is not 8080, the TCP port."""


def party(lab: Running, pod: str) -> Party:
    return Party(pod, lab.cluster.netns(pod), (lab.ip(pod, 4), lab.ip(pod, 6)))


def expect(
    *, passes: Sequence[Way] = (), stops: Sequence[Way] = (), seconds: float = PASSING_SECONDS
) -> None:
    """Tries all ways at once over both families; raises AssertionError naming those that came out otherwise.

    Below one second nothing is sent twice; a way that should be closed is given no more.
    """
    wanted = [(way, ip, True) for way in passes for ip in (0, 1)]
    wanted += [(way, ip, False) for way in stops for ip in (0, 1)]
    started = [
        (way, family, open_, _curl(way, family, seconds if open_ else STOPPED_SECONDS))
        for way, family, open_ in wanted
    ]
    wrong = []
    for way, family, open_, process in started:
        text = process.communicate()[0]
        came = process.returncode == 0 and text.startswith("hello from")
        if came != open_:
            said = "passes" if came else "is stopped"
            wrong.append(f"{way[0].name} -> {way[1].name}:{_port(way)} over IPv{6 if family else 4} {said}")
    assert not wrong, "; ".join(wrong)


def _curl(way: Way, family: int, seconds: float) -> subprocess.Popen[str]:
    source, target = way[0], way[1]
    ip = target.ips[family]
    url = f"http://[{ip}]:{_port(way)}/" if family else f"http://{ip}:{_port(way)}/"
    command = [
        *network.entering(source.netns),
        *("curl", "-sS", "--globoff", "--max-time", str(seconds), "--interface", source.ips[family], url),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def _port(way: Way) -> int:
    return way[2] if len(way) == 3 else PORT


def traffic_in(netns: str, *words: str) -> subprocess.Popen[str]:
    """Starts a sender or receiver of traffic.py in a network namespace."""
    command = [*network.entering(netns), sys.executable, TRAFFIC, *words]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@contextmanager
def greeting(name: str, netns: str, *ports: int) -> Iterator[None]:
    """Somebody in a network namespace says hello on TCP ports, as long as the block lasts."""
    with traffic_in(netns, "greet-server", name, *map(str, ports or (PORT, PORT + 1))) as server:
        assert server.stdout is not None
        try:
            assert server.stdout.readline() == "READY\n"
            yield
        finally:
            server.communicate()


@contextmanager
def new_pod(
    lab: Running, name: str, node: str, *, labels: Sequence[str], ports: Sequence[str] = ()
) -> Iterator[Party]:
    """A pod made with `axoneme endpoint add`; it greets on TCP 8080 and 8081."""
    netns = lab.cluster.netns(name)
    subprocess.run(["ip", "netns", "add", netns], check=True)
    try:
        words = [*(word for one in labels for word in ("--label", one))]
        words += [word for one in ports for word in ("--port", one)]
        path = str(network.NETNS_DIRECTORY / netns)
        added = ("endpoint", "add", f"default/{name}", "--node", node, "--netns", path, *words, "-o", "json")
        with greeting(name, netns):
            endpoint = json.loads(lab.command(*added).out)
            ips = sorted(endpoint["ips"], key=lambda ip: ":" in ip)
            try:
                yield Party(name, netns, (ips[0], ips[1]))
            finally:
                lab.command("endpoint", "delete", name, "--node", node)
    finally:
        subprocess.run(["ip", "netns", "delete", netns], check=True)
