"""The endpoints of a test case as identities: numbers, labels, named ports, and what a node calls the rest.

    Case ──> World (pods and hosts) ──definitions in force──> Neighbourhood (addresses outside and nodes too)

Pods with equal labels share a number, as in a cluster. An address outside gets a number of the node with the
longest prefix that a definition names and the DNS names it was learned for; nodes have numbers of their own
when settings say so, else the reserved ones. Pure.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from axoneme.lib import identities
from axoneme.lib.labels import NAMESPACE_KEY, RESERVED, Label, LabelSet, workload_labels
from axoneme.lib.policy.cidrlabels import cidr_label
from axoneme.lib.policy.model import SelectorDefinition
from axoneme.lib.policy.outside import outside_labels
from services.policy.cases.testcase import NODES, OUTSIDE, Case, Endpoint, Kind
from services.policy.inputs import Node, PolicySettings

FIRST_NUMBER: Final = 1000
NODE_SOURCE: Final = "node"
_SYSTEM_PREFIX: Final = "io.cilium.k8s."
# Reserved endpoints that a node enforces policies for.
_ENFORCED: Final = frozenset({Kind.HEALTH, Kind.INIT, Kind.INGRESS})


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbourhood:
    """How one node sees every endpoint: `numbers` by name, and the labels of its own numbers."""

    numbers: Mapping[str, int]
    local: Mapping[int, LabelSet]


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The cluster-wide part of a case. `numbers` are those of pods; `nodes` the hosts by endpoint name."""

    case: Case
    numbers: Mapping[str, int]
    labels: Mapping[int, LabelSet]
    nodes: Mapping[str, Node]

    @classmethod
    def of(cls, case: Case) -> World:
        """Give the endpoints of a case their numbers. Raises InvalidLabels for labels nothing can carry."""
        number_by_labels: dict[LabelSet, int] = {}
        numbers = {}
        for one in case.endpoints.values():
            if one.kind is Kind.POD:
                labels = pod_labels(one, case.settings)
                numbers[one.name] = number_by_labels.setdefault(labels, FIRST_NUMBER + len(number_by_labels))
        hosts = [one for one in case.endpoints.values() if one.kind is Kind.HOST]
        return cls(
            case=case,
            numbers=numbers,
            labels={number: labels for labels, number in number_by_labels.items()},
            nodes={one.name: Node(name=one.name, labels=host_labels(one)) for one in hosts},
        )

    def enforced(self, endpoint: Endpoint) -> bool:
        """Whether the endpoint's own policy is enforced here."""
        settings = self.case.settings
        if endpoint.kind is Kind.POD:
            return endpoint.cluster in ("", settings.cluster_name)
        return endpoint.kind in _ENFORCED or (endpoint.kind is Kind.HOST and settings.host_firewall)

    def number_of(self, endpoint: Endpoint) -> int:
        """The number of an endpoint that a node enforces; for a host that of every host."""
        if endpoint.kind is Kind.POD:
            return self.numbers[endpoint.name]
        return identities.RESERVED_NUMBER_BY_NAME[endpoint.kind]

    def neighbourhood(self, definitions: Iterable[SelectorDefinition]) -> Neighbourhood:
        """What a node on which these definitions are in force makes of all endpoints."""
        known = tuple(definitions)
        worlds = _worlds(self.case.settings)
        numbers, local = dict(self.numbers), dict(worlds)
        number_by_labels = {labels: number for number, labels in worlds.items()}
        for one in self.case.endpoints.values():
            if one.kind is Kind.POD:
                continue
            labels = self._labels(one, known)
            number = number_by_labels.get(labels) or identities.RESERVED_NUMBER_BY_LABELS.get(labels)
            if one.kind is Kind.HOST:
                number = identities.HOST
            if number is None:
                number = identities.LOCAL_SCOPE + len(local)
            if number not in local and labels not in identities.RESERVED_NUMBER_BY_LABELS:
                number_by_labels[labels], local[number] = number, labels
            numbers[one.name] = number
        return Neighbourhood(numbers=numbers, local=local)

    def _labels(self, one: Endpoint, definitions: tuple[SelectorDefinition, ...]) -> LabelSet:
        if one.kind in OUTSIDE:
            names = [name for name, found in self.case.dns_names.items() if one.address in found]
            return outside_labels(
                one.address,
                definitions,
                dns_names=names,
                families=self.case.settings.families,
                kube_apiserver=one.kind is Kind.EXTERNAL_API_SERVER,
            )
        if one.kind in NODES or one.kind is Kind.HOST:
            return node_labels(one, self.case.settings)
        return identities.RESERVED[identities.RESERVED_NUMBER_BY_NAME[one.kind]][1]


