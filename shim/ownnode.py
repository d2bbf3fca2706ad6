"""What this node says of itself, as configured: to the registry and to load balancing."""

from __future__ import annotations

from shim.config import TUNNEL, ShimConfig
from shim.lb.model import NodeView
from shim.maps.base import address_bytes
from shim.routes import NodeEntry


def own_entry(cfg: ShimConfig) -> NodeEntry:
    """This node for the registry; a wildcard observer address becomes the first internal address."""
    host, _, port = cfg.observer_listen.rpartition(":")
    host = host.strip("[]")
    if host in ("0.0.0.0", "::", ""):  # noqa: S104 - compared, not bound
        host = cfg.internal_ips[0] if cfg.internal_ips else "127.0.0.1"
    shown = f"[{host}]" if ":" in host else host
    return NodeEntry(
        cluster=cfg.cluster_name,
        name=cfg.node_name,
        internal_ips=cfg.internal_ips,
        pod_cidrs=cfg.pod_cidrs,
        observer_address=f"{shown}:{port}",
        labels=cfg.node_labels,
    )


def lb_view(cfg: ShimConfig) -> NodeView:
    """This node as load balancing sees it."""
    return NodeView(
        node_name=cfg.node_name,
        addresses=tuple(map(address_bytes, cfg.internal_ips)),
        algorithm=cfg.lb_algorithm,
        maglev_table_size=cfg.maglev_table_size,
        forwarding=cfg.lb_forwarding,
        tunnel=cfg.routing_mode == TUNNEL,
    )
