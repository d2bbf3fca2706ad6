"""What the decoder must know about the node to turn a record into a flow.

The shim implements `FlowContext` over its endpoint, identity and origin tables; tests use plain dictionaries.
Look-ups answer from memory, never wait and never raise for what is unknown. An implementation should keep
endpoints and origins for a while after they are gone: records are decoded when they are asked for, not when
they arrive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol

INGRESS, EGRESS = 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadInfo:
    """A workload as far as this node knows it; `endpoint_id` is 0 when it lives on another node."""

    namespace: str = ""
    pod_name: str = ""
    endpoint_id: int = 0
    identity: int = 0
    labels: tuple[str, ...] = ()
    cluster_name: str = ""
    workloads: tuple[tuple[str, str], ...] = ()  # (kind, name) of the owners, such as ("Deployment", "web")
    addresses: tuple[IPv4Address | IPv6Address, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyOrigin:
    """The policy (and its revision) behind a decision."""

    name: str
    namespace: str = ""
    kind: str = ""
    labels: tuple[str, ...] = ()
    revision: int = 0


class FlowContext(Protocol):
    """Names for the numbers in a record."""

    @property
    def node_name(self) -> str:
        """Name of this node, without the cluster."""

    @property
    def cluster_name(self) -> str:
        """Name of the local cluster."""

    def endpoint(self, endpoint_id: int) -> WorkloadInfo | None:
        """The local endpoint of that number."""

    def workload_at(self, address: IPv4Address | IPv6Address) -> WorkloadInfo | None:
        """The workload that owns an address, here or on another node."""

    def identity_labels(self, identity: int) -> Sequence[str]:
        """Labels of an identity, reserved and node-local ones included; empty when unknown."""

    def names(self, endpoint_id: int, address: IPv4Address | IPv6Address) -> Sequence[str]:
        """DNS names under which that endpoint knows the address."""

    def origins(self, cookie: int) -> Sequence[PolicyOrigin]:
        """Policies behind an origin cookie; empty for 0 and unknown cookies."""

    def default_deny_origins(self, endpoint_id: int, direction: int) -> Sequence[PolicyOrigin]:
        """Policies that switched default deny on for that endpoint and direction (1 ingress, 2 egress)."""

    def interface_name(self, ifindex: int) -> str:
        """Name of an interface of this node; empty when unknown."""
