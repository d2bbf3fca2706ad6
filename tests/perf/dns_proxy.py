"""CPU of the DNS proxy per query, beside dnsdist and unbound of Debian in the same run.

    dnsperf in a pod's namespace ─► proxy in the node's ─► unbound with local data in the resolver's

Each forwarder checks the names (dnsdist: a suffix list; unbound: nothing) and keeps no answer. Rounds
alternate between them. CPU is what the scheduler gave the forwarder's threads (/proc/PID/task) and
includes the delivery of what it sends, as for all of them. The forwarder has core 0 for itself; dnsperf
and the resolver share core 1.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from tests.dnsnetwork import RESOLVER, DnsNetwork, dns_network
from tests.perf.result import CannotRunError, Result

ROUNDS: Final = int(os.environ.get("AXONEME_BENCH_ROUNDS", "5"))
SECONDS: Final = 3
NAMES: Final = 50_000  # more than are kept of one endpoint: each is new, and the oldest goes
FEW_NAMES: Final = 500  # asked again before half a second passed
IN_FLIGHT: Final = 100
NODE_ADDRESS: Final = "10.77.1.1"
START_SECONDS: Final = 10.0
FORWARDER_CORE, OTHER_CORE = "0", "1"


@dataclass(frozen=True)
class Load:
    """What dnsperf asks for."""

    title: str
    queries: Path
    sockets: int


@dataclass(frozen=True)
class Forwarder:
    """What is measured: its command, which address is asked, and when it is ready."""

    title: str
    command: tuple[str, ...]
    address: str
    loads: tuple[Load, ...]
    goals: tuple[str, ...] = ()


def run() -> Iterator[Result]:
    """Raises CannotRunError without root, dnsperf or unbound; without dnsdist its lines are missing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        raise CannotRunError("needs root on Linux")
    if (os.cpu_count() or 1) < 2:
        raise CannotRunError("needs two cores")
    for program in ("dnsperf", "unbound"):
        if shutil.which(program) is None:
            raise CannotRunError(f"needs {program} (apt-get install dnsperf unbound dnsdist)")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="axt-dns-")))
        folder.chmod(0o755)
        network = stack.enter_context(dns_network())
        stack.enter_context(_resolver(network, folder))
        yield from _measured(network, _forwarders(folder))


def _forwarders(folder: Path) -> list[Forwarder]:
    allowed, refused, known = folder / "allowed", folder / "refused", folder / "known"
    known.write_text("".join(f"host{n}.domain.com A\n" for n in range(FEW_NAMES)))
    allowed.write_text("".join(f"host{n}.domain.com A\n" for n in range(NAMES)))
    refused.write_text("".join(f"host{n}.elsewhere.org A\n" for n in range(NAMES)))
    few = Load("allow, 4 sockets", allowed, 4)
    many = Load("allow, 200 sockets", allowed, 200)
    deny = Load("deny, 4 sockets", refused, 4)
    again = Load(f"allow, 4 sockets, {FEW_NAMES} names", known, 4)
    loads = (few, again, many, deny)
    found = [
        Forwarder(f"proxy, {kind}, {count:,} patterns", _proxy(count, kind), RESOLVER[4], loads, goals)
        for kind, count, goals in (
            ("whole", 10, ("≤ 12", "≤ 12", "", "")),
            ("whole", 1_000, ("≤ 13", "≤ 13", "", "")),
            ("parts", 10, ()),
            ("parts", 1_000, ()),
        )
    ]
    found += [
        Forwarder("unbound, no cache", _unbound_forwarder(folder), NODE_ADDRESS, (few, many)),
    ]
    if shutil.which("dnsdist") is None:
        print("dns_proxy: no dnsdist here (apt-get install dnsdist): not compared with it", file=sys.stderr)
    else:
        found.append(Forwarder("dnsdist", _dnsdist(folder), NODE_ADDRESS, loads))
    return found


def _proxy(patterns: int, kind: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "tests.perf.dns_proxy_process", str(patterns), kind)


def _dnsdist(folder: Path) -> tuple[str, ...]:
    path = folder / "dnsdist.conf"
    path.write_text(
        f"""setLocal("{NODE_ADDRESS}:53")
setACL({{"0.0.0.0/0"}})
setSecurityPollSuffix("")
newServer({{address="{RESOLVER[4]}:53", checkName="host0.domain.com."}})
names = newSuffixMatchNode()
names:add(newDNSName("domain.com."))
addAction(NotRule(SuffixMatchNodeRule(names)), RCodeAction(DNSRCode.REFUSED))
"""
    )
    return ("dnsdist", "-C", str(path), "--supervised", "--disable-syslog")