def _worlds(settings: PolicySettings) -> dict[int, LabelSet]:
    """The numbers of addresses outside that no definition names."""
    dual = len(settings.families) > 1
    numbers = (identities.WORLD_IPV4, identities.WORLD_IPV6) if dual else (identities.WORLD,)
    return {number: identities.RESERVED[number][1] for number in numbers}


def pod_labels(pod: Endpoint, settings: PolicySettings) -> LabelSet:
    """The labels of a pod's identity. What its user wrote in imitation of the system's labels is dropped."""
    return _pod_labels(
        tuple(f"{key}={value}" for key, value in sorted(pod.labels.items()) if not _imitates(key)),
        pod.namespace,
        pod.cluster or settings.cluster_name,
        pod.service_account,
        tuple(sorted(pod.namespace_labels.items())),
    )


@functools.lru_cache(maxsize=1024)
def _pod_labels(
    own: tuple[str, ...],
    namespace: str,
    cluster: str,
    service_account: str,
    namespace_labels: tuple[tuple[str, str], ...],
) -> LabelSet:
    return workload_labels(
        own,
        namespace=namespace,
        cluster=cluster,
        service_account=service_account,
        namespace_labels=dict(namespace_labels),
    )


def _imitates(key: str) -> bool:
    source, colon, name = key.rpartition(":")
    foreign = bool(colon) and source != "k8s"
    return foreign or name == NAMESPACE_KEY or name.startswith(_SYSTEM_PREFIX)


def host_labels(host: Endpoint) -> LabelSet:
    """The labels of a node as subject of node policies."""
    return _sorted([Label(RESERVED, "host", ""), *_of_node(host)])


def node_labels(node: Endpoint, settings: PolicySettings) -> LabelSet:
    """The labels of a node as peer: its own and its address only where settings give nodes own numbers."""
    names = {Kind.HOST: ("host",), Kind.REMOTE_NODE: ("remote-node",)}
    labels = [Label(RESERVED, name, "") for name in names.get(node.kind, ("kube-apiserver", "remote-node"))]
    if settings.node_labels and node.kind is not Kind.HOST:
        labels += _of_node(node)
    if settings.cidr_match_nodes and node.address:
        labels.append(cidr_label(str(ipaddress.ip_network(node.address))))
    return _sorted(labels)


def _of_node(node: Endpoint) -> list[Label]:
    return [Label(NODE_SOURCE, key, value) for key, value in node.labels.items()]


def _sorted(labels: Iterable[Label]) -> LabelSet:
    return LabelSet(tuple(sorted(labels, key=lambda label: label.key)))


def named_ports_of(case: Case, numbers: Mapping[str, int]) -> dict[int, dict[tuple[int, str], int]]:
    """The named ports of each identity; two pods that disagree take the name from it (R-36)."""
    found: dict[int, dict[tuple[int, str], set[int]]] = {}
    for one in case.endpoints.values():
        ports = found.setdefault(numbers[one.name], {})
        for key, port in one.named_ports.items():
            ports.setdefault(key, set()).add(port)
    return {
        number: {key: min(choices) for key, choices in ports.items() if len(choices) == 1}
        for number, ports in found.items()
    }
