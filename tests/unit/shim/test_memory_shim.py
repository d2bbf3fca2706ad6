"""The whole process on the memory datapath, without services, root or BPF."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from axoneme.api.flows.v1 import flows_pb2, flows_pb2_grpc
from axoneme.api.hubble.flow import flow_pb2
from axoneme.api.hubble.observer import observer_pb2, observer_pb2_grpc
from axoneme.api.hubble.peer import peer_pb2, peer_pb2_grpc
from axoneme.api.node.v1 import node_pb2, node_pb2_grpc
from axoneme.lib.tls import TlsFiles
from tests.waiting import eventually_sync

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_it_serves_says_what_is_missing_and_stops(
    tmp_path: Path, tls_files: Callable[[str], TlsFiles]
) -> None:
    tls = tls_files("node/n1")
    settings = {
        "node_name": "n1",
        "cluster_name": "east",
        "datapath": "memory",
        "observer_listen": "127.0.0.1:0",
        "metrics_address": f"127.0.0.1:{free_port()}",
        "identity_targets": ["127.0.0.1:1"],
        "policy_targets": ["127.0.0.1:1"],
        "internal_ips": ["192.0.2.1", "2001:db8::1"],
        "state_directory": str(tmp_path / "state"),
        "flow_spill_directory": str(tmp_path / "flows"),
        "run_directory": str(tmp_path / "run"),
        "ca_file": str(tls.ca),
        "cert_file": str(tls.cert),
        "key_file": str(tls.key),
    }
    file = tmp_path / "node.toml"
    file.write_text("\n".join(f"{key} = {json.dumps(value)}" for key, value in settings.items()))
    process = subprocess.Popen(
        [sys.executable, "-m", "shim.main", "--config", str(file)], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    try:
        with grpc.insecure_channel(f"unix:{tmp_path}/run/shim.sock") as channel:
            api = node_pb2_grpc.NodeServiceStub(channel)

            def status() -> node_pb2.GetNodeStatusResponse | None:
                try:
                    return api.GetNodeStatus(node_pb2.GetNodeStatusRequest(), timeout=2)
                except grpc.RpcError:
                    return None

            answer = eventually_sync(status, seconds=30)
            assert answer is not None
            assert answer.simulated
            assert any("identity service reachable" in problem for problem in answer.problems)
            assert any("policy service reachable" in problem for problem in answer.problems)
            entries = api.ListIpcache(node_pb2.ListIpcacheRequest()).entries
            assert [(e.prefix, e.identity, e.source) for e in entries] == [
                ("0.0.0.0/0", 9, "world"),
                ("::/0", 10, "world"),
            ]
            request = node_pb2.AddEndpointRequest(namespace="default", pod_name="web", netns="/run/netns/x")
            with pytest.raises(grpc.RpcError) as refused:
                api.AddEndpoint(request, timeout=10)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            assert api.AuditMaps(node_pb2.AuditMapsRequest()).repairs == []
            health = api.GetHealth(node_pb2.GetHealthRequest(probe=True)).nodes
            assert [one.node for one in health] == ["east/n1"]
            assert {(p.address, p.error) for p in health[0].paths} == {
                ("192.0.2.1", "simulated: no packets"),
                ("2001:db8::1", "simulated: no packets"),
            }
            observe_locally(channel, tmp_path / "run" / "shim.sock")
            assert "axoneme_shim_link_repairs_total 0.0" in scraped(str(settings["metrics_address"]))
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


def observe_locally(channel: grpc.Channel, socket_path: Path) -> None:
    """The node's own socket also serves Observer and Peer, and `axoneme observe` dials it."""
    status = observer_pb2_grpc.ObserverStub(channel).ServerStatus(
        observer_pb2.ServerStatusRequest(), timeout=20
    )
    assert status.max_flows
    events = list(
        observer_pb2_grpc.ObserverStub(channel).GetAgentEvents(
            observer_pb2.GetAgentEventsRequest(), timeout=20
        )
    )
    assert events[0].agent_event.type == flow_pb2.AGENT_STARTED
    assert (
        0 <= events[0].time.ToNanoseconds() - events[0].agent_event.agent_start.time.ToNanoseconds() < 10**9
    )
    addresses = {
        one.agent_event.ipcache_update.cidr for one in events if one.agent_event.HasField("ipcache_update")
    }
    assert addresses >= {"0.0.0.0/0", "::/0"}
    batches = flows_pb2_grpc.FlowsServiceStub(channel)
    assert list(batches.StreamFlows(flows_pb2.StreamFlowsRequest(), timeout=20)) == []
    peers = peer_pb2_grpc.PeerStub(channel).Notify(peer_pb2.NotifyRequest(), timeout=0.5)
    with pytest.raises(grpc.RpcError) as ended:
        next(iter(peers))  # no identity service, so no nodes: the stream is silent
    assert ended.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    command = [sys.executable, "-m", "axoneme.cli.main", "observe", "--socket", str(socket_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr


def scraped(address: str) -> str:
    def scrape() -> str:
        try:
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""

    return eventually_sync(scrape, seconds=20)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_start_does_not_wait_for_numpy_or_aiohttp() -> None:
    """They are half of what a start imports, and nobody waits for them to add an endpoint."""
    code = "import sys, shim.main; print([name for name in ('numpy', 'aiohttp') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
