"""Which features of the kernel the options of a node rest on, in words where one is missing.

    option ─► part of the node's network that it switches on ─► features, by the names of the helper's probe

Nothing is switched off here: each part tells by itself whether it could be had. This says why not, by the
option that asked and the feature that it needs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Final, NamedTuple

from axoneme.lib.bpf.cgrouplinks import SOCKET_PROGRAMS
from shim.features import PRESENT, FeatureMissing, require
from shim.network import TUNNEL, XDP_GENERIC, XDP_NATIVE, NetworkSettings

MAGLEV_FEATURES: Final = ("map_of_maps", "inner_array_sizes")
TRANSLATION_FEATURES: Final = ("redirect_neigh", "bpf_loop")
"""What the uplink's programs, which translate for clients outside and masquerade, are made of."""
DSR_FEATURES: Final = TRANSLATION_FEATURES
SOCKET_FEATURES: Final = (
    "cgroup2",
    *(f"cgroup_{name.removeprefix('axoneme_')}" for name in SOCKET_PROGRAMS),
)
HOST_ROUTING_FEATURES: Final = ("redirect_peer", "redirect_neigh")
DNS_PROXY_FEATURES: Final = ("sk_assign", "skc_lookup_tcp")
"""How a redirected packet finds the proxy's socket."""


class Need(NamedTuple):
    """An option that is in use; `part` as in NetworkFacts.missing, empty for one without a part."""

    option: str
    part: str
    features: tuple[str, ...]


def needs(settings: NetworkSettings) -> Iterator[Need]:
    """What the settings rest on."""
    if settings.tunnel:
        yield Need(f"routing_mode {TUNNEL}", "overlay", ("vxlan",))
    if settings.services and settings.socket_lb:
        yield Need("socket_lb", "sock", SOCKET_FEATURES)
    if settings.sockmap:
        yield Need("sockmap", "sockmap", ("sockmap", "cgroup2"))
    if settings.services and settings.xdp == XDP_GENERIC:
        yield Need("xdp generic", "xdp", ("xdp_generic",))
    if settings.services and settings.xdp == XDP_NATIVE:
        yield Need("xdp native", "xdp", ("xdp_native",))
    if settings.masquerade:
        yield Need("masquerade", "netdev", TRANSLATION_FEATURES)
    elif settings.services:
        yield Need("load balancing for clients outside", "netdev", TRANSLATION_FEATURES)
    if settings.dns_proxy:
        yield Need("dns_proxy", "", DNS_PROXY_FEATURES)
    if settings.host_routing:
        yield Need("host_routing", "", HOST_ROUTING_FEATURES)


def lacking(
    settings: NetworkSettings, features: Mapping[str, str], attached: Collection[str] = ()
) -> dict[Need, str]:
    """Each need that the node cannot meet, in words. A part that is attached works, whatever a probe said,
    and nothing is said of a feature that was not probed."""
    found = {}
    for need in needs(settings):
        if need.part in attached:
            continue
        for name in need.features:
            try:
                require({name: features.get(name, PRESENT)}, name, need.option)
            except FeatureMissing as error:
                found[need] = f"{error.message}; the node works without"
                break
    return found


def first_missing(features: Mapping[str, str], names: Collection[str]) -> str:
    """`name, which this node lacks (why)` of the first feature that is missing; empty when none is known to
    be."""
    for name in names:
        found = features.get(name, PRESENT)
        if found != PRESENT:
            return f"{name}, which this node lacks ({found})"
    return ""
