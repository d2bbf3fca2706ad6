"""Kinds of policy objects by the names that people type, as kubectl knows them. Pure data."""

from __future__ import annotations

from typing import Final

CNP: Final = "CiliumNetworkPolicy"
CCNP: Final = "CiliumClusterwideNetworkPolicy"
NETWORK_POLICY: Final = "NetworkPolicy"
CLUSTER_NETWORK_POLICY: Final = "ClusterNetworkPolicy"
ADMIN_NETWORK_POLICY: Final = "AdminNetworkPolicy"
BASELINE_ADMIN_NETWORK_POLICY: Final = "BaselineAdminNetworkPolicy"
CIDR_GROUP: Final = "CiliumCIDRGroup"
CLOUD_GROUP: Final = "CloudGroup"

NAMESPACED: Final = frozenset({CNP, NETWORK_POLICY})
KINDS: Final = (
    CNP,
    CCNP,
    NETWORK_POLICY,
    CLUSTER_NETWORK_POLICY,
    ADMIN_NETWORK_POLICY,
    BASELINE_ADMIN_NETWORK_POLICY,
    CIDR_GROUP,
    CLOUD_GROUP,
)
_SHORT: Final = {
    "cnp": CNP,
    "ciliumnp": CNP,
    "ccnp": CCNP,
    "netpol": NETWORK_POLICY,
    "knp": NETWORK_POLICY,
    "anp": ADMIN_NETWORK_POLICY,
    "banp": BASELINE_ADMIN_NETWORK_POLICY,
    "ccg": CIDR_GROUP,
}


def kind_of(text: str) -> str:
    """The kind that a name, plural or short name stands for; empty when there is none."""
    lower = text.lower()
    if lower in _SHORT:
        return _SHORT[lower]
    for kind in KINDS:
        if lower in (kind.lower(), f"{kind.lower()}s", f"{kind.lower().removesuffix('y')}ies"):
            return kind
    return ""


def namespaced(kind: str) -> bool:
    """Whether objects of a kind live in a namespace."""
    return kind in NAMESPACED
