"""What policies refer to, beside identities: services, groups of addresses, named ports, nodes, settings.

Each kind has its own update path into the engine; a reference to something that is not there selects nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from axoneme.lib.labels import LabelSet
from services.policy.reading.document import Json
from services.policy.rules import PolicyKey
from services.policy.settings import EnforcementMode, Family, PolicySettings

__all__ = ["CidrGroup", "CloudGroup", "EnforcementMode", "Family", "Node", "PolicySettings", "Service"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A service as far as policy needs it.

    With a `selector` its backends are the pods of its namespace that carry these labels; without one they
    are the addresses `backends`.
    """

    namespace: str
    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    selector: Mapping[str, str] | None = None
    backends: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CidrGroup:
    """A CiliumCIDRGroup: prefixes under a name and labels."""

    key: PolicyKey
    labels: Mapping[str, str]
    cidrs: tuple[str, ...]
    document: dict[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudGroup:
    """Addresses that a cloud reported for a group reference (canonical JSON, as in `Peers.cloud_groups`)."""

    key: PolicyKey
    reference: str
    cidrs: tuple[str, ...]
    document: dict[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node of the cluster with its labels (source `node`) plus `reserved:host`."""

    name: str
    labels: LabelSet
