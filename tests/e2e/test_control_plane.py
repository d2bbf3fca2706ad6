"""The control plane alone: no root needed, no packets, and every line says so."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from axoneme.client.context import LAB_VARIABLE
from axoneme.lab.addresses import Addresses
from axoneme.lab.topology import from_flags
from tests.e2e.policies import ALLOW_FRONTEND
from tests.e2e.running import REPOSITORY
from tests.waiting import eventually_sync

pytestmark = [pytest.mark.etcd]


# Another uid and no capability: it must really need no root.
UNPRIVILEGED = ["unshare", "--user", "--map-user=1000"] if os.geteuid() == 0 else []


class Simulated:
    """Commands against a simulated laboratory in a directory of its own."""

    def __init__(self, root: Path) -> None:
        self._environment = {**os.environ, LAB_VARIABLE: str(root)}

    def axoneme(self, *words: str, text: str | None = None, status: int = 0) -> str:
        done = subprocess.run(
            [*UNPRIVILEGED, sys.executable, "-m", "axoneme.cli.main", *words],
            check=False,
            input=text,
            capture_output=True,
            text=True,
            timeout=60,
            cwd=REPOSITORY,
            env=self._environment,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    def use(self, context: Path) -> None:
        self._environment["AXONEME_CONTEXT"] = str(context)


@pytest.fixture
def simulated(socket_directory: Path) -> Iterator[Simulated]:
    lab = Simulated(socket_directory / "lab")
    try:
        lab.axoneme("lab", "up", "--control-plane")
        lab.use(socket_directory / "lab" / "east" / "context.json")
        yield lab
    finally:
        lab.axoneme("lab", "down")
        assert not (socket_directory / "lab").exists()


def test_a_start_that_fails_says_why_and_leaves_nothing(socket_directory: Path) -> None:
    lab = Simulated(socket_directory / "lab")
    taken = Addresses(cluster=from_flags().clusters[0], simulated=True).policy.rpartition(":")
    with socket.create_server((taken[0], int(taken[2]))):
        output = lab.axoneme("lab", "up", "--control-plane", status=1)
    assert "policy of cluster east ended while starting; the end of" in output
    assert "what to do:" in output
    assert not (socket_directory / "lab").exists()
    marker = str(socket_directory).encode()
    running = [path for path in Path("/proc").glob("[0-9]*/cmdline") if marker in path.read_bytes()]
    assert running == []


def test_the_control_plane_works_without_packets(simulated: Simulated) -> None:
    assert "simulated: no packets" in simulated.axoneme("lab", "status")
    assert "simulated" in simulated.axoneme("status")
    assert "the lab is already up" in simulated.axoneme("lab", "up", "--control-plane")
    refusal = simulated.axoneme("lab", "exec", "frontend", "--", "true", status=1)
    assert "simulated: no packets" in refusal

    before = policy_map(simulated)
    simulated.axoneme("policy", "apply", "-f", "-", text=ALLOW_FRONTEND)
    eventually_sync(lambda: policy_map(simulated) != before, message="the policy is in the map")
    assert any(entry.get("port") == 8080 for entry in policy_map(simulated))


def policy_map(simulated: Simulated) -> list[dict[str, object]]:
    """Entries of the policy map of pod backend."""
    shown = simulated.axoneme("bpf", "policy", "get", "backend", "-o", "json")
    entries: list[dict[str, object]] = json.loads(shown)["entries"]
    return entries
