"""The numbers that stand for label sets: reserved ones, cluster blocks, node-local ones.

Layout of a number: bits 24–31 are the scope (0 in the whole mesh, 1 on one node only), bits 16–23
the cluster id, bits 0–15 a number of that cluster; below 256 the meaning is fixed. Only constants and
arithmetic live here.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from axoneme.lib.labels import RESERVED as RESERVED_SOURCE
from axoneme.lib.labels import Label, LabelSet

UNKNOWN = 0
HOST, WORLD, UNMANAGED, HEALTH, INIT, REMOTE_NODE, KUBE_APISERVER, INGRESS, WORLD_IPV4, WORLD_IPV6 = range(
    1, 11
)

FIRST_CLUSTER_IDENTITY = 256
MAX_CLUSTER_ID = 255
CLUSTER_ID_SHIFT = 16
LOCAL_SCOPE = 1 << 24


def _reserved(*names: str) -> tuple[str, LabelSet]:
    return names[0], LabelSet.of(Label(RESERVED_SOURCE, name, "") for name in names)


# Number → (name, labels). The world is 9 and 10 in a dual-stack cluster; 2 is met only in foreign entries.
RESERVED: Mapping[int, tuple[str, LabelSet]] = MappingProxyType(
    {
        HOST: _reserved("host"),
        WORLD: _reserved("world"),
        UNMANAGED: _reserved("unmanaged"),
        HEALTH: _reserved("health"),
        INIT: _reserved("init"),
        REMOTE_NODE: _reserved("remote-node"),
        KUBE_APISERVER: _reserved("kube-apiserver", "remote-node"),
        INGRESS: _reserved("ingress"),
        WORLD_IPV4: _reserved("world-ipv4"),
        WORLD_IPV6: _reserved("world-ipv6"),
    }
)
RESERVED_NUMBER_BY_NAME: Mapping[str, int] = MappingProxyType({name: n for n, (name, _) in RESERVED.items()})
RESERVED_NUMBER_BY_LABELS: Mapping[LabelSet, int] = MappingProxyType(
    {labels: n for n, (_, labels) in RESERVED.items()}
)


def cluster_range(cluster_id: int) -> range:
    """The numbers that a cluster may allocate; cluster id 0 is a cluster without mesh.

    Raises ValueError outside 0–255.
    """
    if not 0 <= cluster_id <= MAX_CLUSTER_ID:
        raise ValueError(f"cluster id {cluster_id} is outside 0–{MAX_CLUSTER_ID}")
    first = cluster_id << CLUSTER_ID_SHIFT
    return range(first or FIRST_CLUSTER_IDENTITY, first + (1 << CLUSTER_ID_SHIFT))


def cluster_id_of(number: int) -> int:
    """The cluster that allocated a number; 0 for reserved and node-local ones and without a mesh."""
    return 0 if is_local(number) else (number >> CLUSTER_ID_SHIFT) & MAX_CLUSTER_ID


def is_reserved(number: int) -> bool:
    """Whether the meaning of the number is fixed (1–255)."""
    return 0 < number < FIRST_CLUSTER_IDENTITY


def is_local(number: int) -> bool:
    """Whether the number is valid on one node only."""
    return number >= LOCAL_SCOPE


def name_of(number: int) -> str:
    """The name of a reserved number, else its digits."""
    reserved = RESERVED.get(number)
    return reserved[0] if reserved else str(number)
