"""Where each process of a cluster listens: on the underlay of its namespaces, or on loopback when simulated.

Pure. The ports are those of every installation; without namespaces each cluster has its own block of 1,000.
"""

from __future__ import annotations

from dataclasses import dataclass

from axoneme.lab.network import CONTROL_HOST
from axoneme.lab.topology import Cluster, Node

LOOPBACK = "127.0.0.1"
ETCD, ETCD_PEER = 2379, 2380
IDENTITY, POLICY, CLUSTERMESH, RELAY, OBSERVER = 4301, 4302, 4303, 4245, 4244
METRICS = {"identity": 9962, "policy": 9963, "clustermesh": 9964, "relay": 9965, "node": 9966}
SIMULATED_BASE, SIMULATED_STEP = 20_000, 1_000
# Offsets inside a simulated cluster's block; nodes count on from theirs.
SIMULATED_OFFSETS = {
    ETCD: 379,
    ETCD_PEER: 380,
    IDENTITY: 301,
    POLICY: 302,
    CLUSTERMESH: 303,
    RELAY: 245,
    OBSERVER: 400,
    9962: 962,
    9963: 963,
    9964: 964,
    9965: 965,
    9966: 600,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """The listeners of one cluster, each as `host:port`."""

    cluster: Cluster
    simulated: bool

    @property
    def etcd(self) -> str:
        return self._listener(LOOPBACK, ETCD)

    @property
    def etcd_peer(self) -> str:
        return self._listener(LOOPBACK, ETCD_PEER)

    @property
    def identity(self) -> str:
        return self._listener(self.cluster.address(CONTROL_HOST), IDENTITY)

    @property
    def policy(self) -> str:
        return self._listener(self.cluster.address(CONTROL_HOST), POLICY)

    @property
    def clustermesh(self) -> str:
        return self._listener(self.cluster.address(CONTROL_HOST), CLUSTERMESH)

    @property
    def relay(self) -> str:
        return self._listener(self.cluster.address(CONTROL_HOST), RELAY)

    def observer(self, node: Node) -> str:
        return self._listener(self.cluster.node_address(node), OBSERVER, node.number)

    def metrics(self, service: str, node: Node | None = None) -> str:
        """Metrics stay on loopback; every namespace has its own."""
        return self._listener(LOOPBACK, METRICS[service], node.number if node else 0)

    def internal_ips(self, node: Node) -> list[str]:
        """Addresses of a node as other nodes see it. Simulated nodes keep those they would have."""
        return [self.cluster.node_address(node), self.cluster.node_address6(node)]

    def _listener(self, host: str, port: int, node_number: int = 0) -> str:
        if not self.simulated:
            return f"{host}:{port}"
        block = SIMULATED_BASE + SIMULATED_STEP * self.cluster.number
        return f"{LOOPBACK}:{block + SIMULATED_OFFSETS[port] + node_number}"
