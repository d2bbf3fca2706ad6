"""Layout of the maps of load balancing and translation (shim/bpf/lbmaps.h)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Final

from axoneme.lib.bpf.kinds import INNER_MAP, NO_PREALLOC, MapKind, MapSpec
from shim.maps.base import U32, IpcacheKey, Network, Record, spec

# LbKey.scope
LB_INSIDE, LB_OUTSIDE = 0, 1
# LbService.flags
LB_AFFINITY, LB_SOURCE_RANGES, LB_LOCAL_ONLY, LB_DSR, LB_NOT_SOCKET = 1, 2, 4, 8, 16
# LbBackend.flags
BACKEND_TERMINATING, BACKEND_LOCAL = 1, 2
# NatKey.side
NAT_FROM_EP, NAT_TO_EP, NAT_FROM_NET, NAT_TO_NET = 1, 2, 3, 4
# NatEntry.flags
NAT_SERVICE, NAT_HAIRPIN, NAT_MASQUERADE, NAT_RETURN, NAT_DSR_CLIENT = 1, 2, 4, 8, 16
# SocketKey.side
SOCKET_REAL, SOCKET_BELIEVED = 0, 1


@dataclass(frozen=True, slots=True)
class LbKey(Record):
    """Key of `axoneme_lb`: a frontend. Scope: LB_INSIDE or LB_OUTSIDE."""

    FORMAT: ClassVar[struct.Struct] = struct.Struct("=16s2sBB4x")
    address: bytes
    port_be: bytes
    protocol: int
    scope: int


@dataclass(frozen=True, slots=True)
class LbService(Record):
    """Value of `axoneme_lb`. `set_id`: number of the list of backends; no slots: packets are dropped."""

    FORMAT: ClassVar[struct.Struct] = struct.Struct("=IHHII")
    set_id: int
    slots: int
    flags: int = 0
    affinity_seconds: int = 0
    maglev_size: int = 0


@dataclass(frozen=True, slots=True)
class LbSlotKey(Record):
    """Key of `axoneme_lb_slots`, whose value is a backend's number."""

    FORMAT: ClassVar[struct.Struct] = struct.Struct("=II")
    set_id: int
    slot: int


@dataclass(frozen=True, slots=True)
class LbBackend(Record):
    """Value of `axoneme_lb_backends`, by number."""

    FORMAT: ClassVar[struct.Struct] = struct.Struct("=16s2sBB4x")
    address: bytes
    port_be: bytes
    protocol: int
    flags: int = 0


@dataclass(frozen=True, slots=True)
class LbAffinityKey(Record):
    """Key of `axoneme_affinity`; for sockets the client is a cookie of a network namespace."""

    FORMAT: ClassVar[struct.Struct] = struct.Struct("=16sII")
    client: bytes
    set_id: int
    socket: int = 0


@dataclass(frozen=True, slots=True)
class LbAffinity(Record):
    """Value of `axoneme_affinity`; ns of CLOCK_MONOTONIC."""

    FORMAT: ClassVar[struct.Struct] = struct.Struct("=QI4x")
    last_used_ns: int
    backend_id: int


@dataclass(frozen=True, slots=True)
class LbSourceKey(Record):
    """Key of `axoneme_lb_source`: 32 bits of a set, then an address prefix (IPv4 ones 96 bits longer)."""

    FORMAT: ClassVar[struct.Struct] = struct.Struct("=II16s")
    prefix_length: int
    set_id: int
    address: bytes

    @classmethod
    def of(cls, set_id: int, network: Network | str) -> LbSourceKey:
        inner = IpcacheKey.of(network)
        return cls(32 + inner.prefix_length, set_id, inner.address)


@dataclass(frozen=True, slots=True)
class NatKey(Record):
    """Key of `axoneme_nat`: a packet as it arrives at one hook (`side`)."""

    FORMAT: ClassVar[struct.Struct] = struct.Struct("=16s16s2s2sBBH")
    source: bytes
    destination: bytes
    source_port_be: bytes
    destination_port_be: bytes
    protocol: int
    side: int
    endpoint_id: int = 0


@dataclass(frozen=True, slots=True)
class NatEntry(Record):
    """Value of `axoneme_nat`: what the packet becomes; last_seen in ns of CLOCK_MONOTONIC."""

    FORMAT: ClassVar[struct.Struct] = struct.Struct("=16s16s2s2sIIBB2xQ")
    source: bytes
    destination: bytes
    source_port_be: bytes
    destination_port_be: bytes
    backend_id: int
    set_id: int
    flags: int
    state: int
    last_seen_ns: int


@dataclass(frozen=True, slots=True)
class SocketKey(Record):
    """Key of `axoneme_sockets`: a socket by cookie, and what it really talks to, or believes to (`side`)."""

    FORMAT: ClassVar[struct.Struct] = struct.Struct("=Q16s2sB5x")
    cookie: int
    address: bytes
    port_be: bytes
    side: int = SOCKET_REAL


@dataclass(frozen=True, slots=True)
class SocketEntry(Record):
    """Value of `axoneme_sockets`: the frontend that the socket believes to talk to, or its backend."""

    FORMAT: ClassVar[struct.Struct] = struct.Struct("=16s2s2xII4x")
    address: bytes
    port_be: bytes
    set_id: int
    backend_id: int = 0


MAGLEV_INNER: Final = MapSpec(
    name="axoneme_mtab", kind=MapKind.ARRAY, key_size=U32, value_size=U32, max_entries=1, flags=INNER_MAP
)
LB: Final = spec("axoneme_lb", MapKind.HASH, LbKey.FORMAT.size, LbService.FORMAT.size, 65_536, NO_PREALLOC)
LB_SLOTS: Final = spec("axoneme_lb_slots", MapKind.HASH, LbSlotKey.FORMAT.size, U32, 262_144, NO_PREALLOC)
LB_BACKENDS: Final = spec(
    "axoneme_lb_backends", MapKind.HASH, U32, LbBackend.FORMAT.size, 65_536, NO_PREALLOC
)
MAGLEV: Final = MapSpec(
    name="axoneme_maglev",
    kind=MapKind.HASH_OF_MAPS,
    key_size=U32,
    value_size=U32,
    max_entries=65_536,
    flags=NO_PREALLOC,
    inner=MAGLEV_INNER,
)
AFFINITY: Final = spec(
    "axoneme_affinity", MapKind.LRU_HASH, LbAffinityKey.FORMAT.size, LbAffinity.FORMAT.size, 65_536
)
LB_SOURCE: Final = spec(
    "axoneme_lb_source", MapKind.LPM_TRIE, LbSourceKey.FORMAT.size, 1, 65_536, NO_PREALLOC
)
NAT: Final = spec("axoneme_nat", MapKind.LRU_HASH, NatKey.FORMAT.size, NatEntry.FORMAT.size, 131_072)
SOCKETS: Final = spec(
    "axoneme_sockets", MapKind.LRU_HASH, SocketKey.FORMAT.size, SocketEntry.FORMAT.size, 65_536
)

SPECS: Final = (LB, LB_SLOTS, LB_BACKENDS, MAGLEV, AFFINITY, LB_SOURCE, NAT, SOCKETS)
