"""Following a server through its restart, and flows many at a time."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from axoneme.cli.main import main
from tests.golden.observeserver import StockObserver, context_free, flow_at, serving
from tests.waiting import eventually_sync


@pytest.fixture(autouse=True)
def nothing_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    context_free(monkeypatch, tmp_path)


class Lasting(StockObserver):
    """Holds flows, answers `since` as a node does, and goes on with new ones."""

    def __init__(self) -> None:
        super().__init__()
        self.flows: list[Any] = []
        self.stopping = threading.Event()

    def GetFlows(self, request: Any, context: Any) -> Iterator[Any]:
        self._note(request, context)
        position = 0
        while context.is_active() and not self.stopping.is_set():
            while position < len(self.flows):
                one = self.flows[position]
                position += 1
                if not request.HasField("since") or one.time.ToNanoseconds() >= request.since.ToNanoseconds():
                    yield one
            if not request.follow:
                return
            self.stopping.wait(0.01)


def start(*words: str) -> subprocess.Popen[str]:
    """The command in a process of its own, that takes interrupts."""
    return subprocess.Popen(
        [sys.executable, "-m", "axoneme.cli.main", "observe", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


@pytest.mark.parametrize("batches", [False, True])
def test_a_follow_survives_a_restart_without_gap_or_repetition(tmp_path: Path, batches: bool) -> None:
    address = f"unix:{tmp_path / 's.sock'}"
    first, second = Lasting(), Lasting()
    first.flows = [flow_at(one / 2, Summary=f"flow {one}") for one in range(1, 21)]
    second.flows = [flow_at(one / 2, Summary=f"flow {one}") for one in range(1, 31)]
    with serving(address, batches=batches, observer=first):
        process = start("--server", address, "-f", "--since", "2026-03-01T10:00:00Z")
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(20)]
    with serving(address, batches=batches, observer=second):
        lines += [process.stdout.readline() for _ in range(10)]
        assert second.requests[0].since.seconds > first.requests[0].since.seconds
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=20)
        second.stopping.set()
    assert process.returncode == 0
    assert rest == "", "".join(lines) + errors
    assert [int(re.findall(r"flow (\d+)", line)[0]) for line in lines] == list(range(1, 31))
    assert errors.count("connection lost") == 1
    assert errors.count("connected again") == 1


def test_the_first_connection_must_work(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["observe", "-f", "--socket", str(tmp_path / "none.sock")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("Error: ")
    assert len(error.splitlines()) == 1


def test_an_interrupt_ends_a_follow_in_which_nothing_happens(tmp_path: Path) -> None:
    quiet = Lasting()
    with serving(f"unix:{tmp_path / 's.sock'}", observer=quiet):
        process = start("--socket", str(tmp_path / "s.sock"), "-f")
        eventually_sync(lambda: quiet.requests, seconds=30, message="no request")
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=20)
        quiet.stopping.set()
    assert (process.returncode, out, errors) == (0, "", "no flow matches\n") or process.returncode == 0


@pytest.mark.parametrize("batches", [False, True])
def test_batches_print_what_single_flows_print(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, batches: bool
) -> None:
    with serving(f"unix:{tmp_path / 's.sock'}", batches=batches) as served:
        served.observer.answers["GetFlows"] = [flow_at(second, Summary=f"{second}") for second in range(10)]
        assert main(["observe", "--socket", served.socket]) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        assert re.findall(r"\((\d)\)", captured.out) == [str(second) for second in range(10)]
        assert (served.batches.calls if served.batches else 0) == int(batches)
        assert len(served.observer.requests) == 1
