"""A container that a runtime plugs in: its first packet is not lost, and none leaks, here and elsewhere."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from axoneme.lab import network
from tests.cniruntime import CniRuntime
from tests.e2e.policies import ALLOW_FRONTEND, ALLOW_NEWCOMER
from tests.e2e.running import TRAFFIC, Running
from tests.e2e.test_faults import ask, ready
from tests.waiting import eventually_sync

pytestmark = [pytest.mark.root, pytest.mark.etcd]

NEWCOMER = "axolab-east-plugged"
ARGS = "K8S_POD_NAMESPACE=default;K8S_POD_NAME=plugged"
PACKETS = 200
NODES = pytest.mark.parametrize("node", ["node1", "node2"], ids=["other-node", "same-node"])


@pytest.fixture
def netns() -> Iterator[str]:
    subprocess.run(["ip", "netns", "add", NEWCOMER], check=True)
    try:
        yield str(network.NETNS_DIRECTORY / NEWCOMER)
    finally:
        subprocess.run(["ip", "netns", "delete", NEWCOMER], check=True)


def runtime(lab: Running, node: str) -> CniRuntime:
    """The runtime of a node, with our plugin alone."""
    folder = lab.state.files(lab.cluster).node(node)
    plugin: dict[str, Any] = {
        "type": "axoneme-cni",
        "runDirectory": str(folder),
        "stateDirectory": str(folder / "state"),
        "capabilities": {"axoneme.io/labels": True},
    }
    return CniRuntime(node_netns=lab.cluster.netns(node), plugins=[plugin])


@NODES
@pytest.mark.parametrize("version", [4, 6])
def test_the_first_packet_of_a_container_passes(lab: Running, netns: str, node: str, version: int) -> None:
    lab.apply(ALLOW_NEWCOMER)
    cni = runtime(lab, node)
    # A number that no node has seen yet.
    labels = {"app": "newcomer", "run": f"cni-{node}-{version}"}
    cni.add("c1", netns, ARGS, {"axoneme.io/labels": labels})
    try:
        # Below one second no SYN is sent twice.
        command = [
            *network.entering(NEWCOMER),
            "curl",
            "-sS",
            "--max-time",
            "0.9",
            lab.url("backend", version),
        ]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.stdout == "hello from backend\n", done.stderr
        cni.check("c1", netns)
    finally:
        cni.delete("c1", netns)


@NODES
@pytest.mark.parametrize("version", [4, 6])
def test_no_packet_of_a_container_leaks(lab: Running, netns: str, node: str, version: int) -> None:
    lab.apply(ALLOW_FRONTEND)
    backend, frontend = lab.ip("backend", version), lab.ip("frontend", version)
    cni = runtime(lab, node)
    with ready(lab.python("backend", "udp-sink", "9001")) as sink:
        labels = {"app": "stranger", "run": f"cni-{node}-{version}"}
        cni.add("c2", netns, ARGS, {"axoneme.io/labels": labels})
        try:
            command = [*network.entering(NEWCOMER), sys.executable, TRAFFIC]
            subprocess.run([*command, "udp-send", backend, "9001", str(PACKETS)], check=True, timeout=10)
            # What is sent later and allowed arrives; so the stranger's would have too.
            lab.python("frontend", "udp-send", backend, "9001", "1").wait(timeout=10)
            eventually_sync(lambda: json.loads(ask(sink)).get(frontend) == 1, message="the allowed packet")
            assert json.loads(ask(sink)) == {frontend: 1}
        finally:
            cni.delete("c2", netns)
