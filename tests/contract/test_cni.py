"""`axoneme-cni` between a container runtime and a whole node, alone and after Debian's CNI plugins."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from axoneme.api.node.v1 import node_pb2
from axoneme.lib.tls import TlsFiles
from tests.cniruntime import DEBIAN_PLUGINS, CniRuntime, PluginError, dial
from tests.unit.shim.nodelab import NodeLab, ip, node_lab
from tests.unit.shim.test_node_root import RunningNode
from tests.waiting import eventually_sync

pytestmark = [pytest.mark.root, pytest.mark.etcd, pytest.mark.slow]

needs_plugins = pytest.mark.skipif(
    not (DEBIAN_PLUGINS / "bridge").exists(), reason="needs Debian's containernetworking-plugins"
)

POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: only-web, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: guarded}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: friend}}]
    toPorts: [{ports: [{port: "80", protocol: TCP}]}]
"""


class Node(RunningNode):
    """A node with a runtime."""

    def __init__(self, lab: NodeLab, tls_files: Callable[[str], TlsFiles]) -> None:
        super().__init__(lab, tls_files)
        self.netns_by_container: dict[str, str] = {}

    def start_node(self) -> None:
        tls = self._tls(f"node/{self.lab.name}")
        settings = {
            "node_name": self.lab.name,
            "cluster_name": "east",
            "cluster_id": 1,
            "internal_ips": ["192.0.2.1"],
            "clustermesh_targets": [],  # pods need no services, nor health probes
            "health_port": 0,
            "socket_lb": False,
            "uplink": "und0",
            "state_directory": str(self.directory / "state"),
            "run_directory": str(self.directory / "run"),
            "ca_file": str(tls.ca),
            "cert_file": str(tls.cert),
            "key_file": str(tls.key),
        }
        lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
        file = self.directory / "node.toml"
        file.write_text("\n".join(lines))
        words = ("-m", "axoneme.cli.main", "node", "serve", "--config", str(file))
        self.supervisor = self.lab.run(sys.executable, *words)

    def wait_ready(self) -> None:
        """Returns once the plugin would be served: STATUS says so."""

        def ready() -> bool:
            try:
                self.runtime(version="1.1.0").status()
            except PluginError:
                return False
            return True

        eventually_sync(ready, seconds=60)

    def own_plugin(self, **fields: Any) -> dict[str, Any]:
        return {
            "type": "axoneme-cni",
            "runDirectory": str(self.directory / "run"),
            "stateDirectory": str(self.directory / "state"),
            "capabilities": {"portMappings": True, "ips": True, "axoneme.io/labels": True},
            **fields,
        }

    def runtime(self, *before: dict[str, Any], **fields: Any) -> CniRuntime:
        return CniRuntime(self.lab.name, [*before, self.own_plugin()], **fields)

    def add_pod(self, runtime: CniRuntime, container: str, **labels: str) -> dict[str, Any]:
        netns = self.netns_by_container[container] = self.lab.add_workload()
        args = f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={container}"
        return runtime.add(container, netns, args, {"axoneme.io/labels": {"app": container, **labels}})

    def netns(self, container: str) -> str:
        return self.netns_by_container[container]

    def endpoints(self) -> list[node_pb2.Endpoint]:
        return list(self.api.ListEndpoints(node_pb2.ListEndpointsRequest(), timeout=5).endpoints)

    def endpoint(self, container: str) -> node_pb2.Endpoint:
        return next(one for one in self.endpoints() if one.pod_name == container)

    def apply(self, text: str) -> None:
        tls = self._tls("user/admin/ann")
        context = {
            "cluster": "east",
            "trust_domain": "east.mesh",
            "identity": ["127.0.0.1:4301"],
            "policy": ["127.0.0.1:4302"],
            "tls": {"ca": str(tls.ca), "cert": str(tls.cert), "key": str(tls.key)},
        }
        context_file, policy_file = self.directory / "context.json", self.directory / "policy.yaml"
        context_file.write_text(json.dumps(context))
        policy_file.write_text(text)
        words = ("policy", "apply", "-f", str(policy_file), "--context", str(context_file))
        axoneme = Path(__file__).parents[2] / ".venv" / "bin" / "axoneme"
        done = self.lab.exec(self.lab.name, str(axoneme), *words)
        assert done.returncode == 0, done.stderr

    def reaches(self, container: str, address: str, port: int) -> bool:
        """Whether packets get through; nobody needs to listen."""
        answer = self.lab.exec(self.netns(container), *dial(address, port)).stdout.strip()
        assert answer in ("connected", "ConnectionRefusedError", "TimeoutError"), answer
        return answer != "TimeoutError"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, tls_files: Callable[[str], TlsFiles]) -> Iterator[Node]:
    with node_lab(tmp_path_factory.mktemp("cni")) as lab:
        running = Node(lab, tls_files)
        running.start()
        running.wait_ready()
        yield running
        running.channel.close()


