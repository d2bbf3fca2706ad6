"""One replica of the policy service with 1,000 subscribed shims: how long a change takes to the last Ack.

The clock starts when the change is published and stops with the last acknowledgement. The service is this
process, on loopback with mTLS; the shims are bare ends of the protocol in two child processes, each node with
a certificate and a connection of its own. So the machine also carries a thousand clients, which a real one
does not.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from axoneme.lib import grpcsettings  # isort: skip  (before grpc)

from axoneme.lib import certs
from axoneme.lib.policy.model import SubjectPolicy
from tests.fanout import (
    FIRST_PEER,
    FIRST_SUBJECT,
    TRUST_DOMAIN,
    FanOut,
    Rules,
    certificate,
    fan_out,
    memory_folder,
    node_name,
    subjects_of,
)
from tests.perf.result import Result

assert grpcsettings.ENVIRONMENT

SHIMS = int(os.environ.get("AXONEME_FANOUT_SHIMS", "1000"))
PROCESSES = 2
SUBJECTS = 1_000
PER_NODE = 100
RULES, PEERS = 5, 20
ROUNDS = 15
LIMIT_SECONDS = 60.0


@dataclass
class Figures:
    """What one run measured."""

    snapshot: list[float] = field(default_factory=list)
    one: list[float] = field(default_factory=list)
    all: list[float] = field(default_factory=list)
    cpu_snapshot: list[float] = field(default_factory=list)
    cpu_one: list[float] = field(default_factory=list)
    cpu_all: list[float] = field(default_factory=list)
    kib_connected: float = 0
    kib_synced: float = 0
    kib_after: float = 0
    mib_peak: float = 0


def run() -> Iterator[Result]:
    got = asyncio.run(_measure())
    each, last = f"{PER_NODE} subjects", f"at the last of {SHIMS:,} shims"
    yield Result(name=f"first snapshot, {each} each, {last}", unit="s", values=got.snapshot)
    yield Result(name=f"change of one subject {last}", unit="s", values=got.one, goal="≤ 1 s")
    yield Result(name=f"change of {each} each {last}", unit="s", values=got.all)
    yield Result(name="service CPU per shim, first snapshot", unit="ms", values=got.cpu_snapshot)
    yield Result(name="service CPU per shim, change of one subject", unit="ms", values=got.cpu_one)
    yield Result(name=f"service CPU per shim, change of {each}", unit="ms", values=got.cpu_all)
    yield Result(name="service memory per shim, connected", unit="KiB", values=[got.kib_connected])
    yield Result(name="service memory per shim, after the snapshot", unit="KiB", values=[got.kib_synced])
    yield Result(name="service memory per shim, after the changes", unit="KiB", values=[got.kib_after])
    yield Result(name="service memory at its peak", unit="MiB", values=[got.mib_peak])


async def _measure() -> Figures:
    figures = Figures()
    service, rules = fan_out(), Rules(RULES, PEERS)
    for index in range(SHIMS):
        service.claim(node_name(index), subjects_of(index, SUBJECTS, PER_NODE))
    revision = service.publish(_policies(rules, {}))
    with tempfile.TemporaryDirectory(dir=memory_folder()) as folder:
        ca = Path(folder)
        certs.create_ca(ca, TRUST_DOMAIN)
        async with service.serving(certificate(ca, "svc/policy")) as port:
            before = resident_kib()
            async with _shims(port, ca):
                figures.kib_connected = (resident_kib() - before) / SHIMS
                begun, cpu_before = time.perf_counter(), cpu_seconds()
                service.host.set_ready(True)
                await _acknowledged(service, revision)
                figures.snapshot.append(time.perf_counter() - begun)
                figures.cpu_snapshot.append((cpu_seconds() - cpu_before) * 1000 / SHIMS)
                figures.kib_synced = (resident_kib() - before) / SHIMS
                for number in range(ROUNDS):
                    await _change_one(service, rules, number, figures)
                    await _change_all(service, rules, number, figures)
                figures.kib_after = (resident_kib() - before) / SHIMS
    figures.mib_peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return figures


async def _change_one(service: FanOut, rules: Rules, number: int, figures: Figures) -> None:
    """The subject that lives everywhere gets another rule."""
    policy = rules.policy([rules.own_group(FIRST_PEER, 8_000 + number)])
    await _timed(service, lambda: {FIRST_SUBJECT: policy}, figures.one, figures.cpu_one)


async def _change_all(service: FanOut, rules: Rules, number: int, figures: Figures) -> None:
    """A new identity is a peer of a rule that every subject has."""

    def change() -> dict[int, SubjectPolicy]:
        rules.add_peer(FIRST_PEER + PEERS + number)
        return _policies(rules, {})

    await _timed(service, change, figures.all, figures.cpu_all)


async def _timed(
    service: FanOut, change: Callable[[], dict[int, SubjectPolicy]], seconds: list[float], cpu: list[float]
) -> None:
    made, cpu_before, begun = service.codec.bodies.made, cpu_seconds(), time.perf_counter()
    await _acknowledged(service, service.publish(change()))
    seconds.append(time.perf_counter() - begun)
    cpu.append((cpu_seconds() - cpu_before) * 1000 / SHIMS)
    if service.codec.bodies.made - made > SUBJECTS:
        raise AssertionError("a change was serialised more than once")


async def _acknowledged(service: FanOut, revision: int) -> None:
    late = await service.host.wait_acknowledged(revision, timeout=LIMIT_SECONDS)
    if late:
        raise TimeoutError(f"{len(late)} of {SHIMS} shims did not acknowledge within {LIMIT_SECONDS:.0f} s")


def _policies(rules: Rules, own: dict[int, SubjectPolicy]) -> dict[int, SubjectPolicy]:
    return {number: own.get(number) or rules.policy() for number in _numbers()}


def _numbers() -> range:
    return range(FIRST_SUBJECT, FIRST_SUBJECT + SUBJECTS)


@contextlib.asynccontextmanager
async def _shims(port: int, ca: Path) -> AsyncIterator[None]:
    """The child processes, once all their streams are open."""
    share = SHIMS // PROCESSES
    children = []
    try:
        for number in range(PROCESSES):
            arguments = [port, ca, number * share, share, SUBJECTS, PER_NODE]
            children.append(
                await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "tests.perf.fanout_shims", *map(str, arguments),
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2],
                )
            )  # fmt: skip
        for child in children:
            assert child.stdout is not None
            while (line := await child.stdout.readline()) != b"open\n":
                if not line:
                    raise RuntimeError("a process of shims ended early")
        yield
    finally:
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()


def resident_kib() -> int:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 1024


def cpu_seconds() -> float:
    """CPU time of this process, with gRPC's threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
