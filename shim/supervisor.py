"""Starts and keeps a node's processes: the privileged helper, the DNS proxy, the shim. Standard library only.

    python -m shim.supervisor --config node.toml

A process that ends is started again: at once after a long life, else after 0.1 s, doubling to 1 s. SIGTERM
goes to the processes in reverse order of their start, each with its own time to end. Between fork and exec
helper and proxy keep only the capabilities of their lists, the shim loses every one, and each comes under its
filter of system calls (`seccomp`); once they run, none starts other programs. A process with a heartbeat that
stands still is killed and started again. No process ends with another one. When the supervisor itself dies,
the kernel ends its children; the kernel's maps and programs go on.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from shim import privileges, seccomp

FIRST_BACKOFF_SECONDS, LAST_BACKOFF_SECONDS, LONG_LIFE_SECONDS = 0.1, 1.0, 10.0
STOP_SECONDS = 15.0
HEARTBEAT_LIMIT_SECONDS, HEARTBEAT_LOOK_SECONDS, HEARTBEAT_START_SECONDS = 2.0, 0.25, 10.0

# What the helper's closed list of requests needs. NET_ADMIN: links, addresses, routes, neighbours, and
# programs of tc; with BPF it loads, attaches and makes maps. SYS_ADMIN: entering a workload's network
# namespace, mounting the BPF file system, and the descriptor of a map from its id; the kernel counts it for
# PERFMON too, without which the verifier refuses the programs, so that one need not be named. Not
# SYS_RESOURCE: maps are charged to the cgroup since Linux 5.11, so no limit has to be raised. Not
# DAC_OVERRIDE: everything that it opens belongs to root. Not SYS_PTRACE: /proc/PID/ns/net of a process with
# more rights than these stays closed to it, and such a workload is named by /run/netns/NAME.
HELPER_CAPABILITIES = (privileges.CAP_BPF, privileges.CAP_NET_ADMIN, privileges.CAP_SYS_ADMIN)

# What the DNS proxy's sockets need. NET_ADMIN: transparent sockets, marks, and addresses of others to send
# from. NET_RAW: answers whose source is the resolver. NET_BIND_SERVICE: pods may ask from ports below 1024.
FQDN_CAPABILITIES = (privileges.CAP_NET_ADMIN, privileges.CAP_NET_BIND_SERVICE, privileges.CAP_NET_RAW)


@dataclass(frozen=True, kw_only=True)
class ProcessSpec:
    """One process of a node, with the capabilities that it keeps, and its filter of system calls.

    `heartbeat`: a file that the process touches at least every second while it works.
    """

    name: str
    command: tuple[str, ...]
    capabilities: tuple[int, ...] = ()
    filter_program: bytes = b""
    environment: Mapping[str, str] = field(default_factory=dict)
    heartbeat: Path | None = None


@dataclass(slots=True)
class _Child:
    spec: ProcessSpec
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    backoff_seconds: float = FIRST_BACKOFF_SECONDS
    due: float = 0.0
    restarts: int = -1
    pulse: Pulse | None = None


class Pulse:
    """Whether a heartbeat goes on: a file's time that changes, whatever the wall clock says of it."""

    def __init__(self, path: Path, now: float) -> None:
        self._path = path
        self._time = self._read()
        self._looked = now
        self._silent = HEARTBEAT_LIMIT_SECONDS - HEARTBEAT_START_SECONDS

    def stopped(self, now: float) -> bool:
        """Whether it stood still for too long. What this process slept through itself does not count."""
        passed, self._looked = now - self._looked, now
        current = self._read()
        if current != self._time:
            self._time, self._silent = current, 0.0
        else:
            self._silent += min(passed, 2 * HEARTBEAT_LOOK_SECONDS)
        return self._silent >= HEARTBEAT_LIMIT_SECONDS

    def _read(self) -> int:
        try:
            return self._path.stat().st_mtime_ns
        except OSError:
            return 0


def node_processes(config_file: Path) -> list[ProcessSpec]:
    """The processes of a node in the order of their start. Raises OSError or ValueError for a bad file."""
    settings = _settings(config_file)
    node_name = settings.get("node_name") or os.environ.get("AXONEME_NODE_NAME", "")
    if not node_name:
        raise ValueError(f"{config_file}: node_name is missing; give the node the name in its certificate")
    python = sys.executable
    run_directory = settings.get("run_directory", "/run/axoneme")
    helper = ProcessSpec(
        name="helper",
        command=(
            *(python, "-m", "shim.privileged", "--node-name", node_name, "--run-directory", run_directory),
            *("--bpffs", settings.get("bpffs", "/sys/fs/bpf")),
        ),
        capabilities=HELPER_CAPABILITIES,
        filter_program=seccomp.helper_program(),
    )
    shim = ProcessSpec(
        name="shim",
        command=(python, "-m", "shim.main", "--config", str(config_file)),
        filter_program=seccomp.shim_program(),
    )
    if settings.get("datapath") == "memory":
        return [shim]
    proxy = [_fqdn(config_file, Path(run_directory))] if settings.get("dns_proxy", True) else []
    return [helper, *proxy, shim]


