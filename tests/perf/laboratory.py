"""A laboratory for a benchmark: one with the pods it needs, removed at the end."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from axoneme.client.context import SYSTEM_LAB_DIRECTORY
from axoneme.lab import laboratory, state, topology
from axoneme.lab.errors import LabError
from axoneme.lab.progress import Progress
from tests.e2e import running
from tests.e2e.running import Running
from tests.perf.result import CannotRunError

PODS = ("frontend@node1", "backend-near@node1", "backend@node2")


@contextmanager
def measured() -> Iterator[Running]:
    """Starts a laboratory. Raises CannotRunError without root, or beside a running one."""
    if sys.platform != "linux" or os.geteuid() != 0:
        raise CannotRunError("needs root on Linux")
    if state.load(SYSTEM_LAB_DIRECTORY) is not None:
        raise CannotRunError("a lab is up: `axoneme lab down` first")
    try:
        started = laboratory.up(topology.from_flags(pods=PODS), SYSTEM_LAB_DIRECTORY, Progress(quiet=True))
    except LabError as error:
        raise CannotRunError(str(error)) from error
    view = running.opened(started)
    try:
        yield view
    finally:
        view.client.close()
        laboratory.down(SYSTEM_LAB_DIRECTORY, Progress(quiet=True))
