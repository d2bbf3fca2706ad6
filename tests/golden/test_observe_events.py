"""Agent events, debug events, status, lists and peers, against samples of the Hubble CLI (HUBBLE.md §2.4)."""

# ruff: noqa: E501  (samples stand as they are printed)
from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from grpc_health.v1 import health_pb2

from axoneme.api.hubble.observer import observer_pb2
from axoneme.api.hubble.peer import peer_pb2
from axoneme.cli.hubble.serverstatus import HEALTH_SERVICE
from axoneme.cli.main import main
from tests.golden.observeserver import Served, context_free, parsed, serving

EVIL = "x\x1b]0;owned\x07\x1b[31m\r\n\t\x9b2J\u202e\x7f"
UNSAFE = [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0), 0x202E) if chr(code) != "\n"]


def agent(second: str, kind: str, **notification: Any) -> Any:
    event = {"type": kind, **notification}
    values = {"agent_event": event, "node_name": "east/node-a", "time": f"2026-03-01T10:00:{second}Z"}
    return parsed(observer_pb2.GetAgentEventsResponse, values)


def debug(second: str, kind: str, **event: Any) -> Any:
    values = {
        "debug_event": {"type": kind, **event},
        "node_name": "east/node-a",
        "time": f"2026-03-01T10:00:{second}Z",
    }
    return parsed(observer_pb2.GetDebugEventsResponse, values)


AGENT_EVENTS = [
    agent("01.500", "POLICY_UPDATED", policy_update={"labels": ["k8s:io.cilium.k8s.policy.name=allow-web"], "revision": 3, "rule_count": 1}),
    agent("03.500", "ENDPOINT_CREATED", endpoint_update={"id": 402, "namespace": "shop", "pod_name": "api-5c6f8-k8k"}),
    agent("04.500", "IPCACHE_UPSERTED", ipcache_update={"cidr": "10.1.0.12/32", "identity": 20102, "old_identity": 4, "host_ip": "192.0.2.1", "old_host_ip": "192.0.2.9", "encrypt_key": 3}),
]  # fmt: skip
AGENT_LINES = """\
Mar  1 10:00:01.500: POLICY_UPDATED (labels: [k8s:io.cilium.k8s.policy.name=allow-web], revision: 3, count: 1)
Mar  1 10:00:03.500: ENDPOINT_CREATED (id: 402, namespace: shop, pod name: api-5c6f8-k8k)
Mar  1 10:00:04.500: IPCACHE_UPSERTED (cidr: 10.1.0.12/32, identity: 20102, old identity: 4, host ip: 192.0.2.1, old host ip: 192.0.2.9, encrypt key: 3)
"""
DEBUG_EVENTS = [
    debug("00.250", "DBG_CT_LOOKUP4_1", source={"ID": 401, "namespace": "shop", "pod_name": "web-7d4b9-x2x"}, hash=0xDEADBEEF, cpu=2,
          message="Conntrack lookup 1/2: src=10.1.0.11:41000 dst=10.1.0.12:8080"),
    debug("01.250", "DBG_POLICY_DENIED", source={"ID": 1, "identity": 1}, message="Policy evaluation would deny packet"),
    debug("02.250", "DBG_GENERIC"),
]  # fmt: skip
DEBUG_LINES = """\
Mar  1 10:00:00.250 [east/node-a]: shop/web-7d4b9-x2x (ID: 401) DBG_CT_LOOKUP4_1 MARK: 0xdeadbeef CPU: 02 (Conntrack lookup 1/2: src=10.1.0.11:41000 dst=10.1.0.12:8080)
Mar  1 10:00:01.250 [east/node-a]: reserved:host (ID: 1) DBG_POLICY_DENIED MARK: N/A CPU: N/A (Policy evaluation would deny packet)
Mar  1 10:00:02.250 [east/node-a]: N/A DBG_GENERIC MARK: N/A CPU: N/A (No message)
"""
STATUS = parsed(observer_pb2.ServerStatusResponse, {
    "num_flows": 8190, "max_flows": 12285, "seen_flows": 1234567, "uptime_ns": 3723500000000, "num_connected_nodes": 2,
    "num_unavailable_nodes": 3, "unavailable_nodes": ["west/node-d", "west/node-b"],
    "version": "hubble-relay v1.19.4+g1234567", "flows_rate": 33.26,
})  # fmt: skip
NODES = parsed(observer_pb2.GetNodesResponse, {"nodes": [
    {"name": "west/node-b", "state": "NODE_UNAVAILABLE", "address": "192.0.2.2:4244", "tls": {"enabled": True}},
    {"name": "east/node-a", "state": "NODE_CONNECTED", "version": "cilium v1.19.4+g1234567", "address": "192.0.2.1:4244",
     "tls": {"enabled": True}, "uptime_ns": 3723400000000, "num_flows": 4095, "max_flows": 4095, "seen_flows": 123468},
    {"name": "east/node-c", "state": "NODE_ERROR", "address": "192.0.2.3:4244", "tls": {}},
]})  # fmt: skip
NODE_TABLE = """\
NAME          STATUS        AGE      FLOWS/S   CURRENT/MAX-FLOWS     VERSION                   ADDRESS          TLS
east/node-a   Connected     1h2m3s   33.16     4095/4095 (100.00%)   cilium v1.19.4+g1234567   192.0.2.1:4244   Enabled
east/node-c   Error         N/A      N/A       N/A                   N/A                       192.0.2.3:4244   Disabled
west/node-b   Unavailable   N/A      N/A       N/A                   N/A                       192.0.2.2:4244   Enabled
"""


