"""What a node's network is asked to be, and what the kernel made of it: plain data, without I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from axoneme.lib.bpf.kinds import MapKind
from shim import options
from shim.maps import layout

DIRECT, TUNNEL = "direct", "tunnel"
XDP_OFF, XDP_GENERIC, XDP_NATIVE = "off", "generic", "native"
ATTACH_AUTO, ATTACH_TCX, ATTACH_CLSACT = "auto", "tcx", "clsact"
AGGREGATIONS = ("none", "low", "medium", "maximum")

# Not what has a size for good: arrays that are indexed by number, the ring, outer maps, and the sockets,
# which cannot move into another map: data that their readers have not read yet would be lost.
_OF_FIXED_SIZE = (MapKind.RINGBUF, MapKind.HASH_OF_MAPS, MapKind.SOCKHASH)
SIZED_MAPS = tuple(
    name for name, one in layout.MAPS.items() if not one.kind.indexed and one.kind not in _OF_FIXED_SIZE
)
"""Maps whose number of entries the option map_sizes may choose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSettings:
    """What the options of a node ask of its network and programs. Raises InvalidArgument by field."""

    routing_mode: str = DIRECT
    tunnel_port: int = 8472
    uplink: str = ""
    internal_ips: tuple[str, ...] = ()
    mtu: int = 0
    services: bool = False
    masquerade: bool = False
    host_routing: bool = False
    host_firewall: bool = False
    socket_lb: bool = False
    cgroup_root: str = ""
    sockmap: bool = False
    dns_proxy: bool = False
    xdp: str = XDP_OFF
    attach: str = ATTACH_AUTO
    monitor_aggregation: str = "medium"
    health: bool = False
    map_sizes: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        options.one_of("routing_mode", self.routing_mode, (DIRECT, TUNNEL))
        options.one_of("xdp", self.xdp, (XDP_OFF, XDP_GENERIC, XDP_NATIVE))
        options.one_of("attach", self.attach, (ATTACH_AUTO, ATTACH_TCX, ATTACH_CLSACT))
        options.one_of("monitor_aggregation", self.monitor_aggregation, AGGREGATIONS)
        options.in_range("tunnel_port", self.tunnel_port, 1, 65_535)
        options.mtu_or_zero("mtu", self.mtu)
        options.interface_or_empty("uplink", self.uplink)
        options.addresses("internal_ips", self.internal_ips)

    @property
    def tunnel(self) -> bool:
        """Whether pods of other nodes are reached through the tunnel."""
        return self.routing_mode == TUNNEL


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkFacts:
    """What the node's network is after `set_up_network`; indexes are 0 and texts empty where there is none.

    `attached`: what carries programs now: uplink, overlay, sock, sockmap, xdp, endpoints by number;
    `dns_proxy` when its routes are there. `repaired`: what had to be attached or written. `missing`: what was
    asked for → why it is not there, by uplink, netdev, overlay, host, sock, sockmap, xdp, dns_proxy, health.
    """

    uplink: str = ""
    uplink_ifindex: int = 0
    uplink_mac: str = ""
    uplink_mtu: int = 0
    overlay_ifindex: int = 0
    endpoint_mtu: int = 0
    health_netns: str = ""
    attached: tuple[str, ...] = ()
    repaired: tuple[str, ...] = field(default=(), compare=False)
    missing: Mapping[str, str] = field(default_factory=dict)
