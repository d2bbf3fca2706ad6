"""Which processes a cluster consists of, in which namespace each runs, and with which settings.

Pure: gives commands and the text of configuration files; `laboratory` writes and starts them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from axoneme.lab import internet
from axoneme.lab.addresses import Addresses
from axoneme.lab.cgroups import joining, node_folder
from axoneme.lab.files import ClusterFiles
from axoneme.lab.network import entering
from axoneme.lab.topology import PREFIX, Cluster, Node, Pod

ETCD_BINARY = "etcd"
BPFFS = Path("/sys/fs/bpf")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedProcess:
    """A process to start. `settings` become its TOML file; empty: it has none."""

    name: str
    command: list[str]
    settings: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ClusterPlan:
    """The processes of one cluster."""

    cluster: Cluster
    files: ClusterFiles
    simulated: bool
    cgroups: Path | None = None

    @property
    def addresses(self) -> Addresses:
        return Addresses(cluster=self.cluster, simulated=self.simulated)

    def etcd(self) -> PlannedProcess:
        """etcd with TLS for clients and peers, on loopback only, under a CA that only services have."""
        client, peer = f"https://{self.addresses.etcd}", f"https://{self.addresses.etcd_peer}"
        ca, cert, key = (
            str(self.files.certificate("etcd", name)) for name in ("ca.crt", "tls.crt", "tls.key")
        )
        command = [
            *(
                ETCD_BINARY,
                "--name",
                self.cluster.name,
                "--data-dir",
                str(self.files.etcd),
                "--log-level",
                "warn",
            ),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--initial-cluster", f"{self.cluster.name}={peer}"),
            *("--client-cert-auth", "--trusted-ca-file", ca, "--cert-file", cert, "--key-file", key),
            *("--peer-client-cert-auth", "--peer-trusted-ca-file", ca),
            *("--peer-cert-file", cert, "--peer-key-file", key),
        ]
        return PlannedProcess(name="etcd", command=[*self._entering(self.cluster.control_netns), *command])

    def services(self) -> list[PlannedProcess]:
        """identity, policy and clustermesh: what nodes need."""
        identity = {
            **self._service("identity", self.addresses.identity),
            "cluster_id": self.cluster.number,
            "pod_cidr_pools": list(self.cluster.pod_cidr_pools),
            **self.cluster.settings.get("identity", {}),
        }
        policy = self._service("policy", self.addresses.policy)
        clustermesh = {
            **self._service("clustermesh", self.addresses.clustermesh),
            "service_cidrs": list(self.cluster.service_cidrs),
            **self.cluster.settings.get("clustermesh", {}),
        }
        control = self.cluster.control_netns
        return [
            self._axoneme("identity", ["identity"], control, {**identity, **self._etcd("identity")}),
            self._axoneme("policy", ["policy"], control, {**policy, **self._etcd("policy")}),
            self._axoneme(
                "clustermesh", ["clustermesh"], control, {**clustermesh, **self._etcd("clustermesh")}
            ),
        ]

    def relay(self) -> PlannedProcess:
        settings = {
            **self._service("relay", self.addresses.relay),
            "peer_service": [self.addresses.observer(node) for node in self.cluster.nodes],
        }
        return self._axoneme("relay", ["relay"], self.cluster.control_netns, settings)

    def node(self, node: Node) -> PlannedProcess:
        """A node: its supervisor starts the helper and the shim. A simulated one is a shim alone: it
        needs no privilege."""
        settings = {
            "node_name": node.name,
            "cluster_name": self.cluster.name,
            "cluster_id": self.cluster.number,
            "trust_domain": self.cluster.trust_domain,
            "identity_targets": [self.addresses.identity],
            "policy_targets": [self.addresses.policy],
            "clustermesh_targets": [self.addresses.clustermesh],
            **self._tls(node.name),
            "internal_ips": self.addresses.internal_ips(node),
            "observer_listen": self.addresses.observer(node),
            "metrics_address": self.addresses.metrics("node", node),
            "run_directory": str(self.files.node(node.name)),
            "state_directory": str(self.files.node(node.name) / "state"),
            "bpffs": str(self.pins),
            "datapath": "memory" if self.simulated else "kernel",
            **self._sockets(node),
            **self.cluster.settings.get("node", {}),
        }
        words = ["shim"] if self.simulated else ["node"]
        return self._axoneme(node.name, words, self.cluster.netns(node.name), settings)

    def servers(self) -> list[PlannedProcess]:
        """Web servers and resolvers in pods."""
        pods = [pod for _, pod in self.cluster.pods()]
        servers = [(f"web-{pod.name}", pod, _webserver(pod)) for pod in pods if pod.http_port]
        servers += [(f"dns-{pod.name}", pod, internet.resolver()) for pod in pods if pod.resolver]
        return [
            PlannedProcess(name=name, command=[*self._inside(pod), *command])
            for name, pod, command in servers
        ]

    def internet(self) -> list[PlannedProcess]:
        """What runs outside of the clusters; the first one keeps its records."""
        certificate = [str(self.files.certificate("internet", name)) for name in ("tls.crt", "tls.key")]
        commands = {
            "internet-dns": internet.upstream(),
            "internet-http": internet.webserver(internet.HTTP_PORT),
            "internet-https": internet.webserver(internet.HTTPS_PORT, certificate),
        }
        inside = entering(internet.NETNS)
        return [PlannedProcess(name=name, command=[*inside, *command]) for name, command in commands.items()]

    def _inside(self, pod: Pod) -> list[str]:
        return [*self._entering(self.cluster.netns(pod.name)), *joining(self.pod_cgroup(pod))]

    def pod_cgroup(self, pod: Pod) -> Path | None:
        """The cgroup of a pod; None on a machine without cgroup v2."""
        node = next(node for node, one in self.cluster.pods() if one.name == pod.name)
        folder = node_folder(self.cluster, node.name, self.cgroups)
        return folder / pod.name if folder else None

    @property
    def pins(self) -> Path:
        """Root of the cluster's pins: apart from any real node's, and found by name afterwards."""
        return BPFFS / f"{PREFIX}-{self.cluster.name}"

    def context(self) -> dict[str, object]:
        """How clients connect, as axoneme.client reads it."""
        tls = {"ca": "ca.crt", "cert": "tls.crt", "key": "tls.key"}
        return {
            "cluster": self.cluster.name,
            "trust_domain": self.cluster.trust_domain,
            "identity": [self.addresses.identity],
            "policy": [self.addresses.policy],
            "clustermesh": [self.addresses.clustermesh],
            "relay": [self.addresses.relay],
            "tls": {key: str(self.files.certificate("user", name)) for key, name in tls.items()},
            "nodes": {node.name: str(self.files.shim_socket(node.name)) for node in self.cluster.nodes},
            "simulated": self.simulated,
        }

    def inside_control(self) -> list[str]:
        """Start of a command line that runs the rest beside the services."""
        return self._entering(self.cluster.control_netns)

    def _sockets(self, node: Node) -> dict[str, object]:
        """Only a node's own workloads get its service addresses translated at the socket."""
        folder = node_folder(self.cluster, node.name, self.cgroups)
        if self.simulated or folder is None:
            return {"socket_lb": False}
        return {"cgroup_root": str(folder)}

    def _service(self, name: str, listen: str) -> dict[str, object]:
        return {
            "listen_address": listen,
            "cluster_name": self.cluster.name,
            "trust_domain": self.cluster.trust_domain,
            **self._tls(name),
            "metrics_address": self.addresses.metrics(name),
            **self.cluster.settings.get(name, {}),
        }

    def _etcd(self, name: str) -> dict[str, object]:
        files = {"etcd_ca_file": "ca.crt", "etcd_cert_file": "tls.crt", "etcd_key_file": "tls.key"}
        paths = {key: str(self.files.certificate(f"{name}-etcd", file)) for key, file in files.items()}
        return {"etcd_endpoints": [self.addresses.etcd], **paths}

    def _tls(self, name: str) -> dict[str, object]:
        files = {"ca_file": "ca.crt", "cert_file": "tls.crt", "key_file": "tls.key"}
        return {key: str(self.files.certificate(name, file)) for key, file in files.items()}

    def _axoneme(
        self, name: str, words: list[str], netns: str, settings: Mapping[str, object]
    ) -> PlannedProcess:
        program = [sys.executable, "-m", "axoneme.cli.main", *words, "serve"]
        command = [*self._entering(netns), *program, "--config", str(self.files.config(name))]
        return PlannedProcess(name=name, command=command, settings=settings)

    def _entering(self, netns: str) -> list[str]:
        return [] if self.simulated else entering(netns)


def _webserver(pod: Pod) -> list[str]:
    module = ["-m", "axoneme.lab.webserver", "--name", pod.name, "--port", str(pod.http_port)]
    return [sys.executable, *module]