@pytest.fixture(autouse=True)
def nothing_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    context_free(monkeypatch, tmp_path)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    with serving(f"unix:{tmp_path / 's.sock'}") as served:
        yield served


def shown(capsys: pytest.CaptureFixture[str], server: Served, *words: str, code: int = 0) -> str:
    assert main([*words, "--socket", server.socket]) == code
    return capsys.readouterr().out


def test_agent_events(capsys: pytest.CaptureFixture[str], server: Served) -> None:
    server.observer.answers["GetAgentEvents"] = AGENT_EVENTS
    events = ("observe", "agent-events")
    assert shown(capsys, server, *events) == AGENT_LINES
    table = shown(capsys, server, *events, "-o", "table", "--print-node-name").splitlines()
    assert table[0] == "TIMESTAMP             NODE          TYPE               DETAILS"
    assert (
        table[2]
        == "Mar  1 10:00:03.500   east/node-a   ENDPOINT_CREATED   id: 402, namespace: shop, pod name: api-5c6f8-k8k"
    )
    blocks = shown(capsys, server, *events, "-o", "dict").split("------------\n")
    assert blocks[1] == (
        "  TIMESTAMP: Mar  1 10:00:03.500\n       TYPE: ENDPOINT_CREATED\n"
        "    DETAILS: id: 402, namespace: shop, pod name: api-5c6f8-k8k\n"
    )
    for output in ("json", "jsonpb"):
        lines = shown(capsys, server, *events, "-o", output).splitlines()
        assert lines[1].startswith(
            '{"agent_event":{"type":"ENDPOINT_CREATED","endpoint_update":{"id":"402","pod_name":'
        )
        assert [
            json_format.Parse(line, observer_pb2.GetAgentEventsResponse()) for line in lines
        ] == AGENT_EVENTS


def test_debug_events(capsys: pytest.CaptureFixture[str], server: Served) -> None:
    server.observer.answers["GetDebugEvents"] = DEBUG_EVENTS
    events = ("observe", "debug-events", "--print-node-name")
    assert shown(capsys, server, *events) == DEBUG_LINES
    table = shown(capsys, server, "observe", "debug-events", "-o", "table").splitlines()
    assert table[0].split() == ["TIMESTAMP", "FROM", "TYPE", "CPU/MARK", "MESSAGE"]
    assert "reserved:host (ID: 1)" in table[2]
    lines = shown(capsys, server, *events, "-o", "json").splitlines()
    assert [json_format.Parse(line, observer_pb2.GetDebugEventsResponse()) for line in lines] == DEBUG_EVENTS


@pytest.mark.parametrize("output", ["compact", "dict", "json", "table"])
def test_events_hold_no_control_characters(
    capsys: pytest.CaptureFixture[str], server: Served, output: str
) -> None:
    server.observer.answers["GetAgentEvents"] = [
        agent("01", "ENDPOINT_CREATED", endpoint_update={"id": 1, "namespace": EVIL, "pod_name": EVIL}),
        agent("02", "POLICY_UPDATED", policy_update={"labels": [EVIL]}),
        agent("03", "AGENT_EVENT_UNKNOWN", unknown={"type": EVIL, "notification": EVIL}),
    ]
    server.observer.answers["GetDebugEvents"] = [
        debug("01", "DBG_GENERIC", source={"namespace": EVIL, "pod_name": EVIL}, message=EVIL),
        debug("01", "DBG_GENERIC", source={"identity": 500, "labels": [EVIL]}, message=EVIL),
    ]
    for view in ("agent-events", "debug-events"):
        text = shown(capsys, server, "observe", view, "-o", output, "--print-node-name")
        assert text
        assert not [character for character in UNSAFE if character in text]


