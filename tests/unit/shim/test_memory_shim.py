"""The whole process on the memory datapath, without services, root or BPF."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

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
        "metrics_address": "",
        "identity_targets": ["127.0.0.1:1"],
        "policy_targets": ["127.0.0.1:1"],
        "internal_ips": ["192.0.2.1", "2001:db8::1"],
        "state_directory": str(tmp_path / "state"),
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
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