@pytest.fixture
def clean(node: Node) -> Iterator[Node]:
    """Removes endpoints that a test left."""
    yield node
    for one in node.endpoints():
        node.api.DeleteEndpoint(node_pb2.DeleteEndpointRequest(endpoint_id=one.endpoint_id), timeout=20)


def addresses(result: dict[str, Any]) -> list[str]:
    return [one["address"].partition("/")[0] for one in result["ips"]]


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def test_the_first_packet_of_a_new_pod_passes(clean: Node, version: str) -> None:
    node, runtime = clean, clean.runtime(version=version)
    node.add_pod(runtime, "a")
    result = node.add_pod(runtime, "b")
    assert result["cniVersion"] == version
    assert sorted(addresses(result)) == sorted(node.endpoint("b").ips)
    for address in addresses(result):
        assert node.ping(node.netns("a"), address, count=1) == 1
    if version != "0.3.1":
        runtime.check("a", node.netns("a"))
    for container in ("a", "b", "a"):
        runtime.delete(container, node.netns(container))
    assert node.endpoints() == []
    assert "axo" not in ip("link", netns=node.lab.name).replace("axo_", "")


def test_check_sees_the_container_and_the_programs(clean: Node) -> None:
    node, runtime = clean, clean.runtime()
    result = node.add_pod(runtime, "a")
    netns = node.netns("a")
    runtime.check("a", netns)
    for address in addresses(result):
        bits = "128" if ":" in address else "32"
        ip("addr", "del", f"{address}/{bits}", "dev", "eth0", netns=netns.rpartition("/")[2])
        with pytest.raises(PluginError, match=f"eth0 has lost {address}"):
            runtime.check("a", netns)
        ip("addr", "add", f"{address}/{bits}", "dev", "eth0", netns=netns.rpartition("/")[2])
        runtime.check("a", netns)
    ip("link", "set", node.endpoint("a").interface_name, "down", netns=node.lab.name)
    with pytest.raises(PluginError, match="a program is missing"):
        runtime.check("a", netns)
    runtime.delete("a", netns)
    with pytest.raises(PluginError, match="no endpoint") as unknown:
        runtime.check("a", netns)
    assert unknown.value.code == 3


def bridge(subnets: list[str], data: Path) -> dict[str, Any]:
    """Debian's bridge with host-local."""
    return {
        "type": "bridge",
        "bridge": "axt-br0",
        "isGateway": True,
        "ipam": host_local(subnets, data),
    }


def ptp(subnets: list[str], data: Path) -> dict[str, Any]:
    """Debian's ptp with host-local."""
    return {"type": "ptp", "ipam": host_local(subnets, data)}


def host_local(subnets: list[str], data: Path) -> dict[str, Any]:
    return {
        "type": "host-local",
        "dataDir": str(data),
        "ranges": [[{"subnet": subnet}] for subnet in subnets],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
    }


