"""What a laboratory consists of: clusters, their nodes, the pods on them, and every name and address.

Comes from flags or a YAML file; goes to the network, certificate, service and pod modules, which ask here for
names and addresses and make up none of their own. Pure: reads no file, starts nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?\Z")
LABEL = re.compile(r"[^=;\s]+=[^=;\s]*\Z")
CLUSTER_NAMES = ("east", "west", "north", "south")
RESERVED_NAMES = frozenset({"control", "fabric", "internet"})
MAX_CLUSTERS = 20
MAX_NODES = 99
MAX_PODS = 200
HTTP_PORT = 8080
PREFIX = "axolab"
CONFIGURABLE = ("identity", "policy", "clustermesh", "relay", "node")
FABRIC = f"{PREFIX}-fabric"


class TopologyError(ValueError):
    """A topology that cannot be built; the text names the field and the fix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A workload in its own network namespace. `http_port` 0: it runs no server. `resolver`: it is a DNS
    resolver, as kube-dns is."""

    name: str
    namespace: str = "default"
    labels: tuple[str, ...] = ()
    http_port: int = 0
    resolver: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A machine with its shim. `number` counts from 1 within the cluster and gives the addresses."""

    name: str
    number: int
    pods: tuple[Pod, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """One etcd with its services and nodes. `settings`: options of its processes, for experiments."""

    name: str
    number: int
    nodes: tuple[Node, ...]
    settings: Mapping[str, Mapping[str, object]] = field(default_factory=dict)

    @property
    def trust_domain(self) -> str:
        return f"{self.name}.mesh"

    @property
    def control_netns(self) -> str:
        return f"{PREFIX}-{self.name}-control"

    def netns(self, name: str) -> str:
        """Name of the network namespace of one of the cluster's nodes or pods."""
        return f"{PREFIX}-{self.name}-{name}"

    def address(self, host: int) -> str:
        """IPv4 address of a host of the underlay: 1 gateway, 10 control, 100 + n node n."""
        return f"198.18.{self.number}.{host}"

    def address6(self, host: int) -> str:
        """The IPv6 twin; the host number is written with the same digits."""
        return f"fd00:198:18:{self.number}::{host}"

    def node_address(self, node: Node) -> str:
        return self.address(100 + node.number)

    def node_address6(self, node: Node) -> str:
        return self.address6(100 + node.number)

    @property
    def pod_cidr_pools(self) -> tuple[str, str]:
        """Pool/size of a node's block, as the identity service takes it."""
        return f"10.{self.number}.0.0/16/24", f"fd00:10:{self.number}::/48/64"

    @property
    def service_cidrs(self) -> tuple[str, str]:
        """Networks of the cluster's service addresses."""
        return f"172.20.{self.number}.0/24", f"fd00:20:{self.number}::/112"

    def pods(self) -> Iterator[tuple[Node, Pod]]:
        return ((node, pod) for node in self.nodes for pod in node.pods)


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """All clusters. `simulated`: control plane only, on loopback, no packets."""

    clusters: tuple[Cluster, ...]
    simulated: bool = False

    def find_pod(self, text: str) -> tuple[Cluster, Node, Pod]:
        """Finds `POD` or `CLUSTER/POD`. Raises TopologyError when there is none or more than one."""
        cluster_name, _, pod_name = text.rpartition("/")
        found = [
            (cluster, node, pod)
            for cluster in self.clusters
            if cluster_name in ("", cluster.name)
            for node, pod in cluster.pods()
            if pod.name == pod_name
        ]
        if not found:
            known = ", ".join(self.pod_names())
            raise TopologyError(f"pod {text}: there is none; the lab has {known or 'no pods'}")
        if len(found) > 1:
            choices = " or ".join(f"{cluster.name}/{pod_name}" for cluster, _, _ in found)
            raise TopologyError(f"pod {text}: is in several clusters; say {choices}")
        return found[0]

    def pod_names(self) -> list[str]:
        """Names as `exec` takes them: with the cluster only where there are several."""
        several = len(self.clusters) > 1
        return [
            f"{cluster.name}/{pod.name}" if several else pod.name
            for cluster in self.clusters
            for _, pod in cluster.pods()
        ]


def default_pod(name: str) -> Pod:
    """The pod that a bare name means: label app=NAME; one called backend… serves HTTP, one called dns… is a
    resolver with the labels of Kubernetes' own."""
    if name.startswith("dns"):
        return Pod(name=name, namespace="kube-system", labels=("k8s-app=kube-dns",), resolver=True)
    return Pod(name=name, labels=(f"app={name}",), http_port=HTTP_PORT if name.startswith("backend") else 0)


def from_flags(
    *,
    clusters: int = 1,
    nodes: int = 2,
    pods: Sequence[str] = (),
    simulated: bool = False,
    node_settings: Mapping[str, object] | None = None,
) -> Topology:
    """Builds equal clusters. `pods` are `NAME` or `NAME@NODE`; others go to the nodes in turn."""
    _check_range("--clusters", clusters, MAX_CLUSTERS)
    _check_range("--nodes", nodes, MAX_NODES)
    node_names = [f"node{number}" for number in range(1, nodes + 1)]
    placed = _place(pods or _default_pods(nodes), node_names)
    document = {
        "clusters": [
            {
                "name": CLUSTER_NAMES[i] if i < len(CLUSTER_NAMES) else f"cluster{i + 1}",
                "settings": {"node": dict(node_settings or {})},
                "nodes": [{"name": name, "pods": placed[name]} for name in node_names],
            }
            for i in range(clusters)
        ]
    }
    return from_document(document, where="--pods", simulated=simulated)


def from_document(document: object, *, where: str, simulated: bool = False) -> Topology:
    """Builds the topology of a parsed YAML file. Raises TopologyError naming the field, such as
    `FILE: clusters[0].nodes[1].name: …`."""
    top = _mapping(document, where, allowed=("clusters",), required=("clusters",))
    items = _sequence(top["clusters"], f"{where}: clusters", maximum=MAX_CLUSTERS)
    clusters = tuple(_cluster(item, f"{where}: clusters[{i}]", i + 1) for i, item in enumerate(items))
    _unique([cluster.name for cluster in clusters], f"{where}: clusters", "cluster")
    return Topology(clusters=clusters, simulated=simulated)


def to_document(topology: Topology) -> dict[str, Any]:
    """The inverse of `from_document`, for the state file."""
    return {
        "clusters": [
            {
                "name": cluster.name,
                "settings": {service: dict(options) for service, options in cluster.settings.items()},
                "nodes": [
                    {"name": node.name, "pods": [_pod_document(pod) for pod in node.pods]}
                    for node in cluster.nodes
                ],
            }
            for cluster in topology.clusters
        ]
    }


def same(one: Topology, other: Topology) -> bool:
    """Whether both would build the same laboratory."""
    return one.simulated == other.simulated and to_document(one) == to_document(other)


def _pod_document(pod: Pod) -> dict[str, Any]:
    return {
        "name": pod.name,
        "namespace": pod.namespace,
        "labels": dict(label.split("=", 1) for label in pod.labels),
        "http_port": pod.http_port,
        "resolver": pod.resolver,
    }


def _default_pods(nodes: int) -> list[str]:
    return ["frontend@node1", "batch@node1", f"backend@node{min(2, nodes)}", f"dns@node{min(2, nodes)}"]


def _place(pods: Sequence[str], node_names: Sequence[str]) -> dict[str, list[str]]:
    placed: dict[str, list[str]] = {name: [] for name in node_names}
    for i, text in enumerate(pods):
        name, at, node = text.partition("@")
        node = node if at else node_names[i % len(node_names)]
        if node not in placed:
            raise TopologyError(f"--pods {text}: there is no node {node}; say one of {', '.join(node_names)}")
        placed[node].append(name)
    return placed


def _cluster(item: object, where: str, number: int) -> Cluster:
    fields = _mapping(item, where, allowed=("name", "nodes", "settings"), required=("name", "nodes"))
    nodes = tuple(
        _node(node, f"{where}.nodes[{i}]", i + 1)
        for i, node in enumerate(_sequence(fields["nodes"], f"{where}.nodes", maximum=MAX_NODES))
    )
    names = [node.name for node in nodes] + [pod.name for node in nodes for pod in node.pods]
    _unique(names, f"{where}.nodes", "node or pod")
    settings = _mapping(fields.get("settings") or {}, f"{where}.settings", allowed=CONFIGURABLE)
    return Cluster(
        name=_name(fields["name"], f"{where}.name"),
        number=number,
        nodes=nodes,
        settings={name: _mapping(options, f"{where}.settings.{name}") for name, options in settings.items()},
    )


def _node(item: object, where: str, number: int) -> Node:
    fields = _mapping(item, where, allowed=("name", "pods"), required=("name",))
    pods = _sequence(fields.get("pods") or [], f"{where}.pods", minimum=0, maximum=MAX_PODS)
    return Node(
        name=_name(fields["name"], f"{where}.name"),
        number=number,
        pods=tuple(_pod(pod, f"{where}.pods[{i}]") for i, pod in enumerate(pods)),
    )


def _pod(item: object, where: str) -> Pod:
    if isinstance(item, str):
        return default_pod(_name(item, where))
    allowed = ("name", "namespace", "labels", "http_port", "resolver")
    fields = _mapping(item, where, allowed=allowed, required=("name",))
    default = default_pod(_name(fields["name"], f"{where}.name"))
    port = fields.get("http_port", default.http_port)
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65535:
        raise TopologyError(f"{where}.http_port: {port!r} is not a port; say 1–65535, or 0 for no server")
    resolver = fields.get("resolver", default.resolver)
    if not isinstance(resolver, bool):
        raise TopologyError(f"{where}.resolver: {resolver!r} is neither true nor false")
    return Pod(
        name=default.name,
        namespace=_name(fields.get("namespace", default.namespace), f"{where}.namespace"),
        labels=_labels(fields["labels"], f"{where}.labels") if "labels" in fields else default.labels,
        http_port=port,
        resolver=resolver,
    )


def _labels(item: object, where: str) -> tuple[str, ...]:
    texts = tuple(f"{key}={'' if value is None else value}" for key, value in _mapping(item, where).items())
    for text in texts:
        if not LABEL.match(text):
            raise TopologyError(
                f"{where}: {text!r} is not a label; say key: value without spaces, ';' or '='"
            )
    return texts


def _name(item: object, where: str) -> str:
    if not isinstance(item, str) or not NAME.match(item):
        raise TopologyError(f"{where}: {item!r} is not a name; say 1–32 of a–z, 0–9 and inner '-'")
    if item in RESERVED_NAMES:
        raise TopologyError(f"{where}: {item} is a namespace of the lab's own; take another name")
    return item


def _mapping(
    item: object, where: str, *, allowed: Sequence[str] | None = None, required: Sequence[str] = ()
) -> dict[str, Any]:
    if not isinstance(item, Mapping):
        raise TopologyError(f"{where}: must be a mapping, is {_kind(item)}")
    for key in item:
        if allowed is not None and key not in allowed:
            raise TopologyError(f"{where}.{key}: unknown field; known are {', '.join(allowed)}")
    for key in required:
        if key not in item:
            raise TopologyError(f"{where}.{key}: is missing")
    return {str(key): value for key, value in item.items()}


def _sequence(item: object, where: str, *, minimum: int = 1, maximum: int) -> Sequence[object]:
    if not isinstance(item, list):
        raise TopologyError(f"{where}: must be a list, is {_kind(item)}")
    if not minimum <= len(item) <= maximum:
        raise TopologyError(f"{where}: has {len(item)} entries; {minimum} to {maximum} are possible")
    return item


def _kind(item: object) -> str:
    return "empty" if item is None else f"a {type(item).__name__}"


def _unique(names: Sequence[str], where: str, noun: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise TopologyError(f"{where}: the {noun} name {name} is used twice; each needs its own")


def _check_range(flag: str, number: int, maximum: int) -> None:
    if not 1 <= number <= maximum:
        raise TopologyError(f"{flag} {number}: say 1 to {maximum}")
