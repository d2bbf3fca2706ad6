"""What the node's programs are told about it: configuration, facts and nodes as bytes of maps. Without I/O.

    settings + facts ─► NodeConfig ──► axoneme_node      flags, addresses, ports, devices
    nodes            ─► address ─────► axoneme_nodeips   own ones; those of all that may send tunnel packets
    option           ─► prefix ──────► axoneme_nomasq    destinations that are never masqueraded

Everything is computed from the whole state: the reconcilers (`shim.nodemaps`) find out what changed.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Final

from shim import options
from shim.config import ShimConfig
from shim.features import has
from shim.maps import base
from shim.maps import node as layout
from shim.network import TUNNEL, NetworkFacts
from shim.routes import NodeEntry

REDIRECT_PEER: Final = "redirect_peer"
"""The feature that host routing rests on."""
LOOPBACK4: Final = "169.254.42.1"
LOOPBACK6: Final = "fd61:786f:6e65:6d65::1"
"""What a pod sees as client when a service leads it to itself; no host may have these addresses."""


def node_config(
    cfg: ShimConfig,
    facts: NetworkFacts,
    features: Mapping[str, str],
    *,
    generation: int = 0,
    enforce_host: bool = False,
    proxied: bool = False,
) -> layout.NodeConfig:
    """The value of `axoneme_node`.

    `generation` is that of the host's policy; `enforce_host` says that its map is in place: without one the
    firewall would cut the node off from the service that sends its policy. `proxied`: `axoneme_proxied` has
    bits.
    """
    ipv4, ipv6 = (_first(cfg.internal_ips, version) for version in (4, 6))
    redirect = has(features, REDIRECT_PEER)
    low, high = options.port_range("nat_ports", cfg.nat_ports)
    return layout.NodeConfig(
        ipv4=_bytes(ipv4),
        ipv6=_bytes(ipv6),
        loopback4=base.address_bytes(LOOPBACK4),
        loopback6=base.address_bytes(LOOPBACK6),
        flags=sum(
            flag
            for flag, on in {
                layout.NODE_TUNNEL: cfg.routing_mode == TUNNEL and facts.overlay_ifindex > 0,
                layout.NODE_MASQUERADE4: cfg.masquerade and bool(ipv4),
                layout.NODE_MASQUERADE6: cfg.masquerade and bool(ipv6),
                layout.NODE_HOST_ROUTING: cfg.host_routing and redirect,
                layout.NODE_HOST_FIREWALL: cfg.host_firewall and enforce_host,
                layout.NODE_HOST_AUDIT: cfg.policy_audit,
                layout.NODE_PROXY: proxied,
            }.items()
            if on
        ),
        uplink_ifindex=facts.uplink_ifindex,
        overlay_ifindex=facts.overlay_ifindex,
        host_policy_generation=generation,
        nat_port_min=low,
        nat_port_max=high,
        uplink_mac=base.mac_bytes(facts.uplink_mac),
    )


def node_addresses(nodes: Iterable[NodeEntry], own: NodeEntry) -> dict[bytes, bytes]:
    """The content of `axoneme_nodeips`; an address of this node is never anybody else's."""
    found = {
        base.address_bytes(ip): layout.NODE_IP_TUNNEL_PEER
        for node in nodes
        if node.key != own.key
        for ip in node.internal_ips
    }
    found.update((base.address_bytes(ip), layout.NODE_IP_OWN) for ip in (*own.internal_ips, *own.router_ips))
    return {address: layout.NodeIp(flags).pack() for address, flags in found.items()}


def unmasqueraded(cidrs: Iterable[str]) -> dict[bytes, bytes]:
    """The content of `axoneme_nomasq`. Raises ValueError for text that is no network."""
    return {base.IpcacheKey.of(cidr).pack(): b"\x01" for cidr in cidrs}


def _first(ips: Iterable[str], version: int) -> str:
    return next((ip for ip in ips if ipaddress.ip_address(ip).version == version), "")


def _bytes(ip: str) -> bytes:
    return base.address_bytes(ip) if ip else base.NO_ADDRESS
