"""A whole node: `axoneme node serve` in a namespace, with real etcd, identity and policy beside it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from axoneme.api.node.v1 import node_pb2, node_pb2_grpc
from axoneme.lib.tls import TlsFiles
from shim.maps import base, layout
from shim.privileged import protocol
from shim.privileged.client import HelperClient
from shim.supervisor import HELPER_CAPABILITIES
from tests.unit.shim.nodelab import NodeLab, ip, node_lab
from tests.waiting import eventually_sync

pytestmark = [pytest.mark.root, pytest.mark.etcd, pytest.mark.slow]

POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: only-web, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: b}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: a}}]
    toPorts: [{ports: [{port: "80", protocol: TCP}]}]
"""


class RunningNode:
    """The node under test and its local API."""

    def __init__(self, lab: NodeLab, tls_files: Callable[[str], TlsFiles]) -> None:
        self.lab = lab
        self.directory = lab.directory
        self.settings: dict[str, object] = {}
        self.policy_options: tuple[str, ...] = ()
        self._tls = tls_files
        self.channel = grpc.insecure_channel(f"unix:{self.directory}/run/shim.sock")
        self.api = node_pb2_grpc.NodeServiceStub(self.channel)

    def start(self) -> None:
        lab = self.lab
        ip("link", "add", "und0", "type", "veth", "peer", "name", "und1", netns=lab.name)
        for name in ("und0", "und1"):
            ip("link", "set", name, "up", netns=lab.name)
        ip("addr", "add", "192.0.2.1/24", "dev", "und0", netns=lab.name)
        ip("addr", "add", "2001:db8::1/64", "dev", "und0", "nodad", netns=lab.name)
        etcd = self.directory / "etcd"
        etcd.mkdir()
        lab.run("sh", "-c", f"cd {etcd} && exec {ETCD}")
        for service, more in (
            ("identity", ("--cluster-id", "1", "--pod-cidr-pools", "10.1.0.0/16/24,fd00:10:1::/48/64")),
            ("policy", self.policy_options),
        ):
            self._serve(service, f"unix://{etcd}/etcd.sock:1", more)
        self.start_node()

    def _serve(self, service: str, endpoint: str, more: tuple[str, ...]) -> None:
        tls = self._tls(f"svc/{service}")
        files = ("--ca-file", str(tls.ca), "--cert-file", str(tls.cert), "--key-file", str(tls.key))
        cluster = ("--cluster-name", "east", "--trust-domain", "east.mesh", "--etcd-endpoints", endpoint)
        self.lab.run(sys.executable, "-m", "axoneme.cli.main", service, "serve", *files, *cluster, *more)

    def start_node(self) -> None:
        tls = self._tls(f"node/{self.lab.name}")
        settings = {
            "node_name": self.lab.name,
            "cluster_name": "east",
            "cluster_id": 1,
            "link_check_seconds": 1.0,
            "clustermesh_targets": [],
            "state_directory": str(self.directory / "state"),
            "run_directory": str(self.directory / "run"),
            "ca_file": str(tls.ca),
            "cert_file": str(tls.cert),
            "key_file": str(tls.key),
            **self.settings,
        }
        lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
        file = self.directory / "node.toml"
        file.write_text("\n".join([*lines, 'internal_ips = ["192.0.2.1", "2001:db8::1"]']))
        self.supervisor = self.lab.run(
            sys.executable, "-m", "axoneme.cli.main", "node", "serve", "--config", str(file)
        )

    def wait_synced(self) -> node_pb2.GetNodeStatusResponse:
        def synced() -> node_pb2.GetNodeStatusResponse | None:
            try:
                status = self.api.GetNodeStatus(node_pb2.GetNodeStatusRequest(), timeout=2)
            except grpc.RpcError:
                return None
            # Three of the services, two of the node's DNS proxy.
            done = len(status.streams) == 5 and all(stream.synced for stream in status.streams)
            return status if done and not status.problems else None

        status = eventually_sync(synced, seconds=60)
        assert status is not None
        return status

    def add(self, name: str, netns: str) -> node_pb2.Endpoint:
        request = node_pb2.AddEndpointRequest(
            namespace="default", pod_name=name, labels=[f"app={name}"], netns=netns
        )
        return self.api.AddEndpoint(request, timeout=20).endpoint

    def pids(self) -> dict[str, int]:
        """Latest process ids by name, as the supervisor logs them."""
        found = {}
        for log in sorted(self.directory.glob("*.log")):
            for line in log.read_text().splitlines():
                if '"process started"' in line:
                    entry = json.loads(line)
                    found[entry["process"]] = entry["pid"]
        return found

    def ping(self, netns: str, address: str, count: int = 2) -> int:
        """Number of answers."""
        done = self.lab.exec(netns, "ping", "-c", str(count), "-i", "0.1", "-W", "1", address)
        match = re.search(r"(\d+) received", done.stdout)
        return int(match.group(1)) if match else 0


