"""A whole node with load balancing at sockets and accelerated connections, and the same node without them."""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest

from axoneme.api.node.v1 import node_pb2
from axoneme.lib.bpf.cgrouplinks import CgroupHook
from axoneme.lib.bpf.library import libbpf
from axoneme.lib.bpf.maps import KernelMap
from axoneme.lib.tls import TlsFiles
from shim.maps import base, lb, sockets
from tests.bpf.socketlab import Worker, workload_cgroup
from tests.unit.shim.nodelab import ip, node_lab
from tests.unit.shim.test_node_modes_root import restarted
from tests.unit.shim.test_node_root import RunningNode
from tests.waiting import eventually_sync

pytestmark = [pytest.mark.root, pytest.mark.etcd, pytest.mark.slow]
family = pytest.mark.parametrize("v", [4, 6], ids=["ipv4", "ipv6"])

OPEN_PORT, CUT_PORT = 8080, 8081
EXCHANGES = 20  # through the stack the answers at least are seen on the interface
FEW_PACKETS = 12  # a handshake and acknowledgements
FRONTENDS = {4: "10.96.0.10", 6: "fd00:96::a"}
SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: b, namespace: default}
spec:
  selector: {app: b}
  clusterIPs: [10.96.0.10, "fd00:96::a"]
  ipFamilyPolicy: RequireDualStack
  ports: [{port: 80, targetPort: 8080, protocol: TCP}]
"""
POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: one-port, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: b}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: a}}]
    toPorts: [{ports: [{port: "8080", protocol: TCP}]}]
"""


class ServicesNode(RunningNode):
    """With the service that has services."""

    served = False

    def start_node(self) -> None:
        if not self.served:
            more = ("--service-cidrs", "10.96.0.0/16,fd00:96::/112")
            self._serve("clustermesh", f"unix://{self.directory}/etcd/etcd.sock:1", more)
            self.served = True
        super().start_node()

    def wait_synced(self) -> node_pb2.GetNodeStatusResponse:
        last: list[object] = []

        def synced() -> node_pb2.GetNodeStatusResponse | None:
            try:
                status = self.api.GetNodeStatus(node_pb2.GetNodeStatusRequest(), timeout=2)
            except grpc.RpcError as error:
                last[:] = [error]
                return None
            last[:] = status.problems
            done = len(status.streams) == 6 and all(stream.synced for stream in status.streams)
            return status if done and not status.problems else None

        status = eventually_sync(synced, seconds=60)
        assert status is not None, last
        return status

    def cli(self, kind: str, verb: str, text: str) -> None:
        tls = self._tls("user/admin/ann")
        files = {"ca": str(tls.ca), "cert": str(tls.cert), "key": str(tls.key)}
        services = {name: [f"127.0.0.1:{4301 + i}"] for i, name in enumerate(("identity", "policy"))}
        context = {"cluster": "east", "trust_domain": "east.mesh", "relay": [], "tls": files, **services}
        nodes = {self.lab.name: str(self.directory / "run" / "shim.sock")}
        (self.directory / "context.json").write_text(
            json.dumps({**context, "clustermesh": ["127.0.0.1:4303"], "nodes": nodes})
        )
        file = self.directory / f"{kind}.yaml"
        file.write_text(text)
        words = (kind, verb, "-f", str(file), "--context", str(self.directory / "context.json"))
        done = self.lab.exec(self.lab.name, sys.executable, "-m", "axoneme.cli.main", *words)
        assert done.returncode == 0, done.stderr


@dataclass
class Scene:
    """A node with two pods, and a process in each that is in the node's cgroup."""

    node: ServicesNode
    cgroup: Path
    workers: dict[str, Worker] = field(default_factory=dict)
    pods: dict[str, node_pb2.Endpoint] = field(default_factory=dict)
    listeners: dict[tuple[str, int], int] = field(default_factory=dict)

    def address(self, pod: str, v: int) -> str:
        return next(one for one in self.pods[pod].ips if (":" in one) is (v == 6))

    def held(self, name: str) -> dict[bytes, bytes]:
        bpf_map = KernelMap.open(self.node.lab.pins / name)
        try:
            return dict(bpf_map.items())
        finally:
            bpf_map.close()

    def states(self, v: int, port: int) -> set[int]:
        """How data travels on connections with this server."""
        raw = self.held("axoneme_pairs").items()
        pairs = [(sockets.PairKey.unpack(key), sockets.SocketPair.unpack(value)) for key, value in raw]
        server = base.address_bytes(self.address("b", v)), port.to_bytes(2, "big")
        return {
            pair.state
            for key, pair in pairs
            if server in ((key.local, key.local_port_be), (key.remote, key.remote_port_be))
        }

    def packets(self) -> int:
        """Both directions of the server's interface."""
        words = ("-json", "-s", "link", "show", self.pods["b"].interface_name)
        stats = json.loads(ip(*words, netns=self.node.lab.name))[0]["stats64"]
        return int(stats["rx"]["packets"] + stats["tx"]["packets"])

    def connect(self, v: int, port: int, frontend: tuple[str, int] | None = None) -> tuple[int, int]:
        """Numbers of the client's end and the server's."""
        server = (self.address("b", v), port)
        if server not in self.listeners:
            self.listeners[server] = self.workers["b"].call("open_listener", *server)
        ours = self.workers["a"].call("keep", "stream", *(frontend or server))
        return ours, self.workers["b"].call("accept", self.listeners[server])

    def talk(self, ours: int, theirs: int, count: int = EXCHANGES) -> int:
        """Question and answer; returns the packets of it."""
        before = self.packets()
        a, b = self.workers["a"], self.workers["b"]
        for _ in range(count):
            a.call("say", ours, "question")
            assert b.call("hear", theirs, 8) == {"text": "question"}
            b.call("say", theirs, "answer")
            assert a.call("hear", ours, 6) == {"text": "answer"}
        return self.packets() - before

    def cookies(self) -> dict[int, sockets.NetnsEntry]:
        return {
            sockets.cookie_from_key(key): sockets.NetnsEntry.unpack(value)
            for key, value in self.held("axoneme_netns").items()
        }


