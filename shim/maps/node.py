"""Layout of the maps that describe the node to its programs (shim/bpf/nodemaps.h)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Final

from axoneme.lib.bpf.kinds import NO_PREALLOC, MapKind
from shim.maps.base import ADDRESS, NO_ADDRESS, U32, IpcacheKey, Record, spec

# NodeConfig.flags
NODE_TUNNEL, NODE_MASQUERADE4, NODE_MASQUERADE6, NODE_HOST_ROUTING = 1, 2, 4, 8
NODE_HOST_FIREWALL, NODE_HOST_AUDIT, NODE_PROXY = 16, 32, 64
# NodeIp.flags
NODE_IP_OWN, NODE_IP_TUNNEL_PEER = 1, 2


@dataclass(frozen=True, slots=True)
class LocalEntry(Record):
    """Value of `axoneme_local`: an endpoint of this node, by address."""

    FORMAT: ClassVar[struct.Struct] = struct.Struct("=IH6s6s2x")
    ifindex: int
    endpoint_id: int
    mac: bytes
    host_mac: bytes


@dataclass(frozen=True, slots=True)
class NodeIp(Record):
    """Value of `axoneme_nodeips`, by address: NODE_IP_OWN, NODE_IP_TUNNEL_PEER."""

    FORMAT: ClassVar[struct.Struct] = struct.Struct("=I")
    flags: int


@dataclass(frozen=True, slots=True)
class NodeConfig(Record):
    """The one value of `axoneme_node`. NAT ports are inclusive; a family that the node lacks has zeros."""

    FORMAT: ClassVar[struct.Struct] = struct.Struct("=16s16s16s16sIIIIHH6s6x")
    ipv4: bytes = NO_ADDRESS
    ipv6: bytes = NO_ADDRESS
    loopback4: bytes = NO_ADDRESS
    loopback6: bytes = NO_ADDRESS
    flags: int = 0
    uplink_ifindex: int = 0
    overlay_ifindex: int = 0
    host_policy_generation: int = 0
    nat_port_min: int = 0
    nat_port_max: int = 0
    uplink_mac: bytes = bytes(6)


NODE: Final = spec("axoneme_node", MapKind.ARRAY, U32, NodeConfig.FORMAT.size, 1)
LOCAL: Final = spec("axoneme_local", MapKind.HASH, ADDRESS, LocalEntry.FORMAT.size, 8192, NO_PREALLOC)
NODE_IPS: Final = spec("axoneme_nodeips", MapKind.HASH, ADDRESS, NodeIp.FORMAT.size, 65_536, NO_PREALLOC)
NO_MASQUERADE: Final = spec(
    "axoneme_nomasq", MapKind.LPM_TRIE, IpcacheKey.FORMAT.size, 1, 16_384, NO_PREALLOC
)
PROXIED: Final = spec("axoneme_proxied", MapKind.ARRAY, U32, 8, 2048)
"""A bit for each protocol and port to which an endpoint is redirected (shim/maps/proxied.py)."""

SPECS: Final = (NODE, LOCAL, NODE_IPS, NO_MASQUERADE, PROXIED)
