"""A laboratory recognises its own processes and never touches others."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from axoneme.lab import processes
from axoneme.lab.processes import Process

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Process]:
    process = processes.spawn("sleeper", "east", SLEEP, log=tmp_path / "log", token="token-1")
    yield process
    processes.kill([process.pid], seconds=5)


@pytest.fixture
def foreign() -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(SLEEP)
    yield child
    child.kill()
    child.wait()


def test_a_started_process_is_alive_until_it_is_killed(started: Process) -> None:
    assert processes.alive(started)
    processes.kill([started.pid], seconds=5)
    assert not processes.alive(started)


def test_a_process_is_found_by_record_or_by_token(started: Process) -> None:
    assert processes.find([started], token="", netns_inodes=()) == [started.pid]
    assert processes.find([], token="token-1", netns_inodes=()) == [started.pid]
    assert processes.find([], token="token-2", netns_inodes=()) == []


def test_a_reused_pid_is_somebody_else(foreign: subprocess.Popen[bytes], started: Process) -> None:
    claimed = dataclasses.replace(started, pid=foreign.pid, start_time=started.start_time + 1_000_000)
    assert not processes.alive(claimed)
    assert processes.find([claimed], token="", netns_inodes=()) == []
    processes.send(foreign.pid, claimed.start_time, signal.SIGKILL)
    assert foreign.poll() is None


def test_systems_without_proc_ask_ps(
    started: Process, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(processes, "PROC", tmp_path / "none")
    start = processes.start_time(started.pid)
    assert start is not None
    assert processes.find([dataclasses.replace(started, start_time=start)], token="", netns_inodes=()) == [
        started.pid
    ]
    processes.kill([started.pid], seconds=5)
    assert processes.start_time(started.pid) is None


def test_the_caller_never_finds_itself() -> None:
    own = Process(
        name="me", cluster="east", pid=os.getpid(), start_time=processes.start_time(os.getpid()) or 0, log=""
    )
    assert processes.find([own], token="", netns_inodes=()) == []


def test_the_lab_does_not_pass_the_callers_settings_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AXONEME_LISTEN_ADDRESS", "elsewhere:1")
    log = tmp_path / "log"
    program = "import os; print(sorted(k for k in os.environ if k.startswith('AXO')))"
    process = processes.spawn("p", "c", [sys.executable, "-c", program], log=log, token="t")
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert processes.last_lines(log) == ["['AXOLAB_TOKEN']"]


def test_the_end_of_a_log_is_short_and_a_missing_log_is_empty(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("\n".join([*(f"line {i}" for i in range(100)), "x" * 1000, ""]))
    lines = processes.last_lines(log, count=2)
    assert lines == ["line 99", "x" * 300]
    assert processes.last_lines(tmp_path / "none") == []
