"""`axoneme observe` as users run it: its start, and how fast it prints what another process sends.

Flows a second are those of a long query less those of a short one, so that the start is not in them. The
server and the command share two cores.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.perf.result import CannotRunError, Result

ROOT = Path(__file__).parents[2]
ROUNDS = 5
SHORT = 1_000
CASES = (
    ("stock", "compact", 30_000, ">= 10,000"),
    ("batches", "compact", 100_000, ">= 30,000"),
    ("batches", "json", 20_000, ""),
)


def run() -> Iterator[Result]:
    """Start-up, then prints a second by server and form."""
    if (os.cpu_count() or 1) < 2:
        raise CannotRunError("server and command need a core each")
    with tempfile.TemporaryDirectory(prefix="axt-") as folder:
        values = [_seconds("--help") * 1e3 for _ in range(ROUNDS + 1)]
        yield Result(name="observe --help", unit="ms", values=values[1:], goal="<= 300")
        for mode, output, count, goal in CASES:
            socket = Path(folder) / f"{mode}.sock"
            with served(socket, mode):
                words = ("--socket", str(socket), "-o", output, "--last")
                if output == "compact":
                    values = [_seconds(*words, "20") * 1e3 for _ in range(ROUNDS + 1)]
                    name = f"observe --last 20, {mode}"
                    yield Result(name=name, unit="ms", values=values[1:], goal="<= 300")
                rates = [_rate(words, count) for _ in range(ROUNDS)]
                yield Result(name=f"observe -o {output}, {mode}", unit="flows/s", values=rates, goal=goal)


def _rate(words: tuple[str, ...], count: int) -> float:
    short = _seconds(*words, str(SHORT), lines=SHORT)
    return (count - SHORT) / (_seconds(*words, str(count), lines=count) - short)


def _seconds(*words: str, lines: int = 0) -> float:
    """Wall-clock time of one command; its lines are counted when they are to be."""
    command = [sys.executable, "-m", "axoneme.cli.main", "observe", *words]
    started = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=ROOT, timeout=300)
    seconds = time.monotonic() - started
    assert not lines or done.stdout.count(b"\n") == lines
    return seconds


@contextmanager
def served(socket: Path, mode: str) -> Iterator[None]:
    """A server in a process of its own."""
    command = [sys.executable, "-m", "tests.perf.observe_source", str(socket), mode]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            yield
        finally:
            process.stdin.close()
