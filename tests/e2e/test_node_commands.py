"""Commands that look into a node: each says what really is, for people and for programs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from axoneme.api.clustermesh.v1 import clustermesh_pb2 as pb
from axoneme.api.node.v1 import node_pb2
from tests.e2e.policies import ALLOW_FRONTEND
from tests.e2e.probes import new_pod
from tests.e2e.running import REPOSITORY, Running
from tests.e2e.services import (
    BACKEND_PORT,
    PORT,
    address,
    ask,
    ask_from,
    eventually_answers,
    mirror,
    mirrors,
    node_ip,
    service,
    who,
)
from tests.waiting import eventually_sync

pytestmark = [pytest.mark.root, pytest.mark.etcd]

VERSIONS = pytest.mark.parametrize("version", [4, 6])


def said(lab: Running, *words: str) -> list[dict[str, Any]]:
    """What a command prints as JSON."""
    found: list[dict[str, Any]] = json.loads(lab.command(*words, "-o", "json").out)
    return found


@VERSIONS
def test_connections_and_translations_are_listed_and_forgotten(lab: Running, version: int) -> None:
    with mirrors(lab, "backend"), service(lab, "web", pods=["backend"], protocols=[pb.PROTOCOL_UDP]) as web:
        vip = address(web, version)
        eventually_answers(lab, "frontend", vip, kind="udp", sockets=False)
        shown = f"[{vip}]:{PORT}" if version == 6 else f"{vip}:{PORT}"
        (there, *_) = said(lab, "bpf", "nat", "list", "--node", "node1", "--filter", shown)
        translation = there["translation"]
        assert lab.ip("backend", version) in translation["new_destination"] + translation["source"]
        place = lab.ip("backend", version)
        found = said(lab, "bpf", "ct", "list", "--endpoint", "frontend", "--filter", place)
        assert found
        connection = found[0]["connection"]
        assert "translated" in connection["flags"]
        out = lab.command("bpf", "ct", "flush", "--endpoint", "frontend", "--filter", place).out
        assert out.startswith("node1: ")
        assert not said(lab, "bpf", "ct", "list", "--endpoint", "frontend", "--filter", place)
    assert "say --all" in lab.command("bpf", "ct", "flush", code=1).err


def test_counters_of_an_endpoint_grow_with_its_packets(lab: Running) -> None:
    def dropped() -> int:
        found = said(lab, "bpf", "metrics", "list", "--endpoint", "backend")
        metrics = [one["metric"] for one in found]
        return sum(int(one["packets"]) for one in metrics if one["reason"] == "POLICY_DENIED")

    lab.apply(ALLOW_FRONTEND)
    before = dropped()
    assert lab.blocked("batch", "backend")
    assert dropped() > before


def test_an_endpoint_tells_its_story(lab: Running) -> None:
    lab.apply(ALLOW_FRONTEND)
    lab.client.node("node1").AuditMaps(node_pb2.AuditMapsRequest())  # what earlier tests left is their story
    with new_pod(lab, "storied", "node1", labels=["app=storied"]):
        told = lab.command("endpoint", "log", "storied").out
        assert "created as default/storied" in told
        assert "locked -> ready" in told
        out = lab.command("endpoint", "config", "storied", "--aggregation", "none", "--audit", "on").out
        assert "none" in out
        assert json.loads(lab.command("endpoint", "get", "storied", "-o", "json").out)["endpoint"]["audit"]
        assert "is ready; 0 repairs" in lab.command("endpoint", "regenerate", "storied").out


@VERSIONS
def test_monitor_prints_drops_as_they_happen(lab: Running, version: int) -> None:
    lab.apply(ALLOW_FRONTEND)
    command = [
        sys.executable,
        "-m",
        "axoneme.cli.main",
        "monitor",
        "--node",
        "node2",
        "--type",
        "drop",
        "-n",
        "1",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as watching:
        try:

            def printed() -> bool:
                lab.blocked("batch", "backend", version)
                return watching.poll() is not None

            eventually_sync(printed, seconds=20, message="monitor prints a drop and ends")
            assert watching.stdout is not None
            line = watching.stdout.read()
        finally:
            watching.kill()
    assert line.startswith("xx Policy denied, endpoint - -> ")
    assert lab.ip("batch", version) in line


def test_health_says_that_every_node_reaches_every_node(lab: Running) -> None:
    def healthy() -> bool:
        rows = said(lab, "health", "status", "--probe")
        return bool(rows) and all("no" not in str(row.get("reachable", "yes")) for row in rows)

    eventually_sync(healthy, seconds=20)
    assert "198.18.1.102" in lab.command("health", "status").out


@VERSIONS
def test_a_host_port_leads_to_its_pod(lab: Running, version: int) -> None:
    netns = lab.cluster.netns("ported")
    subprocess.run(["ip", "netns", "add", netns], check=True)
    try:
        words = ("endpoint", "add", "default/ported", "--node", "node1", "--netns", f"/run/netns/{netns}")
        with mirror(netns, "ported"):
            lab.command(*words, "--label", "app=ported", "--host-port", f"8088:{BACKEND_PORT}/tcp")
            try:
                ip = node_ip(lab, "node1", version)
                eventually_sync(lambda: who(ask(lab, "backend", ip, 8088, count=1)) == {"ported"})
                assert who(ask(lab, "frontend", ip, 8088)) == {"ported"}
                control = lab.cluster.control_netns
                assert who(ask_from(control, ip, 8088)) == {"ported"}
            finally:
                lab.command("endpoint", "delete", "ported", "--node", "node1")
    finally:
        subprocess.run(["ip", "netns", "delete", netns], check=True)


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "examples/services").glob("*.yaml")), ids=lambda p: p.stem
)
def test_every_example_of_a_service_applies(lab: Running, path: Path) -> None:
    printed = lab.command("service", "apply", "-f", str(path))
    name = printed.out.split(" ")[0].removeprefix("service/")
    try:
        assert " created" in printed.out
        assert "warning" not in (printed.out + printed.err).lower()
        eventually_sync(
            lambda: f"default/{name}" in lab.command("bpf", "lb", "list").out, message="nodes have it"
        )
    finally:
        lab.command("service", "delete", name)
