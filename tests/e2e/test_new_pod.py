"""A pod that appears: its first packet is judged by its own policy here and under its own identity there."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from axoneme.api.node.v1 import node_pb2
from axoneme.lab import network
from tests.e2e.policies import ALLOW_FRONTEND, ALLOW_NEWCOMER
from tests.e2e.running import TRAFFIC, Running
from tests.e2e.test_faults import ask, ready
from tests.waiting import eventually_sync

pytestmark = [pytest.mark.root, pytest.mark.etcd]

NEWCOMER = "axolab-east-newcomer"
PACKETS = 200


@pytest.fixture
def netns() -> Iterator[str]:
    subprocess.run(["ip", "netns", "add", NEWCOMER], check=True)
    try:
        yield str(network.NETNS_DIRECTORY / NEWCOMER)
    finally:
        subprocess.run(["ip", "netns", "delete", NEWCOMER], check=True)


def added(lab: Running, netns: str, node: str, labels: list[str]) -> node_pb2.Endpoint:
    request = node_pb2.AddEndpointRequest(
        namespace="default", pod_name="newcomer", labels=labels, netns=netns
    )
    return lab.client.node(node).AddEndpoint(request).endpoint


def removed(lab: Running, node: str, endpoint: node_pb2.Endpoint) -> None:
    lab.client.node(node).DeleteEndpoint(node_pb2.DeleteEndpointRequest(endpoint_id=endpoint.endpoint_id))


@pytest.mark.parametrize("node", ["node1", "node2"], ids=["other-node", "same-node"])
@pytest.mark.parametrize("version", [4, 6])
def test_the_first_packet_of_an_allowed_pod_passes(lab: Running, netns: str, node: str, version: int) -> None:
    lab.apply(ALLOW_NEWCOMER)
    # A number that no node has seen yet.
    endpoint = added(lab, netns, node, ["app=newcomer", f"run={node}-{version}"])
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
    finally:
        removed(lab, node, endpoint)


@pytest.mark.parametrize("node", ["node1", "node2"], ids=["other-node", "same-node"])
def test_no_packet_of_a_pod_without_permission_passes(lab: Running, netns: str, node: str) -> None:
    lab.apply(ALLOW_FRONTEND)
    backend, frontend = lab.ip("backend"), lab.ip("frontend")
    with ready(lab.python("backend", "udp-sink", "9001")) as sink:
        endpoint = added(lab, netns, node, ["app=stranger", f"run={node}"])
        try:
            command = [*network.entering(NEWCOMER), sys.executable, TRAFFIC]
            subprocess.run([*command, "udp-send", backend, "9001", str(PACKETS)], check=True, timeout=10)
            # What is sent later and allowed arrives; so the stranger's would have too.
            lab.python("frontend", "udp-send", backend, "9001", "1").wait(timeout=10)
            eventually_sync(lambda: json.loads(ask(sink)).get(frontend) == 1, message="the allowed packet")
            assert json.loads(ask(sink)) == {frontend: 1}
        finally:
            removed(lab, node, endpoint)


def test_a_removed_pod_leaves_nothing(lab: Running, netns: str) -> None:
    before = lab.ipcache("node1"), lab.ipcache("node2"), pins(lab)
    endpoint = added(lab, netns, "node1", ["app=passing"])
    assert any(prefix.startswith(endpoint.ips[0]) for prefix, _ in lab.ipcache("node2"))
    removed(lab, "node1", endpoint)
    eventually_sync(
        lambda: (lab.ipcache("node1"), lab.ipcache("node2"), pins(lab)) == before,
        message="addresses and pins of the removed pod are gone",
    )
    shown = subprocess.run(
        ["ip", "-n", lab.cluster.netns("node1"), "-o", "link"], check=True, capture_output=True
    )
    assert endpoint.interface_name.encode() not in shown.stdout


def pins(lab: Running) -> set[Path]:
    return set(lab.state.plan(lab.cluster).pins.rglob("*"))