def attached(cgroup: Path) -> list[CgroupHook]:
    """Hooks of a cgroup that have a program, as the kernel tells."""
    found = []
    folder = os.open(cgroup, os.O_RDONLY)
    for hook in CgroupHook:
        flags, ids, count = ctypes.c_uint32(), (ctypes.c_uint32 * 8)(), ctypes.c_uint32(8)
        done = libbpf().bpf_prog_query(folder, int(hook), 0, ctypes.byref(flags), ids, ctypes.byref(count))
        assert done == 0, hook
        found += [hook] * count.value
    os.close(folder)
    return found


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, tls_files: Callable[[str], TlsFiles]) -> Iterator[Scene]:
    with ExitStack() as stack:
        lab = stack.enter_context(node_lab(tmp_path_factory.mktemp("sockets")))
        cgroup = stack.enter_context(workload_cgroup(f"{lab.name}-pods"))
        node = ServicesNode(lab, tls_files)
        node.settings = {
            "clustermesh_targets": ["127.0.0.1:4303"],
            "socket_lb": True,
            "sockmap": True,
            "cgroup_root": str(cgroup),
            "health_port": 0,
        }
        node.start()
        node.wait_synced()
        made = Scene(node, cgroup)
        for name in ("a", "b"):
            netns = lab.add_workload()
            made.pods[name] = node.add(name, netns)
            made.workers[name] = Worker(netns.rpartition("/")[2], cgroup)
            stack.callback(made.workers[name].close)
        node.cli("service", "apply", SERVICE)
        eventually_sync(lambda: len(made.held(lb.LB_BACKENDS.name)) == 2, seconds=20)
        yield made
        node.channel.close()


def test_namespaces_of_endpoints_are_known(scene: Scene) -> None:
    own = {name: worker.call("netns_cookie") for name, worker in scene.workers.items()}
    found = scene.cookies()
    for name, cookie in own.items():
        assert found[cookie].endpoint_id == scene.pods[name].endpoint_id
    assert len(found) == len(own)


@family
def test_connections_of_pods_go_past_the_stack(scene: Scene, v: int) -> None:
    ends = scene.connect(v, OPEN_PORT)
    assert scene.talk(*ends) <= FEW_PACKETS
    assert scene.states(v, OPEN_PORT) == {sockets.PAIR_REDIRECTED}


@family
def test_a_service_is_translated_at_the_socket(scene: Scene, v: int) -> None:
    ours, theirs = scene.connect(v, OPEN_PORT, (FRONTENDS[v], 80))
    assert scene.talk(ours, theirs) <= FEW_PACKETS, "such a connection is accelerated, too"
    assert scene.held(lb.NAT.name) == {}, "no packet of it was translated"


@family
def test_a_policy_cuts_an_accelerated_connection(scene: Scene, v: int) -> None:
    ours, theirs = scene.connect(v, CUT_PORT)
    scene.talk(ours, theirs, 3)
    assert scene.states(v, CUT_PORT) == {sockets.PAIR_REDIRECTED}
    scene.node.cli("policy", "apply", POLICY)

    def is_cut() -> bool:
        scene.workers["a"].call("say", ours, "x")
        return "late" in scene.workers["b"].call("hear", theirs, 1, 0.3)

    eventually_sync(is_cut, seconds=15)
    scene.workers["a"].call("say", ours, "secret")
    assert scene.workers["b"].call("hear", theirs, 6, 0.3) == {"text": "", "late": True}
    assert scene.talk(*scene.connect(v, OPEN_PORT)) <= FEW_PACKETS, "what is allowed begins anew"
    scene.node.cli("policy", "delete", POLICY)


def test_switched_off_nothing_stays_on_the_cgroup(scene: Scene) -> None:
    cookies = scene.cookies()
    ends = {v: scene.connect(v, OPEN_PORT) for v in (4, 6)}
    for one in ends.values():
        assert scene.talk(*one) <= FEW_PACKETS
    assert len(attached(scene.cgroup)) == 9
    restarted(scene.node, socket_lb=False, sockmap=False)
    assert attached(scene.cgroup) == []
    assert scene.cookies() == cookies
    for v, one in ends.items():
        assert scene.talk(*one) >= EXCHANGES, "the same connection, through the stack"
        assert scene.talk(*scene.connect(v, OPEN_PORT)) >= EXCHANGES
    assert scene.node.api.AuditMaps(node_pb2.AuditMapsRequest(), timeout=20).repairs == []
