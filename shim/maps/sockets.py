"""Layout of the maps of socket acceleration (shim/bpf/sockmaps.h)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Final

from axoneme.lib.bpf.kinds import NO_PREALLOC, MapKind
from shim.maps.base import Record, spec

# SocketPair.state
PAIR_UNDECIDED, PAIR_REDIRECTED, PAIR_STACK = 0, 1, 2


@dataclass(frozen=True, slots=True)
class PairKey(Record):
    """Key of `axoneme_sockhash` and `axoneme_pairs`: a socket by its own tuple. The cookie is that of the
    network namespace for connections inside one, else 0."""

    FORMAT: ClassVar[struct.Struct] = struct.Struct("=16s16s2s2s4xQ")
    local: bytes
    remote: bytes
    local_port_be: bytes
    remote_port_be: bytes
    netns_cookie: int = 0


@dataclass(frozen=True, slots=True)
class SocketPair(Record):
    """Value of `axoneme_pairs`: how the data that a socket sends travels."""

    FORMAT: ClassVar[struct.Struct] = struct.Struct("=IIHHBB2xI")
    local_ifindex: int
    remote_ifindex: int
    local_endpoint_id: int
    remote_endpoint_id: int
    state: int
    active: int
    unanswered: int = 0


@dataclass(frozen=True, slots=True)
class NetnsEntry(Record):
    """Value of `axoneme_netns`: the endpoint that a network namespace, named by its cookie, belongs to."""

    FORMAT: ClassVar[struct.Struct] = struct.Struct("=IH2x")
    ifindex: int
    endpoint_id: int


COOKIE: Final = 8

SOCKHASH: Final = spec("axoneme_sockhash", MapKind.SOCKHASH, PairKey.FORMAT.size, COOKIE, 65_536)
PAIRS: Final = spec("axoneme_pairs", MapKind.LRU_HASH, PairKey.FORMAT.size, SocketPair.FORMAT.size, 65_536)
NETNS: Final = spec("axoneme_netns", MapKind.HASH, COOKIE, NetnsEntry.FORMAT.size, 8192, NO_PREALLOC)

SPECS: Final = (SOCKHASH, PAIRS, NETNS)
OPTIONAL: Final = frozenset({SOCKHASH.name})
"""Maps of a kind that not every kernel has; only socket acceleration needs them."""


def cookie_key(cookie: int) -> bytes:
    """Key of `axoneme_netns`."""
    return struct.pack("=Q", cookie)


def cookie_from_key(key: bytes) -> int:
    """Inverse of `cookie_key`."""
    return int(struct.unpack("=Q", key)[0])