ETCD = (
    "etcd --data-dir data --unsafe-no-fsync=true --name test"
    " --listen-client-urls unix://etcd.sock:1 --advertise-client-urls unix://etcd.sock:1"
    " --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380"
    " --initial-cluster test=http://127.0.0.1:2380"
)


@pytest.fixture(scope="module")
def node(
    tmp_path_factory: pytest.TempPathFactory, tls_files: Callable[[str], TlsFiles]
) -> Iterator[RunningNode]:
    with node_lab(tmp_path_factory.mktemp("node")) as lab:
        running = RunningNode(lab, tls_files)
        running.start()
        running.wait_synced()
        yield running
        running.channel.close()


@pytest.fixture(scope="module")
def pods(node: RunningNode) -> dict[str, tuple[str, node_pb2.Endpoint]]:
    """Two endpoints, a and b."""
    found = {}
    for name in ("a", "b"):
        netns = node.lab.add_workload()
        found[name] = (netns, node.add(name, netns))
    return found


Pods = dict[str, tuple[str, node_pb2.Endpoint]]


def test_packets_of_both_families_pass(node: RunningNode, pods: Pods) -> None:
    for address in pods["b"][1].ips:
        assert node.ping(pods["a"][0], address) == 2
    assert all(pod.state == node_pb2.ENDPOINT_STATE_READY for _, pod in pods.values())


def test_the_shim_holds_no_capability(node: RunningNode, pods: Pods) -> None:
    status = Path(f"/proc/{node.pids()['shim']}/status").read_text()
    for kind in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb"):
        assert re.search(rf"{kind}:\t0+\n", status), status
    assert "NoNewPrivs:\t1" in status


def test_every_process_may_die_and_no_packet_is_lost(node: RunningNode, pods: Pods) -> None:
    before = node.pids()
    (netns, _), (_, target) = pods["a"], pods["b"]
    command = ["nsenter", f"--net={netns}", "ping", "-c", "150", "-i", "0.05", "-W", "1", target.ips[0]]
    pinging = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    links = sorted(path.name for path in (node.lab.pins / "links").iterdir())
    assert set(before) == {"shim", "helper", "fqdn"}
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)
    eventually_sync(lambda: all(node.pids()[name] != before[name] for name in before), seconds=20)
    node.wait_synced()
    assert "150 received" in pinging.communicate(timeout=60)[0]
    assert set(links) <= {path.name for path in (node.lab.pins / "links").iterdir()}
    listed = node.api.ListEndpoints(node_pb2.ListEndpointsRequest(filter="default/")).endpoints
    assert [(e.endpoint_id, e.identity, e.interface_name) for e in listed] == [
        (pod.endpoint_id, pod.identity, pod.interface_name) for _, pod in pods.values()
    ]
    assert all(e.state == node_pb2.ENDPOINT_STATE_READY for e in listed)
    assert node.api.AuditMaps(node_pb2.AuditMapsRequest(), timeout=20).repairs == []


def test_programs_are_replaced_in_place_under_a_flood(node: RunningNode, pods: Pods) -> None:
    (netns, _), (_, target) = pods["a"], pods["b"]
    helper = HelperClient(node.lab.socket)
    for address in target.ips:
        command = ["nsenter", f"--net={netns}", "ping", "-q", "-c", "3000", "-i", "0.002", "-W", "1", address]
        flood = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        swaps = 0
        while flood.poll() is None:
            helper.call(protocol.LoadPrograms())
            swaps += 1
        assert "3000 received" in flood.communicate()[0]
        assert swaps > 2
    helper.close()


def test_drift_is_repaired(node: RunningNode, pods: Pods) -> None:
    from axoneme.lib.bpf.maps import KernelMap

    exact = KernelMap.open(node.lab.pins / layout.IPEXACT.name)
    address = base.address_bytes(pods["a"][1].ips[0])
    assert exact.delete(address)
    repairs = list(node.api.AuditMaps(node_pb2.AuditMapsRequest(), timeout=20).repairs)
    assert len(repairs) == 1, repairs
    assert exact.lookup(address) is not None
    exact.close()
    assert node.api.AuditMaps(node_pb2.AuditMapsRequest(), timeout=20).repairs == []