_UNBOUND: Final = """server:
  interface: {interface}
  access-control: 0.0.0.0/0 allow
  username: ""
  chroot: ""
  directory: "{folder}"
  pidfile: ""
  use-syslog: no
  verbosity: 0
  num-threads: 1
  module-config: "iterator"
  do-daemonize: no
{more}
remote-control:
  control-enable: no
"""


def _unbound_forwarder(folder: Path) -> tuple[str, ...]:
    more = (
        "  msg-cache-size: 0\n  rrset-cache-size: 0\n  do-not-query-localhost: no\n"
        f'forward-zone:\n  name: "."\n  forward-addr: {RESOLVER[4]}\n'
    )
    return _unbound(folder, "forwarder", NODE_ADDRESS, more)


def _unbound(folder: Path, name: str, interface: str, more: str) -> tuple[str, ...]:
    path = folder / f"{name}.conf"
    path.write_text(_UNBOUND.format(interface=interface, folder=folder, more=more))
    return ("unbound", "-c", str(path))


@contextmanager
def _resolver(network: DnsNetwork, folder: Path) -> Iterator[None]:
    more = '  local-zone: "domain.com." redirect\n  local-data: "domain.com. 60 A 192.0.2.1"'
    command = _unbound(folder, "resolver", RESOLVER[4], more)
    with _process(network.resolver, OTHER_CORE, command):
        _wait_for_answer(network, RESOLVER[4], network.node)
        yield


@contextmanager
def _process(netns: str, core: str, command: tuple[str, ...]) -> Iterator[int]:
    """A process in a namespace and on a core; its number."""
    words = ["ip", "netns", "exec", netns, "taskset", "-c", core, *command]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process.pid  # ip and taskset become the command
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for_answer(network: DnsNetwork, address: str, netns: str) -> None:
    limit = time.monotonic() + START_SECONDS
    with TemporaryDirectory(prefix="axt-dns-") as folder:
        one = Load("", Path(folder, "one"), 1)
        one.queries.write_text("host0.domain.com A\n")
        while _dnsperf(netns, address, one, "-n", "1", "-t", "0.2") != 1:
            if time.monotonic() > limit:
                raise CannotRunError(f"{address} does not answer")


def _dnsperf(netns: str, address: str, load: Load, *words: str) -> int:
    """Runs dnsperf; how many queries were answered."""
    command = ["ip", "netns", "exec", netns, "taskset", "-c", OTHER_CORE]
    command += ["dnsperf", "-s", address, "-d", str(load.queries), "-c", str(load.sockets), "-T", "1"]
    command += ["-q", str(IN_FLIGHT), *words]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"Queries completed:\s+(\d+)", output)
    return int(found[1]) if found else 0


def _cpu_ns(pid: int) -> int:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)


def _measured(network: DnsNetwork, forwarders: list[Forwarder]) -> Iterator[Result]:
    figures: dict[tuple[str, str], list[float]] = {}
    rates: dict[tuple[str, str], list[float]] = {}
    for _ in range(ROUNDS):
        for forwarder in forwarders:
            with _process(network.node, FORWARDER_CORE, forwarder.command) as pid:
                _wait_for_answer(network, forwarder.address, network.pod)
                for load in forwarder.loads:
                    key = forwarder.title, load.title
                    cpu, answered = _one_round(network, pid, forwarder.address, load)
                    figures.setdefault(key, []).append(cpu / answered / 1_000)
                    rates.setdefault(key, []).append(answered / SECONDS)
    for forwarder in forwarders:
        goals = forwarder.goals or ("",) * len(forwarder.loads)
        for load, goal in zip(forwarder.loads, goals, strict=True):
            key = forwarder.title, load.title
            name = f"dns: {forwarder.title}: {load.title}"
            yield Result(name=name, unit="CPU µs/query", values=figures[key], goal=goal)
            yield Result(name=f"{name}: seen", unit="queries/s", values=rates[key])


def _one_round(network: DnsNetwork, pid: int, address: str, load: Load) -> tuple[int, int]:
    _dnsperf(network.pod, address, load, "-l", "1")  # sockets and caches are warm
    before = _cpu_ns(pid)
    answered = _dnsperf(network.pod, address, load, "-l", str(SECONDS))
    return _cpu_ns(pid) - before, max(answered, 1)
