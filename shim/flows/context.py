"""What the decoder must know about the node to turn a record into a flow.

The shim implements `FlowContext` over its endpoint, identity and origin tables; tests use plain dictionaries.
Look-ups answer from memory, never wait and never raise for what is unknown. Records are decoded when they
are asked for, not when they arrive, so names are asked for as of the record's time (since boot) and must be
kept for a while after they are gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Protocol

INGRESS, EGRESS = 1, 2
Address = IPv4Address | IPv6Address
_MAPPED = b"\0" * 10 + b"\xff\xff"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadInfo:
    """A workload as far as this node knows it; `endpoint_id` is 0 when it lives on another node.

    Without labels, it has those of its identity.
    """

    namespace: str = ""
    pod_name: str = ""
    endpoint_id: int = 0
    identity: int = 0
    labels: tuple[str, ...] = ()
    cluster_name: str = ""
    workloads: tuple[tuple[str, str], ...] = ()  # (kind, name) of the owners, such as ("Deployment", "web")
    addresses: tuple[Address, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyOrigin:
    """The policy (and its revision) behind a decision."""

    name: str
    namespace: str = ""
    kind: str = ""
    labels: tuple[str, ...] = ()
    revision: int = 0


class FlowContext(Protocol):
    """Names for the numbers in a record, as of the record's time (None: the last ones known)."""

    @property
    def node_name(self) -> str:
        """Name of this node, without the cluster."""

    @property
    def cluster_name(self) -> str:
        """Name of the local cluster."""

    @property
    def revision(self) -> int:
        """Grows whenever an answer of `endpoint`, `workload_at` or `identity_labels` may have changed."""

    def endpoint(self, endpoint_id: int, time_ns: int | None) -> WorkloadInfo | None:
        """The local endpoint that had that number."""

    def workload_at(self, address: Address, time_ns: int | None) -> WorkloadInfo | None:
        """The workload that owned an address, here or on another node."""

    def identity_labels(self, identity: int, time_ns: int | None) -> Sequence[str]:
        """Labels of an identity, reserved and node-local ones included; empty when unknown."""

    def known_addresses(self) -> Mapping[bytes, bool]:
        """Addresses (16 bytes) that `workload_at` knows at any time; true where an endpoint here had it."""

    def change_times(
        self, identity: int, address: Address | None, endpoint_id: int, after_ns: int
    ) -> Iterable[int]:
        """Times after `after_ns` at which a name of such an end may have changed; more do no harm."""

    @property
    def names_revision(self) -> int:
        """Grows whenever an answer of `names` may have changed."""

    def named_addresses(self) -> Iterable[bytes]:
        """Addresses (16 bytes) for which `names` knows something at any endpoint and time, each once."""

    def has_names(self, endpoint_id: int, address: bytes) -> bool:
        """Whether `names` knows the address (16 bytes) at any time; asked often, so it must be quick."""

    def names(self, endpoint_id: int, address: Address, time_ns: int | None) -> Sequence[str]:
        """DNS names under which that endpoint knew the address, without the dot at their end."""

    def name_times(self, endpoint_id: int, address: Address, after_ns: int) -> Iterable[int]:
        """Times after `after_ns` at which such names may have changed; more do no harm."""

    def origins(self, cookie: int) -> Sequence[PolicyOrigin]:
        """Policies behind an origin cookie; empty for 0 and unknown cookies."""

    def default_deny_origins(
        self, endpoint_id: int, direction: int, generation: int, time_ns: int
    ) -> Sequence[PolicyOrigin]:
        """Policies that had switched default deny on for an endpoint and direction (1 ingress, 2 egress).

        `generation` is the policy generation that the record carries.
        """

    def interface_name(self, ifindex: int, time_ns: int | None) -> str:
        """Name of an interface of this node; empty when unknown."""


class LearnedNames(Protocol):
    """What endpoints learned from answers to their queries: names of addresses, as of a time since boot.

    A name is the one that was asked for, never an alias on the way, and may end in a dot. Names that expired
    are kept for a while, as flows are.
    """

    @property
    def revision(self) -> int:
        """Grows with each change."""

    def addresses(self) -> Iterable[bytes]:
        """Addresses (16 bytes) of which anything is remembered, each once."""

    def knows(self, endpoint_id: int, address: bytes) -> bool:
        """Whether anything is remembered of an address (16 bytes)."""

    def names(self, endpoint_id: int, address: Address, time_ns: int | None) -> Sequence[str]:
        """Names at a time; None asks for the last ones known."""

    def change_times(self, endpoint_id: int, address: Address, after_ns: int) -> Iterable[int]:
        """Times after `after_ns` at which the names of an address may have changed; more do no harm."""


class NoNames:
    """Nothing was learned."""

    revision = 0

    def addresses(self) -> Iterable[bytes]:
        """None."""
        return ()

    def knows(self, endpoint_id: int, address: bytes) -> bool:  # noqa: ARG002
        """Nothing."""
        return False

    def names(self, endpoint_id: int, address: Address, time_ns: int | None) -> Sequence[str]:  # noqa: ARG002
        """None."""
        return ()

    def change_times(self, endpoint_id: int, address: Address, after_ns: int) -> Iterable[int]:  # noqa: ARG002
        """None."""
        return ()


def mapped(packed: bytes) -> bytes:
    """The 16-byte form of an address of 4 or 16 bytes, as records hold it."""
    return packed if len(packed) == 16 else _MAPPED + packed


@lru_cache(maxsize=16_384)
def address_of(mapped: bytes) -> Address:
    """The address behind the 16-byte form."""
    raw = bytes(mapped)
    return ip_address(raw[12:]) if raw[:12] == _MAPPED else ip_address(raw)