def test_status_of_the_relay(capsys: pytest.CaptureFixture[str], server: Served) -> None:
    server.observer.answers["ServerStatus"] = STATUS
    relay = ("status", "--relay")
    assert shown(capsys, server, *relay) == (
        f"Healthcheck (via unix://{server.socket}): Ok\nCurrent/Max Flows: 8,190/12,285 (66.67%)\nFlows/s: 33.26\n"
        "Connected Nodes: 2/5\nUnavailable Nodes: 3\n  - west/node-b\n  - west/node-d\n  - and 1 more...\n"
    )
    table = shown(capsys, server, *relay, "-o", "table").splitlines()
    assert table[0].split("   ")[0] == "NUM FLOWS"
    assert table[1].split() == [
        "8,190",
        "12,285",
        "1,234,567",
        "33.26",
        "1h2m3.5s",
        "2",
        "3",
        "hubble-relay",
        "v1.19.4+g1234567",
    ]
    assert "            NUM FLOWS: 8,190\n" in shown(capsys, server, *relay, "-o", "dict")
    assert (
        json_format.Parse(shown(capsys, server, *relay, "-o", "json"), observer_pb2.ServerStatusResponse())
        == STATUS
    )


def test_status_of_an_empty_relay_and_of_one_that_does_not_serve(
    capsys: pytest.CaptureFixture[str], server: Served
) -> None:
    empty = {"num_connected_nodes": 0, "num_unavailable_nodes": 0}
    server.observer.answers["ServerStatus"] = parsed(observer_pb2.ServerStatusResponse, empty)
    text = shown(capsys, server, "status", "--relay")
    assert text.endswith("Current/Max Flows: 0/0\nFlows/s: N/A\nConnected Nodes: 0/0\n")
    server.health.set(HEALTH_SERVICE, health_pb2.HealthCheckResponse.NOT_SERVING)
    assert main(["status", "--relay", "--socket", server.socket]) == 1
    captured = capsys.readouterr()
    assert captured.out.endswith(": Unavailable: NOT_SERVING\n")
    assert captured.err == "not healthy\n"


def test_lists(capsys: pytest.CaptureFixture[str], server: Served) -> None:
    server.observer.answers["GetNodes"] = NODES
    found = {
        "namespaces": [{"namespace": "shop", "cluster": "east"}, {"namespace": "data", "cluster": "east"}]
    }
    server.observer.answers["GetNamespaces"] = parsed(observer_pb2.GetNamespacesResponse, found)
    assert shown(capsys, server, "list", "nodes", "-o", "wide") == NODE_TABLE
    narrow = [line.split("   ")[0].rstrip() for line in shown(capsys, server, "list", "nodes").splitlines()]
    assert narrow == ["NAME", "east/node-a", "east/node-c", "west/node-b"]
    assert [
        one["name"] for one in json.loads(shown(capsys, server, "list", "nodes", "-o", "json"))
    ] == narrow[1:]
    assert shown(capsys, server, "list", "namespaces") == "NAMESPACE\nshop\ndata\n"
    assert (
        shown(capsys, server, "list", "namespaces", "-o", "wide")
        == "NAMESPACE   CLUSTER\nshop        east\ndata        east\n"
    )


def test_peers(capsys: pytest.CaptureFixture[str], server: Served) -> None:
    server.observer.answers["Notify"] = [parsed(peer_pb2.ChangeNotification, values) for values in (
        {"name": "east/node-a", "address": "192.0.2.1:4244", "type": "PEER_ADDED",
         "tls": {"server_name": "node-a.east.hubble-grpc.cilium.io"}},
        {"name": "node-z", "address": "192.0.2.9", "type": "PEER_ADDED"},
        {"name": "node-z", "address": "192.0.2.10", "type": "PEER_DELETED"},
        {"name": EVIL, "address": EVIL, "type": "PEER_UPDATED", "tls": {"server_name": EVIL}},
    )]  # fmt: skip
    lines = shown(capsys, server, "watch", "peers").splitlines()
    assert lines[:3] == [
        "PEER_ADDED   192.0.2.1:4244 east/node-a (TLS.ServerName: node-a.east.hubble-grpc.cilium.io)",
        "PEER_ADDED   192.0.2.9 node-z",
        "PEER_DELETED 192.0.2.10 node-z",
    ]
    assert len(lines) == 4
    assert not [character for character in UNSAFE if character in lines[3]]
