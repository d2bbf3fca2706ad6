"""Processes die and come back; the packets do not notice, and no change is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.conftest import scaled
from tests.e2e.conftest import LEASE_SECONDS
from tests.e2e.policies import ALLOW_FRONTEND, DENY_FRONTEND
from tests.e2e.running import Running
from tests.waiting import eventually_sync

pytestmark = [pytest.mark.root, pytest.mark.etcd]

FLOOD_PER_SECOND = 500


@contextmanager
def ready(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """A traffic process after its READY; its input is closed at the end, which ends it."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "READY\n"
        yield process
    finally:
        process.stdin.close()
        process.wait(timeout=15)
        process.stdout.close()


def ask(process: subprocess.Popen[str]) -> str:
    """One line of input, one line of output."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return process.stdout.readline()


def test_a_killed_shim_breaks_no_stream_and_lets_nothing_through(lab: Running) -> None:
    lab.apply(ALLOW_FRONTEND)
    backend, source = lab.ip("backend"), lab.ip("frontend")
    with (
        ready(lab.python("backend", "echo-server", "9000")),
        ready(lab.python("backend", "udp-sink", "9001")) as sink,
        ready(lab.python("frontend", "echo-client", backend, "9000")) as stream,
        ready(lab.python("batch", "udp-flood", backend, "9001", str(FLOOD_PER_SECOND))),
    ):
        # The sink works: what is allowed arrives.
        lab.python("frontend", "udp-send", backend, "9001", "10").wait(timeout=10)
        eventually_sync(lambda: json.loads(ask(sink)).get(source) == 10, message="10 allowed packets arrive")
        for kill in range(scaled(3, 20)):
            before = int(ask(stream))
            lab.kill_shim(("node2", "node1")[kill % 2])
            assert int(ask(stream)) > before
            assert stream.poll() is None
            assert lab.reaches("frontend", "backend")
        assert json.loads(ask(sink)) == {source: 10}


def test_a_change_made_while_the_shim_was_away_arrives(lab: Running) -> None:
    lab.apply(ALLOW_FRONTEND)
    supervisor, shim = lab.process("node2").pid, lab.pid_on("node2", "shim.main")
    os.kill(supervisor, signal.SIGSTOP)
    try:
        os.kill(shim, signal.SIGKILL)
        lab.axoneme("policy", "apply", "-f", "-", text=DENY_FRONTEND)
        assert lab.reaches("frontend", "backend")
        assert lab.blocked("batch", "backend")
    finally:
        os.kill(supervisor, signal.SIGCONT)
    lab.wait_new_shim("node2", shim)
    lab.becomes_unreachable("frontend", "backend")


@pytest.mark.parametrize("name", ["identity", "policy", "relay", "etcd"])
def test_a_restarted_service_keeps_policy_and_takes_changes(lab: Running, name: str) -> None:
    lab.apply(ALLOW_FRONTEND)
    lab.kill(name)
    assert lab.reaches("frontend", "backend")
    assert lab.blocked("batch", "backend")
    lab.start(name)
    lab.wait_ready()
    assert lab.reaches("frontend", "backend")
    assert lab.blocked("batch", "backend")
    eventually_sync(lab.takes_changes, seconds=20, message="the policy service reaches its store")
    lab.apply(DENY_FRONTEND)
    assert not lab.reaches("frontend", "backend")


def test_an_outage_longer_than_the_lease_prunes_nothing(lab: Running) -> None:
    lab.apply(ALLOW_FRONTEND)
    published = ipcaches(lab)
    lab.kill("identity")
    # etcd lives on and lets the leases run out.
    eventually_sync(
        lambda: lab.etcd_keys("cilium/state/nodes/v1/") == [],
        seconds=3 * LEASE_SECONDS,
        message="the leases of the nodes run out",
    )
    lab.kill("etcd")
    assert ipcaches(lab) == published
    lab.start("etcd")
    lab.start("identity")

    def declared_again() -> bool:
        assert ipcaches(lab) == published
        return len(lab.etcd_keys("cilium/state/nodes/v1/")) == 2

    eventually_sync(declared_again, seconds=20, message="both nodes are declared again")
    lab.wait_ready()
    assert ipcaches(lab) == published
    assert lab.reaches("frontend", "backend")
    assert lab.blocked("batch", "backend")


def ipcaches(lab: Running) -> dict[str, set[tuple[str, int]]]:
    return {node.name: lab.ipcache(node.name) for node in lab.cluster.nodes}
