"""Where things are in etcd: Cilium's keys as Cilium writes them, and our own under `axoneme/state/`. Pure."""

from __future__ import annotations

IDENTITIES = "cilium/state/identities/v1/"
MASTERS = IDENTITIES + "id/"
"""Number → label key, without a lease."""
SLAVES = IDENTITIES + "value/"
"""Label key / node → number, on the node's lease: a reference to the number."""
LOCKS = IDENTITIES + "locks/"
IPS = "cilium/state/ip/v1/default/"
NODES = "cilium/state/nodes/v1/"
CLUSTER_CONFIG = "cilium/cluster-config/"

NODE_RECORDS = "axoneme/state/nodes/v1/"
"""Registered nodes, without a lease: their PodCIDRs, leases, and whether they declared everything."""
TOMBSTONES = "axoneme/state/tombstones/v1/"
"""Numbers that must not be used again yet, on a lease of a day."""
PROGRESS = "axoneme/state/progress/v1/"
"""Written for its revision alone."""
POLICIES = "axoneme/state/policies/v1/"
"""Policies and the groups that they name, `<kind>/<namespace>/<name>`; `-` for cluster-wide ones."""
SERVICES = "axoneme/state/services/v1/"
"""Services, `<namespace>/<name>`; what policies need of them is at the top of each value."""
CLUSTER_IPS = "axoneme/state/clusterips/v1/"
"""Cluster IP → its service."""
FRONTENDS = "axoneme/state/frontends/v1/"
"""`<address or node>/<protocol>/<port>` → its service."""
POLICY_PROGRESS = "axoneme/state/policyprogress/v1/"
"""What the nodes of each policy replica acknowledged, on a lease of the replica."""


def master_key(number: int) -> str:
    """Key of an identity."""
    return f"{MASTERS}{number}"


def number_of(key: str, prefix: str = MASTERS) -> int | None:
    """The number at the end of a key, None for a foreign key."""
    text = key.removeprefix(prefix)
    return int(text) if text.isascii() and text.isdecimal() else None


def slave_prefix(label_key: str) -> str:
    """All references to a label set."""
    return f"{SLAVES}{label_key}/"


def slave_key(label_key: str, node_name: str) -> str:
    """The reference of one node."""
    return f"{SLAVES}{label_key}/{node_name}"


def split_slave(key: str) -> tuple[str, str]:
    """(label key, node); the node follows the last slash, because label keys may hold some."""
    label_key, _, node_name = key.removeprefix(SLAVES).rpartition("/")
    return label_key, node_name


def lock_prefix(label_key: str) -> str:
    """Locks that Cilium's own allocators hold on a label set."""
    return f"{LOCKS}{label_key}/"


def tombstone_key(number: int) -> str:
    """Key that keeps a number out of use."""
    return f"{TOMBSTONES}{number}"


def ip_key(ip: str) -> str:
    """Key of an address or prefix in canonical text."""
    return IPS + ip


def node_key(cluster: str, node_name: str) -> str:
    """Key of a node as Cilium knows it."""
    return f"{NODES}{cluster}/{node_name}"


def record_prefix(cluster: str) -> str:
    """All node records of a cluster."""
    return f"{NODE_RECORDS}{cluster}/"


def record_key(cluster: str, node_name: str) -> str:
    """Key of a node record."""
    return f"{NODE_RECORDS}{cluster}/{node_name}"
