"""Cluster-wide settings of policies. Pure, and light enough for the command line."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


class EnforcementMode(StrEnum):
    """When endpoints are enforced: if a policy selects them, always, or never."""

    DEFAULT = "default"
    ALWAYS = "always"
    NEVER = "never"


Family = Literal["ipv4", "ipv6"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySettings:
    """Cluster-wide settings that change what policies mean; the same on every replica.

    `allow_localhost`: the local host may reach pods where nothing denies it. `cidr_match_nodes`: CIDR rules
    select nodes too. `default_local_cluster`: peers without a cluster are those of this cluster.
    `node_labels`: nodes have identities of their own, so that fromNodes and toNodes can tell them apart.
    `host_firewall`: policies with a nodeSelector have effect.
    """

    cluster_name: str = "default"
    mode: EnforcementMode = EnforcementMode.DEFAULT
    allow_localhost: bool = True
    cidr_match_nodes: bool = False
    default_local_cluster: bool = False
    node_labels: bool = False
    host_firewall: bool = False
    families: frozenset[Family] = frozenset({"ipv4", "ipv6"})
