"""`axoneme status`: sentences for what is wrong, and the exit code."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from axoneme.lib import grpcserver  # isort: skip  (before grpc)
import grpc.aio

from axoneme.api.hubble.observer import observer_pb2, observer_pb2_grpc
from axoneme.api.node.v1 import node_pb2, node_pb2_grpc
from axoneme.cli import causes, status
from axoneme.cli import main as root
from axoneme.lib.errors import DeadlineExceeded, PermissionDenied, Unavailable
from axoneme.lib.tls import TlsFiles
from tests.conftest import TRUST_DOMAIN


class Node(node_pb2_grpc.NodeServiceServicer):
    def __init__(self) -> None:
        self.answer = node_pb2.GetNodeStatusResponse(
            node_name="node1",
            streams=[node_pb2.StreamStatus(name="SubscribeIpcache", synced=True)],
            endpoints={"ENDPOINT_STATE_READY": 2},
        )

    async def GetNodeStatus(self, request: Any, context: Any) -> node_pb2.GetNodeStatusResponse:
        return self.answer


class Observer(observer_pb2_grpc.ObserverServicer):
    async def ServerStatus(self, request: Any, context: Any) -> observer_pb2.ServerStatusResponse:
        answer = observer_pb2.ServerStatusResponse(num_flows=3, max_flows=10)
        answer.num_connected_nodes.value = 1
        return answer


@contextlib.asynccontextmanager
async def cluster(
    tls_files: Callable[[str], TlsFiles], directory: Path, node: Node
) -> AsyncIterator[tuple[Path, list[grpcserver.GrpcServer]]]:
    """Identity, policy, relay and one node, and a context that names them."""

    def register(server: grpc.aio.Server) -> list[str]:
        observer_pb2_grpc.add_ObserverServicer_to_server(Observer(), server)
        return ["observer.Observer"]

    def register_node(server: grpc.aio.Server) -> list[str]:
        node_pb2_grpc.add_NodeServiceServicer_to_server(node, server)
        return ["axoneme.api.node.v1.NodeService"]

    files = tls_files("user/reader/ann")
    async with contextlib.AsyncExitStack() as stack:
        servers, targets = [], {}
        for name in ("identity", "policy", "relay"):
            listener = grpcserver.Listener("127.0.0.1:0", tls_files(f"svc/{name}"), TRUST_DOMAIN)
            server = await stack.enter_async_context(
                grpcserver.serving([listener], register, drain_seconds=0.1)
            )
            server.set_serving("", True)
            servers.append(server)
            targets[name] = [f"127.0.0.1:{server.port}"]
        socket = directory / "shim.sock"
        listener = grpcserver.Listener(f"unix://{socket}")
        await stack.enter_async_context(grpcserver.serving([listener], register_node, drain_seconds=0.1))
        tls = {"ca": str(files.ca), "cert": str(files.cert), "key": str(files.key)}
        document = {
            "cluster": "east",
            "trust_domain": TRUST_DOMAIN,
            **targets,
            "tls": tls,
            "nodes": {"node1": str(socket)},
        }
        context = directory / "context.json"
        context.write_text(json.dumps(document))
        yield context, servers


async def test_status_of_a_cluster(
    tls_files: Callable[[str], TlsFiles], socket_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node = Node()
    async with cluster(tls_files, socket_directory, node) as (context, servers):

        async def run(*arguments: str) -> tuple[int, str]:
            code = await asyncio.to_thread(root.main, ["status", "--context", str(context), *arguments])
            return code, capsys.readouterr().out

        code, out = await run()
        assert code == 0, out
        assert "1 of 1 streams in order; 2 endpoints (2 ready)" in out
        assert "1 of 1 nodes; 3 of 10 flows kept" in out
        node.answer.streams.add(name="SubscribeNodes", stale_seconds=12, error="connection refused")
        node.answer.problems.append("SubscribeNodes is stale for 12 s (connection refused)")
        node.answer.simulated = True
        servers[1].set_serving("", False)
        code, out = await run()
        assert code == 1
        assert "cluster east (simulated: no packets)" in out
        assert "node1: SubscribeNodes is stale for 12 s (connection refused)" in out
        assert out.count("SubscribeNodes") == 1, "said once, by the node"
        assert "policy: it answers but does not serve yet" in out
        code, out = await run("-o", "json")
        document = json.loads(out)
        assert (document["ok"], document["simulated"]) == (False, True)
        assert [part["state"] for part in document["parts"]] == ["ok", "degraded", "ok", "degraded"]
        assert document["parts"][3]["status"]["streams"][1]["error"] == "connection refused"
        waiting = asyncio.ensure_future(run("--wait", "20"))
        await asyncio.sleep(0)
        servers[1].set_serving("", True)
        del node.answer.streams[1], node.answer.problems[:]
        assert (await waiting)[0] == 0


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("failed to connect to all addresses; last error: Connection refused", "not running"),
        ("unix:/x: No such file or directory", "not running"),
        ("unix:/x: Permission denied", "root only"),
        ("Hostname Verification Check failed.", "another name"),
        ("SSL: CERTIFICATE_VERIFY_FAILED", "not of the context's CA"),
        ("Socket closed", "axoneme certs show"),
        ("DNS resolution failed for x", "cannot be resolved"),
        ("something else", "something else"),
    ],
)
def test_causes_in_words(message: str, words: str) -> None:
    assert words in causes.explain(Unavailable(message), 10)


def test_hang_and_refusal_in_words() -> None:
    assert "no answer within 3 s" in causes.explain(DeadlineExceeded("x"), 3)
    assert "may not ask" in causes.explain(PermissionDenied("reader may not call X"), 3)


def test_relay_without_nodes_is_not_well() -> None:
    part = status.PartStatus(name="relay")
    status.judge_relay(part, observer_pb2.ServerStatusResponse())
    assert part.state == status.DEGRADED
    answer = observer_pb2.ServerStatusResponse(unavailable_nodes=["node2"])
    answer.num_unavailable_nodes.value = 1
    part = status.PartStatus(name="relay")
    status.judge_relay(part, answer)
    assert "node2" in part.problems[0]


def test_problems_and_failures_of_a_node() -> None:
    part = status.PartStatus(name="node1")
    answer = node_pb2.GetNodeStatusResponse(problems=["the map is full; raise it"], lost_events=4)
    answer.streams.add(name="SubscribeIpcache", synced=True, failures=2)
    status.judge_node(part, answer)
    assert part.problems == ["the map is full; raise it"]
    assert "4 flow events lost" in part.detail


def test_features_are_shown_by_node() -> None:
    answer = node_pb2.GetNodeStatusResponse(features={"tcx": "yes", "dsr": "needs Linux 7"})
    parts = [status.PartStatus(name="policy"), status.PartStatus(name="node1", data=answer)]
    assert status.feature_lines(parts) == ["node1: dsr needs Linux 7, tcx yes"]
    assert status.feature_lines(parts[:1]) == ["no node has told what its kernel can do"]
