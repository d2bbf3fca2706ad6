"""Prefixes as labels: how the identity of an address outside the cluster says where the address lies.

    cidr:10.0.0.0/8    cidr:2001-db8--0/32    cidr:0--0/0

IPv6 is written with `-` for `:`, and with a `0` where the text would start or end with a dash. Pure.
"""

from __future__ import annotations

import functools
import ipaddress
from typing import Final, TypeAlias

from axoneme.lib.labels import CIDR, RESERVED, Label, LabelSet

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

WORLD_KEYS: Final = frozenset({"world", "world-ipv4", "world-ipv6"})

_EVERY_IPV4: Final = ipaddress.IPv4Network("0.0.0.0/0")
_EVERY_IPV6: Final = ipaddress.IPv6Network("::/0")
_OF_WORLD: Final[dict[str, tuple[Network, ...]]] = {
    "world": (_EVERY_IPV4, _EVERY_IPV6),
    "world-ipv4": (_EVERY_IPV4,),
    "world-ipv6": (_EVERY_IPV6,),
}


def cidr_label(prefix: str) -> Label:
    """The label of a prefix; host bits count as 0. Raises ValueError for a text that is no prefix."""
    network = ipaddress.ip_network(prefix, strict=False)
    address = str(network.network_address).replace(":", "-")
    if address.startswith("-"):
        address = "0" + address
    if address.endswith("-"):
        address += "0"
    return Label(CIDR, f"{address}/{network.prefixlen}", "")


def prefix_of(label: Label) -> Network | None:
    """The prefix that a label names; None for a label that names none."""
    if label.source != CIDR:
        return None
    try:
        return ipaddress.ip_network(label.key.replace("-", ":"), strict=False)
    except ValueError:
        return None


def outside(labels: LabelSet) -> bool:
    """Whether an identity stands for addresses outside the cluster."""
    return any(label.source == RESERVED and label.key in WORLD_KEYS for label in labels)


@functools.lru_cache(maxsize=65_536)
def prefixes_of(labels: LabelSet) -> tuple[Network, ...]:
    """The prefixes that hold all addresses of an identity; empty when its labels do not say.

    Without a prefix of its own an identity of the world may be any address of its family.
    """
    named = tuple(prefix for prefix in map(prefix_of, labels) if prefix is not None)
    if named:
        return named
    return tuple(
        every for label in labels if label.source == RESERVED for every in _OF_WORLD.get(label.key, ())
    )