@needs_plugins
@pytest.mark.parametrize("plugin", [bridge, ptp])
def test_after_another_plugin_only_programs_are_attached(
    clean: Node, plugin: Callable[[list[str], Path], dict[str, Any]], tmp_path: Path
) -> None:
    node = clean
    subnets = ["172.30.0.0/24", "fd00:30::/64"]
    runtime = node.runtime(plugin(subnets, tmp_path), name=plugin.__name__)
    node.apply(POLICY)
    node.add_pod(runtime, "friend")
    node.add_pod(runtime, "stranger")
    result = node.add_pod(runtime, "guarded")
    for container in ("friend", "stranger", "guarded"):
        made = node.endpoint(container)
        assert made.adopted
        assert made.interface_name.startswith("veth")
        runtime.check(container, node.netns(container))
    assert sorted(addresses(result)) == sorted(node.endpoint("guarded").ips)
    for address in addresses(result):
        assert node.reaches("friend", address, 80)
        assert not node.reaches("friend", address, 81)
        assert not node.reaches("stranger", address, 80)
    for address in node.endpoint("stranger").ips:
        assert node.ping(node.netns("guarded"), address) == 2
    # Given back, the interface is judged no more and lives on; its maker removes it.
    guarded = node.endpoint("guarded")
    node.api.DeleteEndpoint(node_pb2.DeleteEndpointRequest(endpoint_id=guarded.endpoint_id), timeout=20)
    for address in addresses(result):
        assert node.reaches("stranger", address, 80)
    for container in ("friend", "stranger", "guarded"):
        runtime.delete(container, node.netns(container))
    assert node.endpoints() == []
    assert list((node.lab.pins / "links").glob("*-axoneme_*_ep")) == []
    assert "veth" not in ip("link", netns=node.lab.name)
    ip_link_delete(node, "axt-br0")


def ip_link_delete(node: Node, name: str) -> None:
    subprocess.run(["ip", "-n", node.lab.name, "link", "del", name], capture_output=True)


def test_wanted_addresses_and_host_ports(clean: Node) -> None:
    node, runtime = clean, clean.runtime()
    first = node.add_pod(runtime, "a")
    wanted = [
        address.rpartition(":")[0] + ":77" if ":" in address else address.rpartition(".")[0] + ".77"
        for address in addresses(first)
    ]
    netns = node.lab.add_workload()
    mapping = {"hostPort": 18080, "containerPort": 80, "protocol": "tcp"}
    result = runtime.add("x1", netns, "", {"ips": wanted, "portMappings": [mapping]})
    assert addresses(result) == wanted
    [made] = [one for one in node.endpoints() if one.pod_name == "x1"]
    assert [(one.host_port, one.container_port, one.protocol) for one in made.host_ports] == [
        (18080, 80, "TCP")
    ]
    for refused in ({"ips": [wanted[0]]}, {"ips": [wanted[1]]}, {"portMappings": [mapping]}):
        with pytest.raises(PluginError) as taken:
            runtime.add("x2", netns, "", refused)
        assert taken.value.code == 101
    runtime.delete("x1", netns)


def test_gc_and_status(clean: Node) -> None:
    node, runtime = clean, clean.runtime(version="1.1.0")
    runtime.status()
    for container in ("a", "b"):
        node.add_pod(runtime, container)
    node.lab.exec(node.netns("b"), "true")
    runtime.collect(["a"])
    assert [one.pod_name for one in node.endpoints()] == ["a"]
    runtime.delete("a", node.netns("a"))


@needs_plugins
@pytest.mark.parametrize("before", ["nothing", "ptp"])
def test_a_removal_while_the_node_is_away_is_done_when_it_is_back(
    clean: Node, before: str, tmp_path: Path
) -> None:
    earlier = [] if before == "nothing" else [ptp(["172.30.0.0/24", "fd00:30::/64"], tmp_path)]
    node, runtime = clean, clean.runtime(*earlier)
    for container in ("a", "b"):
        node.add_pod(runtime, container)
    node.supervisor.terminate()
    assert node.supervisor.wait(30) == 0
    plain = node.runtime(version="1.1.0")
    with pytest.raises(PluginError) as away:
        plain.add("c", node.lab.add_workload())
    assert away.value.code == 11
    with pytest.raises(PluginError) as away:
        plain.status()
    assert away.value.code == 50
    runtime.delete("a", node.netns("a"))
    node.start_node()
    node.wait_ready()

    def gone() -> bool:
        try:
            return [one.pod_name for one in node.endpoints()] == ["b"]
        except grpc.RpcError:
            return False

    eventually_sync(gone, seconds=30)
    eventually_sync(lambda: not list((node.directory / "state" / "cni").iterdir()))
    runtime.check("b", node.netns("b"))
    runtime.delete("b", node.netns("b"))
    assert node.endpoints() == []
    assert list((node.lab.pins / "links").glob("*-axoneme_*_ep")) == []
