"""What an end of a flow is called."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from axoneme.api.hubble.flow import flow_pb2
from shim.flows.context import WorkloadInfo

NAMESPACE_LABEL: Final = "k8s:io.kubernetes.pod.namespace="
CLUSTER_LABEL: Final = "k8s:io.cilium.k8s.policy.cluster="
_NOBODY: Final = WorkloadInfo()


class EndNames(NamedTuple):
    """What an end is called."""

    cluster_name: str
    namespace: str
    pod_name: str
    workloads: tuple[tuple[str, str], ...]
    labels: tuple[str, ...]

    def message(self) -> flow_pb2.Endpoint:
        """As a flow shows it; numbers are for the caller to fill in."""
        return flow_pb2.Endpoint(
            cluster_name=self.cluster_name,
            namespace=self.namespace,
            labels=self.labels,
            pod_name=self.pod_name,
            workloads=[flow_pb2.Workload(kind=kind, name=name) for kind, name in self.workloads],
        )


def end_names(labels: tuple[str, ...], workload: WorkloadInfo | None) -> EndNames:
    """Names of an end with these labels."""
    info = workload or _NOBODY
    return EndNames(
        info.cluster_name or label_value(labels, CLUSTER_LABEL),
        info.namespace or label_value(labels, NAMESPACE_LABEL),
        info.pod_name,
        info.workloads,
        labels,
    )


def label_value(labels: Iterable[str], prefix: str) -> str:
    """What follows the prefix in the first label that has it; empty without one."""
    for label in labels:
        if label.startswith(prefix):
            return label[len(prefix) :]
    return ""