def _fqdn(config_file: Path, run_directory: Path) -> ProcessSpec:
    """The DNS proxy: before the shim, so that policies find it."""
    return ProcessSpec(
        name="fqdn",
        command=(
            *(sys.executable, "-m", "shim.confined", "services.fqdn.main"),
            *("--config", str(config_file)),
        ),
        capabilities=FQDN_CAPABILITIES,
        filter_program=seccomp.fqdn_program(),
        heartbeat=run_directory / "fqdn.heartbeat",
    )


def _settings(config_file: Path) -> dict[str, Any]:
    with config_file.open("rb") as file:
        return tomllib.load(file)


class Supervisor:
    """Keeps a list of processes alive until it is told to stop."""

    def __init__(
        self,
        specs: Sequence[ProcessSpec],
        *,
        clock: Callable[[], float] = time.monotonic,
        log: Any = sys.stderr,
    ) -> None:
        self._children = [_Child(spec) for spec in specs]
        self._clock = clock
        self._log = log
        self._stopping = False
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self) -> int:
        """Starts everything and returns 0 after a stop."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        with selectors.DefaultSelector() as selector:
            selector.register(self._reader, selectors.EVENT_READ)
            while not self._stopping:
                self._start_due()
                selector.select(self._wait_seconds())
                self._drain()
                self._end_silent()
                self._reap()
        self._stop_all()
        return 0

    def pids(self) -> dict[str, int]:
        """Process ids by name of what runs."""
        return {child.spec.name: child.process.pid for child in self._children if child.process}

    def _on_stop(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self._stopping = True

    def _start_due(self) -> None:
        for child in self._children:
            if child.process is None and child.due <= self._clock():
                self._start(child)

    def _start(self, child: _Child) -> None:
        child.started, child.restarts = self._clock(), child.restarts + 1
        parent = os.getpid()

        def before_exec() -> None:
            privileges.die_with_parent(signal.SIGTERM)
            if os.getppid() != parent:
                os._exit(1)
            privileges.keep_only(child.spec.capabilities)
            # Changing credentials clears the parent-death signal.
            privileges.die_with_parent(signal.SIGTERM)
            seccomp.install(child.spec.filter_program)

        child.process = subprocess.Popen(
            child.spec.command,
            env={**os.environ, **child.spec.environment},
            preexec_fn=before_exec,
            stdin=subprocess.DEVNULL,
        )
        child.pulse = Pulse(child.spec.heartbeat, self._clock()) if child.spec.heartbeat else None
        self._say("process started", child, pid=child.process.pid, restarts=child.restarts)

    def _end_silent(self) -> None:
        """What hangs is killed: it would not listen to anything gentler."""
        for child in self._children:
            if child.process and child.pulse and child.pulse.stopped(self._clock()):
                child.pulse = None
                self._say("process does not answer", child, pid=child.process.pid)
                child.process.kill()

    def _reap(self) -> None:
        for child in self._children:
            if child.process is None or child.process.poll() is None:
                continue
            code, child.process = child.process.returncode, None
            lived = self._clock() - child.started
            if lived >= LONG_LIFE_SECONDS:
                child.backoff_seconds = FIRST_BACKOFF_SECONDS
                child.due = self._clock()
            else:
                child.due = self._clock() + child.backoff_seconds
                child.backoff_seconds = min(child.backoff_seconds * 2, LAST_BACKOFF_SECONDS)
            self._say("process ended", child, code=code, lived_seconds=round(lived, 3))

    def _wait_seconds(self) -> float | None:
        waits = [child.due - self._clock() for child in self._children if child.process is None]
        waits += [HEARTBEAT_LOOK_SECONDS for child in self._children if child.process and child.pulse]
        return max(0.0, min(waits)) if waits else None

    def _drain(self) -> None:
        try:
            while os.read(self._reader, 4096):
                pass
        except BlockingIOError:
            return

    def _stop_all(self) -> None:
        for child in reversed(self._children):
            if child.process is None:
                continue
            child.process.terminate()
            try:
                child.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
            self._say("process stopped", child, code=child.process.returncode)
            child.process = None

    def _say(self, text: str, child: _Child, **values: object) -> None:
        line = {
            "level": "info",
            "logger": "shim.supervisor",
            "msg": text,
            "process": child.spec.name,
            **values,
        }
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        print(json.dumps({"ts": stamp, **line}), file=self._log, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="axoneme node serve", description="Runs a node's processes.")
    parser.add_argument("--config", type=Path, required=True, help="TOML file of the node")
    arguments = parser.parse_args(argv)
    try:
        specs = node_processes(arguments.config)
    except (OSError, ValueError) as error:
        print(f"axoneme node serve: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return Supervisor(specs).run()


if __name__ == "__main__":
    sys.exit(main())
