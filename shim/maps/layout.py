"""Layout of every BPF map and of the event record: dataclasses on one side, bytes of the kernel on the other.

The only place where ports change between host order (Python) and network order (maps), and where IPv4 becomes
::ffff:a.b.c.d. Field names, sizes and offsets equal those of shim/bpf/structs.h; tests/bpf/test_layout.py
reads them out of the compiled object and compares. Other numbers are in host byte order.
"""

from __future__ import annotations

import struct
import sys
from dataclasses import dataclass
from typing import ClassVar, Final

from axoneme.lib.bpf.kinds import NO_PREALLOC, MapKind, MapSpec
from axoneme.lib.policy.model import Action, Direction, MapEntry, MapKey, PortBlock
from shim.maps import lb, node, sockets
from shim.maps.base import ADDRESS, NO_ADDRESS, U32, IpcacheKey, Record, spec

SCHEMA_VERSION: Final = 2
"""Part of the pin path (`v2`): a map's definition changes only together with this number."""


# EndpointEntry.flags
ENDPOINT_AUDIT: Final = 1
ENDPOINT_LEARNED: Final = 0x10
"""It has addresses in `axoneme_learned`; without the flag nobody looks there."""
ENDPOINT_AGGREGATION_SHIFT: Final = 1
"""Three bits: a level of trace events as in the node API; 0 is the node's."""
# PolicyEntry.flags
ENTRY_AUDIT: Final = 1
ENTRY_DEFAULT_ALLOW: Final = 2
# CtEntry.flags
CT_REPLY_SEEN, CT_AUDIT, CT_LEARNED = 1, 2, 4
CT_TRANSLATED, CT_CARRIED = 64, 128
_NO_PORT: Final = bytes(2)
HOST_ENDPOINT_ID: Final = 0
"""Policies and connections of the node itself."""
METRIC_ENDPOINTS: Final = 4096
"""Endpoints with counters of their own: numbers below this."""
# Metrics: index = (direction - 1) * 256 + drop reason, reason 0 = forwarded; one slot for events lost.
METRIC_REASONS: Final = 256
METRIC_LOST_EVENTS: Final = 2 * METRIC_REASONS
METRIC_SLOTS: Final = METRIC_LOST_EVENTS + 1


@dataclass(frozen=True, slots=True)
class EndpointEntry(Record):
    """Value of `axoneme_ep`, by ifindex. A family that the endpoint lacks has an address of zeros."""

    FORMAT: ClassVar[struct.Struct] = struct.Struct("=HBxII4s16s6s6s")
    endpoint_id: int
    flags: int = 0
    identity: int = 0
    policy_generation: int = 0
    ipv4: bytes = bytes(4)
    ipv6: bytes = bytes(16)
    mac: bytes = bytes(6)
    host_mac: bytes = bytes(6)


@dataclass(frozen=True, slots=True)
class PolicyKey(Record):
    """Key of an inner policy map; the prefix counts identity 32, direction 8, protocol 8, port 16."""

    BASE_BITS: ClassVar[int] = 40
    FORMAT: ClassVar[struct.Struct] = struct.Struct("=IIBB2s")
    prefix_length: int
    identity: int
    direction: int
    protocol: int
    port_be: bytes

    @property
    def port(self) -> int:
        return int.from_bytes(self.port_be, "big")


@dataclass(frozen=True, slots=True)
class PolicyEntry(Record):
    """Value of an inner policy map. `port_bits`: significant bits of protocol and port, 0, 8 or 8 + n."""

    FORMAT: ClassVar[struct.Struct] = struct.Struct("=II2sBBB3x")
    precedence: int
    cookie: int
    proxy_port_be: bytes
    action: int
    flags: int
    port_bits: int

    @property
    def proxy_port(self) -> int:
        return int.from_bytes(self.proxy_port_be, "big")


@dataclass(frozen=True, slots=True)
class LearnedKey(Record):
    """Key of `axoneme_learned`: an address that one endpoint learned from DNS."""

    FORMAT: ClassVar[struct.Struct] = struct.Struct("=I16s")
    endpoint_id: int
    address: bytes


@dataclass(frozen=True, slots=True)
class LearnedEntry(Record):
    """Value of `axoneme_learned`; expiry in ns of CLOCK_BOOTTIME."""

    FORMAT: ClassVar[struct.Struct] = struct.Struct("=I4xQ")
    identity: int
    expiry_ns: int


@dataclass(frozen=True, slots=True)
class IpcacheEntry(Record):
    """Value of `axoneme_ipcache` and `axoneme_ipexact`."""

    FORMAT: ClassVar[struct.Struct] = struct.Struct("=II16sB3x")
    identity: int
    flags: int = 0
    tunnel_endpoint: bytes = NO_ADDRESS
    encrypt_key: int = 0


