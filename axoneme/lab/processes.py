"""Processes of a laboratory: start in a namespace, recognise again, stop.

A process counts as the laboratory's when it lives in one of its network namespaces, carries the laboratory's
token in its environment, or has the recorded pid *and* start time. A pid alone proves nothing: it may have
been given to somebody else. Knows neither what the processes do nor how to tell that they are ready.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

TOKEN_VARIABLE = "AXOLAB_TOKEN"  # noqa: S105  # the name of a variable that marks processes, nothing secret
POLL_SECONDS = 0.05
PROC = Path("/proc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A started process. `start_time`: as `start_time()` gives it."""

    name: str
    cluster: str
    pid: int
    start_time: int
    log: str


def spawn(name: str, cluster: str, command: Sequence[str], *, log: Path, token: str) -> Process:
    """Starts a process in a session of its own, its output appended to the log."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("AXONEME_")}
    with log.open("ab") as output:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**inherited, TOKEN_VARIABLE: token},
        )
    # The laboratory outlives this program: nobody waits for the child through this object.
    child.returncode = 0
    return Process(
        name=name, cluster=cluster, pid=child.pid, start_time=start_time(child.pid) or 0, log=str(log)
    )


def alive(process: Process) -> bool:
    """True while exactly this process runs; a zombie or a reused pid does not count."""
    return start_time(process.pid) == process.start_time


def start_time(pid: int) -> int | None:
    """When a running process started, in a unit of the system's own; None when there is none or a zombie."""
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    if not PROC.is_dir():
        return _start_time_by_ps(pid)
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else int(fields[19])


def find(recorded: Iterable[Process], *, token: str, netns_inodes: Collection[int]) -> list[int]:
    """Pids of all running processes of the laboratory, recorded or not; never the caller's own."""
    starts = {process.pid: process.start_time for process in recorded}
    return [
        pid
        for pid in _all_pids() or starts
        if pid != os.getpid()
        and (start := start_time(pid)) is not None
        and (starts.get(pid) == start or _carries(pid, token) or _inside(pid, netns_inodes))
    ]


def kill(pids: Collection[int], *, first: Collection[int] = (), seconds: float) -> None:
    """Kills processes, those in `first` (supervisors) before the others, and waits until they are gone."""
    starts = {pid: start for pid in pids if (start := start_time(pid)) is not None}
    for pid in sorted(starts, key=lambda pid: pid not in first):
        send(pid, starts[pid], signal.SIGKILL)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(start_time(pid) == start for pid, start in starts.items()):
        time.sleep(POLL_SECONDS)


def send(pid: int, start: int, number: signal.Signals) -> None:
    """Sends a signal to exactly this process; nothing when it is gone or its pid was reused."""
    if start_time(pid) == start:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def last_lines(log: Path, count: int = 8) -> list[str]:
    """The end of a log, each line clipped; empty when there is no log."""
    with suppress(FileNotFoundError), log.open("rb") as stream:
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - 16_384))
        lines = stream.read().decode(errors="replace").splitlines()
        return [line[:300] for line in lines if line.strip()][-count:]
    return []


def _all_pids() -> list[int]:
    return [int(path.name) for path in PROC.iterdir() if path.name.isdigit()] if PROC.is_dir() else []


def _start_time_by_ps(pid: int) -> int | None:
    """For systems without /proc: seconds since 1970."""
    command = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
    shown = subprocess.run(
        command, check=False, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}
    )
    status, _, started = shown.stdout.strip().partition(" ")
    if not started or status.startswith("Z"):
        return None
    return int(time.mktime(time.strptime(" ".join(started.split()), "%a %b %d %H:%M:%S %Y")))


def _carries(pid: int, token: str) -> bool:
    mark = f"{TOKEN_VARIABLE}={token}".encode()
    with suppress(OSError):
        return bool(token) and mark in (PROC / str(pid) / "environ").read_bytes().split(b"\0")
    return False


def _inside(pid: int, netns_inodes: Collection[int]) -> bool:
    with suppress(OSError):
        return (PROC / str(pid) / "ns" / "net").stat().st_ino in netns_inodes
    return False
