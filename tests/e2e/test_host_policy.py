"""Policies of the node itself on real packets: from pods, from strangers, to both families; and off again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.e2e import outside as machine
from tests.e2e.outside import NETNS as OUTSIDE
from tests.e2e.running import Running
from tests.e2e.services import ask, ask_from, mirror, node_ip, stopped, stopped_from, who
from tests.waiting import eventually_sync

pytestmark = [pytest.mark.root, pytest.mark.etcd]

VERSIONS = pytest.mark.parametrize("version", [4, 6])
PORT = 9100
# The relay reaches the observer of every node, and nodes and health endpoints reach each other.
POLICY = f"""
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {{name: nodes}}
spec:
  nodeSelector: {{}}
  ingress:
  - fromEntities: [remote-node, health]
  - toPorts: [{{ports: [{{port: "4244", protocol: TCP}}]}}]
  - fromEndpoints: [{{matchLabels: {{app: frontend, "io.kubernetes.pod.namespace": default}}}}]
    toPorts: [{{ports: [{{port: "{PORT}", protocol: TCP}}]}}]
"""


@pytest.fixture(scope="module")
def firewalled(laboratory_of_the_session: Running) -> Iterator[Running]:
    """The laboratory with enforcement on its nodes; without again afterwards."""
    lab = laboratory_of_the_session
    lab.delete_all_policies()
    lab.kill("policy")
    lab.start("policy", enable_host_firewall=True)
    lab.reconfigure_nodes(host_firewall=True)
    with ExitStack() as mirrors:
        for node in lab.cluster.nodes:
            mirrors.enter_context(mirror(lab.cluster.netns(node.name), node.name, PORT))
        yield lab
    lab.delete_all_policies()
    lab.kill("policy")
    lab.start("policy")
    lab.reconfigure_nodes()


@pytest.fixture
def policed(firewalled: Running) -> Iterator[Running]:
    lab = firewalled
    lab.store(POLICY)
    eventually_sync(lambda: stopped(lab, "batch", node_ip(lab, "node1", 4), PORT))
    yield lab
    lab.delete_all_policies()


@VERSIONS
def test_pods_reach_the_node_as_its_policy_says(policed: Running, version: int) -> None:
    lab = policed
    for node in ("node1", "node2"):  # the pods' own node, and the other one
        ip = node_ip(lab, node, version)
        assert who(ask(lab, "frontend", ip, PORT, count=3)) == {node}
        assert stopped(lab, "batch", ip, PORT)
    # What the node itself allows others is no reason to let it through to pods, and the other way round.
    assert lab.reaches("batch", "backend", version=version)


@VERSIONS
def test_strangers_are_kept_out_and_their_drops_are_seen(policed: Running, version: int) -> None:
    lab = policed
    with machine.outside(lab):
        ip = node_ip(lab, "node1", version)
        assert stopped_from(OUTSIDE, ip, PORT)
        found = lab.flows("--last", "100", "--verdict", "DROPPED", "--ip", ip, "--port", str(PORT))
    assert any("reserved:host" in flow["destination"].get("labels", []) for flow in found)


@VERSIONS
def test_without_policies_everybody_reaches_the_node(firewalled: Running, version: int) -> None:
    lab = firewalled
    with machine.outside(lab):
        ip = node_ip(lab, "node1", version)
        eventually_sync(lambda: who(ask_from(OUTSIDE, ip, PORT, count=1)) == {"node1"})
        assert who(ask(lab, "batch", ip, PORT, count=2)) == {"node1"}
