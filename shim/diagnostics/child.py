"""Runs the probe in a child process and hands on what it reports; the child ends with the command."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from axoneme.lib.errors import FailedPrecondition

SYSTEM_PYTHON = "/usr/bin/python3"
PROBE = Path(__file__).with_name("probe.py")
END_SECONDS = 10.0

Line = dict[str, Any]


def probed(kind: str, seconds: float, addresses: Sequence[str] = ()) -> Iterator[Line]:
    """What the probe writes, `ready` first, line by line. Ctrl-C ends it, and so does a caller that stops.

    Raises FailedPrecondition with the fix when this machine cannot trace.
    """
    if os.geteuid() != 0:
        raise FailedPrecondition("tracing the kernel needs root: run the command with sudo on the node")
    words = [SYSTEM_PYTHON, "-sE", str(PROBE), kind, "--seconds", str(seconds)]
    words += [word for address in addresses for word in ("--address", address)]
    with tempfile.TemporaryFile() as faults, _running(words, faults) as process:
        assert process.stdout is not None
        for text in process.stdout:
            line: Line = json.loads(text)
            if "error" in line:
                raise FailedPrecondition(str(line["error"]), reason="FEATURE_MISSING")
            yield line
        if process.wait() != 0:
            faults.seek(0)
            words_of_it = faults.read().decode(errors="replace").strip().splitlines()[-1:]
            raise FailedPrecondition(f"the probe ended with {process.returncode}: {' '.join(words_of_it)}")


@contextlib.contextmanager
def _running(words: Sequence[str], faults: Any) -> Iterator[subprocess.Popen[str]]:
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=faults,
            text=True,
            start_new_session=True,  # Ctrl-C reaches this process alone, which asks the child for its end
        )
    except OSError as error:
        raise FailedPrecondition(f"{SYSTEM_PYTHON} cannot be run: {error}; install python3") from error
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, lambda *_: process.terminate()) if in_main else None
    try:
        yield process
    finally:
        if in_main:
            signal.signal(signal.SIGINT, before)
        process.terminate()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
