"""`axoneme lab down` leaves nothing, also after everything was killed. Last in order: it ends the lab."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from axoneme.client.context import SYSTEM_LAB_DIRECTORY
from axoneme.lab import network, processes
from axoneme.lab.plan import BPFFS
from tests.e2e.running import Running

pytestmark = [pytest.mark.root, pytest.mark.etcd]


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process that looks like one of the laboratory's but is none."""
    child = subprocess.Popen(["sleep", "60"], env={**os.environ, "AXONEME_NODE_NAME": "node1"})
    yield child
    child.kill()
    child.wait()


def test_down_after_a_massacre_leaves_nothing(
    laboratory_of_the_session: Running, stranger: subprocess.Popen[bytes]
) -> None:
    lab = laboratory_of_the_session
    inodes = network.namespace_inodes()
    everything = processes.find(lab.state.processes, token=lab.state.token, netns_inodes=inodes)
    assert len(everything) >= 10
    for pid in everything[::2]:
        os.kill(pid, signal.SIGKILL)
    # The record is gone too: names alone must do.
    (SYSTEM_LAB_DIRECTORY / "lab.json").unlink()

    assert lab.axoneme("lab", "down").startswith("removed: ")

    assert processes.find(lab.state.processes, token=lab.state.token, netns_inodes=inodes) == []
    assert network.existing_namespaces() == []
    assert not (Path("/sys/class/net") / network.HOST_LINK).exists()
    assert list(BPFFS.glob("axolab-*")) == []
    assert not SYSTEM_LAB_DIRECTORY.exists()
    assert stranger.poll() is None
    assert "there was no lab" in lab.axoneme("lab", "down")