def test_a_removed_pin_is_repaired_between_audits_and_named(node: RunningNode, pods: Pods) -> None:
    _, pod = pods["a"]
    pin = node.lab.pins / "links" / f"{pod.endpoint_id}-axoneme_to_ep"
    pin.unlink()
    eventually_sync(pin.exists, seconds=20)

    def named() -> list[str]:
        status = node.api.GetNodeStatus(node_pb2.GetNodeStatusRequest(), timeout=5)
        return [problem for problem in status.problems if pod.interface_name in problem]

    # The helper pins before its answer reaches the shim, which names the repair only then.
    assert eventually_sync(named, seconds=10)
    assert node.ping(pods["b"][0], pod.ips[0]) == 2
    assert node.api.AuditMaps(node_pb2.AuditMapsRequest(), timeout=20).repairs == []


def test_the_helper_has_three_capabilities(node: RunningNode, pods: Pods) -> None:
    status = Path(f"/proc/{node.pids()['helper']}/status").read_text()
    mask = sum(1 << capability for capability in HELPER_CAPABILITIES)
    for kind in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb"):
        assert f"{kind}:\t{mask:016x}\n" in status, status
    assert "NoNewPrivs:\t1" in status


def test_a_policy_decides_for_both_families(
    node: RunningNode, pods: Pods, tls_files: Callable[[str], TlsFiles], tmp_path: Path
) -> None:
    tls = tls_files("user/admin/ann")
    context = {
        "cluster": "east",
        "trust_domain": "east.mesh",
        "identity": ["127.0.0.1:4301"],
        "policy": ["127.0.0.1:4302"],
        "relay": [],
        "tls": {"ca": str(tls.ca), "cert": str(tls.cert), "key": str(tls.key)},
        "nodes": {node.lab.name: str(node.directory / "run" / "shim.sock")},
    }
    (tmp_path / "context.json").write_text(json.dumps(context))
    (tmp_path / "policy.yaml").write_text(POLICY)
    words = (
        "policy",
        "apply",
        "-f",
        str(tmp_path / "policy.yaml"),
        "--context",
        str(tmp_path / "context.json"),
    )
    done = node.lab.exec(node.lab.name, sys.executable, "-m", "axoneme.cli.main", *words)
    assert done.returncode == 0, done.stderr
    (netns, a), (_, b) = pods["a"], pods["b"]

    def map_of_b() -> list[node_pb2.PolicyMapEntry]:
        answer = node.api.GetPolicyMap(node_pb2.GetPolicyMapRequest(endpoint_id=b.endpoint_id))
        return [entry for entry in answer.entries if entry.identity == a.identity]

    entry = eventually_sync(map_of_b, seconds=10)[0]
    assert (entry.protocol, entry.port) == (6, 80)
    assert entry.origins[0].name == "only-web"
    for address in b.ips:
        assert node.ping(netns, address) == 0
        # Nobody listens: the refusal of b's own kernel comes back where the packet passed.
        assert node.lab.exec(netns, *dial(address, 80)).stdout.strip() == "ConnectionRefusedError"
        assert node.lab.exec(netns, *dial(address, 81)).stdout.strip() == "TimeoutError"


def test_deletion_leaves_nothing(node: RunningNode, pods: Pods) -> None:
    for _, pod in pods.values():
        node.api.DeleteEndpoint(node_pb2.DeleteEndpointRequest(endpoint_id=pod.endpoint_id), timeout=20)
    left = re.findall(r"axo\d+", ip("link", netns=node.lab.name))
    assert set(left) <= {"axo65535"}, "only the health endpoint of the node itself stays"
    pinned = [path.name for path in (node.lab.pins / "links").iterdir()]
    assert [
        name for name in pinned if name.partition("-")[0].isdigit() and not name.startswith("65535-")
    ] == []
    entries = node.api.ListIpcache(node_pb2.ListIpcacheRequest()).entries
    assert all(e.identity == 4 for e in entries if e.source in ("endpoint", "identity"))
    node.supervisor.terminate()
    started = time.monotonic()
    assert node.supervisor.wait(30) == 0
    assert time.monotonic() - started < 15


def dial(address: str, port: int) -> tuple[str, ...]:
    code = (
        "import socket\n"
        f"try: socket.create_connection(({address!r}, {port}), 1); print('connected')\n"
        "except OSError as error: print(type(error).__name__)"
    )
    return (sys.executable, "-c", code)
