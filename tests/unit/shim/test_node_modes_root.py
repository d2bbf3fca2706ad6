"""A whole node with a host firewall and a tunnel, and the same node after it was told otherwise."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from axoneme.api.node.v1 import node_pb2, node_pb2_grpc
from axoneme.lib.bpf.maps import KernelMap
from axoneme.lib.tls import TlsFiles
from shim.maps import base, layout
from shim.maps import node as nodemaps
from tests.unit.shim.nodelab import node_lab
from tests.unit.shim.test_node_root import RunningNode
from tests.waiting import eventually_sync

pytestmark = [pytest.mark.root, pytest.mark.etcd, pytest.mark.slow]

SETTINGS = {
    "host_firewall": True,
    "labels": ["role=edge"],
    "routing_mode": "tunnel",
    "health_seconds": 1.0,
    "native_routing_cidrs": ["198.51.100.0/24", "2001:db8:9::/48"],
}


@pytest.fixture
def node(tmp_path: Path, tls_files: Callable[[str], TlsFiles]) -> Iterator[RunningNode]:
    with node_lab(tmp_path) as lab:
        running = RunningNode(lab, tls_files)
        running.settings, running.policy_options = dict(SETTINGS), ("--enable-host-firewall",)
        running.start()
        running.wait_synced()
        yield running


def held(node: RunningNode, name: str) -> dict[bytes, bytes]:
    bpf_map = KernelMap.open(node.lab.pins / name)
    try:
        return dict(bpf_map.items())
    finally:
        bpf_map.close()


def described(node: RunningNode) -> nodemaps.NodeConfig:
    return nodemaps.NodeConfig.unpack(held(node, nodemaps.NODE.name)[base.number_key(0)])


def reachable(node: RunningNode) -> bool:
    """Its own addresses and those of its health endpoint answer, both ways and in both families."""
    answer = node.api.GetHealth(node_pb2.GetHealthRequest(probe=True), timeout=20)
    paths = [path for one in answer.nodes for path in one.paths]
    return len(paths) == 8 and all(path.reachable for path in paths)


def has_overlay(node: RunningNode) -> bool:
    links = json.loads(node.lab.exec(node.lab.name, "ip", "-j", "link").stdout)
    return any(link["ifname"] == "axo_vxlan" for link in links)


def restarted(node: RunningNode, **settings: object) -> None:
    node.supervisor.terminate()
    node.supervisor.wait(20)
    node.channel.close()
    node.settings.update(settings)
    node.start_node()
    node.channel = grpc.insecure_channel(f"unix:{node.directory}/run/shim.sock")
    node.api = node_pb2_grpc.NodeServiceStub(node.channel)
    node.wait_synced()


def test_a_tunnel_a_firewall_and_back(node: RunningNode) -> None:
    eventually_sync(lambda: reachable(node), seconds=30)
    found = described(node)
    wanted = nodemaps.NODE_TUNNEL | nodemaps.NODE_HOST_FIREWALL | nodemaps.NODE_HOST_ROUTING
    assert found.flags & wanted == wanted
    assert found.overlay_ifindex
    assert found.host_policy_generation
    assert has_overlay(node)
    own = {"192.0.2.1", "2001:db8::1", "10.1.0.1", "fd00:10:1::1"}
    assert {str(base.address_from_bytes(key)) for key in held(node, nodemaps.NODE_IPS.name)} == own
    excluded = {str(base.IpcacheKey.unpack(key).network()) for key in held(node, nodemaps.NO_MASQUERADE.name)}
    assert excluded == set(SETTINGS["native_routing_cidrs"])  # type: ignore[call-overload]
    assert layout.policy_outer_key(layout.HOST_ENDPOINT_ID) in held(node, layout.POLICY.name)
    assert node.api.AuditMaps(node_pb2.AuditMapsRequest(), timeout=20).repairs == []

    restarted(node, routing_mode="direct")
    eventually_sync(lambda: reachable(node), seconds=30)
    after = described(node)
    assert after.flags & wanted == wanted & ~nodemaps.NODE_TUNNEL
    assert after.overlay_ifindex == 0
    assert after.host_policy_generation >= found.host_policy_generation
    assert not has_overlay(node)
    assert node.api.AuditMaps(node_pb2.AuditMapsRequest(), timeout=20).repairs == []

    restarted(node, host_firewall=False)
    assert not described(node).flags & nodemaps.NODE_HOST_FIREWALL
    node.api.AuditMaps(node_pb2.AuditMapsRequest(), timeout=20)
    assert layout.policy_outer_key(layout.HOST_ENDPOINT_ID) not in held(node, layout.POLICY.name)