@dataclass(frozen=True, slots=True)
class CtKey(Record):
    """Key of `axoneme_ct`: tuple of a connection's first packet. ICMP: source port = id, other = type."""

    FORMAT: ClassVar[struct.Struct] = struct.Struct("=16s16s2s2sBBH")
    source: bytes
    destination: bytes
    source_port_be: bytes
    destination_port_be: bytes
    protocol: int
    direction: int
    endpoint_id: int


@dataclass(frozen=True, slots=True)
class CtEntry(Record):
    """Value of `axoneme_ct`; last_seen in ns of CLOCK_MONOTONIC, at a resolution of a second."""

    FORMAT: ClassVar[struct.Struct] = struct.Struct("=QIIIBBBB2s6x")
    last_seen_ns: int
    policy_generation: int
    peer_identity: int
    cookie: int
    state: int
    flags: int
    match_type: int
    cut_reason: int = 0
    proxy_port_be: bytes = bytes(2)


@dataclass(frozen=True, slots=True)
class FragmentKey(Record):
    """Key of `axoneme_frag`: one datagram on its way past one hook."""

    FORMAT: ClassVar[struct.Struct] = struct.Struct("=16s16sIBBH")
    source: bytes
    destination: bytes
    fragment_id: int
    protocol: int
    direction: int
    endpoint_id: int


@dataclass(frozen=True, slots=True)
class FragmentEntry(Record):
    """Value of `axoneme_frag`: what only the first fragment carries."""

    FORMAT: ClassVar[struct.Struct] = struct.Struct("=Q2s2sB3x")
    last_seen_ns: int
    source_port_be: bytes
    destination_port_be: bytes
    protocol: int


@dataclass(frozen=True, slots=True)
class EndpointDropKey(Record):
    """Key of `axoneme_epdrops`."""

    FORMAT: ClassVar[struct.Struct] = struct.Struct("=HBB")
    endpoint_id: int
    direction: int
    reason: int


@dataclass(frozen=True, slots=True)
class MetricEntry(Record):
    """Value of `axoneme_metrics`, `axoneme_epstats` and `axoneme_epdrops`, one per CPU."""

    FORMAT: ClassVar[struct.Struct] = struct.Struct("=QQ")
    packets: int
    octets: int


POLICY_INNER: Final = MapSpec(
    name="axoneme_pol",
    kind=MapKind.LPM_TRIE,
    key_size=PolicyKey.FORMAT.size,
    value_size=PolicyEntry.FORMAT.size,
    max_entries=16384,
    flags=NO_PREALLOC,
)


EP: Final = spec("axoneme_ep", MapKind.HASH, U32, EndpointEntry.FORMAT.size, 4096)
POLICY: Final = MapSpec(
    name="axoneme_policy",
    kind=MapKind.HASH_OF_MAPS,
    key_size=U32,
    value_size=U32,
    max_entries=4096,
    inner=POLICY_INNER,
)
LEARNED: Final = spec(
    "axoneme_learned", MapKind.HASH, LearnedKey.FORMAT.size, LearnedEntry.FORMAT.size, 65536, NO_PREALLOC
)
IPEXACT: Final = spec(
    "axoneme_ipexact", MapKind.HASH, ADDRESS, IpcacheEntry.FORMAT.size, 512_000, NO_PREALLOC
)
IPCACHE: Final = spec(
    "axoneme_ipcache",
    MapKind.LPM_TRIE,
    IpcacheKey.FORMAT.size,
    IpcacheEntry.FORMAT.size,
    512_000,
    NO_PREALLOC,
)
EPOCH: Final = spec("axoneme_epoch", MapKind.ARRAY, U32, 8, 1)
"""One number, another one after each write to `axoneme_ipcache` and to policies (shim/maps/epoch.py)."""
IP_SEEN: Final = spec("axoneme_ipseen", MapKind.PERCPU_ARRAY, U32, 32, 1024)
DECIDED: Final = spec("axoneme_decided", MapKind.PERCPU_ARRAY, U32, 40, 1024)
"""With `axoneme_ipseen`: what programs found lately. Theirs alone."""
CT: Final = spec("axoneme_ct", MapKind.LRU_HASH, CtKey.FORMAT.size, CtEntry.FORMAT.size, 131_072)
FRAGMENTS: Final = spec(
    "axoneme_frag", MapKind.LRU_HASH, FragmentKey.FORMAT.size, FragmentEntry.FORMAT.size, 8192
)
EP_STATS: Final = spec(
    "axoneme_epstats", MapKind.PERCPU_ARRAY, U32, MetricEntry.FORMAT.size, 4 * METRIC_ENDPOINTS
)
EP_DROPS: Final = spec(
    "axoneme_epdrops",
    MapKind.PERCPU_HASH,
    EndpointDropKey.FORMAT.size,
    MetricEntry.FORMAT.size,
    16_384,
    NO_PREALLOC,
)
METRICS: Final = spec("axoneme_metrics", MapKind.PERCPU_ARRAY, U32, MetricEntry.FORMAT.size, METRIC_SLOTS)
EVENTS: Final = spec("axoneme_events", MapKind.RINGBUF, 0, 0, 4 << 20)

MAPS: Final[dict[str, MapSpec]] = {
    one.name: one
    for one in (
        *(EP, POLICY, LEARNED, IPEXACT, IPCACHE, CT, FRAGMENTS, METRICS, EP_STATS, EP_DROPS, EVENTS),
        *(EPOCH, IP_SEEN, DECIDED),
        *lb.SPECS,
        *node.SPECS,
        *sockets.SPECS,
    )
}
"""All pinned maps by name, which is also the name of the pin."""


def endpoint_key(ifindex: int) -> bytes:
    """Key of `axoneme_ep`."""
    return struct.pack("=I", ifindex)


def endpoint_key_ifindex(key: bytes) -> int:
    """The interface of a key of `axoneme_ep`."""
    return int(struct.unpack("=I", key)[0])


def policy_outer_key(endpoint_id: int) -> bytes:
    """Key of `axoneme_policy`."""
    return struct.pack("=I", endpoint_id)


def policy_key(key: MapKey) -> bytes:
    """Bytes of a policy map's key."""
    bits = PolicyKey.BASE_BITS + key.ports.specificity
    port = key.ports.port.to_bytes(2, "big")
    return PolicyKey.FORMAT.pack(bits, key.identity, int(key.direction), key.ports.protocol, port)


def policy_key_from_bytes(raw: bytes) -> MapKey:
    """Inverse of `policy_key`."""
    key = PolicyKey.unpack(raw)
    bits = key.prefix_length - PolicyKey.BASE_BITS
    ports = PortBlock(key.protocol, key.port, max(bits - 8, 0)) if bits else PortBlock(0, 0, 0)
    return MapKey(Direction(key.direction), key.identity, ports)


def policy_tree(raw: bytes) -> bytes:
    """The part of a policy map's key that names its tree: identity and direction."""
    return raw[4:9]


def policy_tree_of_any(tree: bytes) -> bool:
    """Whether a tree is that of every peer."""
    return tree[:4] == bytes(4)


def policy_key_bits(raw: bytes) -> int:
    """Significant bits of a policy map's key; more is narrower."""
    return int.from_bytes(raw[:4], sys.byteorder)


def policy_entry(key: MapKey, entry: MapEntry, *, cookie: int, proxy_port: int = 0) -> bytes:
    """Bytes of a policy map's value. `cookie` is the node's number of the entry's origins, 0 without any."""
    flags = ENTRY_AUDIT if entry.audit else 0
    if entry.action is Action.ALLOW and not entry.origins:
        flags |= ENTRY_DEFAULT_ALLOW
    return PolicyEntry.FORMAT.pack(
        entry.precedence,
        cookie,
        proxy_port.to_bytes(2, "big"),
        int(entry.action),
        flags,
        key.ports.specificity,
    )


def policy_entry_redirects(raw: bytes) -> bool:
    """Whether a policy map's value leads to a proxy of this node: it has the proxy's port."""
    return raw[8:10] != _NO_PORT and raw[10] == Action.REDIRECT


def endpoint_stats_key(endpoint_id: int, direction: Direction, *, dropped: bool) -> bytes:
    """Key of `axoneme_epstats`. Raises ValueError for an endpoint without counters of its own."""
    if endpoint_id >= METRIC_ENDPOINTS:
        raise ValueError(f"endpoint {endpoint_id} has no counters of its own")
    return struct.pack("=I", endpoint_id * 4 + (int(direction) - 1) * 2 + dropped)


def metric_key(direction: Direction, reason: int) -> bytes:
    """Key of `axoneme_metrics`; reason 0 = forwarded."""
    return struct.pack("=I", (int(direction) - 1) * METRIC_REASONS + reason)


def lost_events_key() -> bytes:
    """Key of the counter of events that found no room in the ring (`packets`)."""
    return struct.pack("=I", METRIC_LOST_EVENTS)
