"""Requests of the privileged helper as bytes, and the checks that each passes before anything happens.

One request is one JSON object in one packet, one answer likewise, descriptors beside it. Nothing of this
module has an effect: it turns bytes into typed requests or raises InvalidArgument. Standard library and the
error classes only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from axoneme.lib.errors import InvalidArgument
from shim.privileged import fields
from shim.privileged.protocol import REQUESTS, Request

MAX_PACKET_BYTES = 196_608


def encode(request: Request) -> bytes:
    """The packet of a request."""
    args = {name: _plain(getattr(request, name)) for name in request.__dataclass_fields__ if name != "op"}
    return json.dumps({"op": request.op, "args": args}).encode()


def decode(packet: bytes) -> Request:
    """The request in a packet. Raises InvalidArgument for what is not listed or not well formed."""
    if len(packet) > MAX_PACKET_BYTES:
        raise InvalidArgument.of_field("request", f"is longer than {MAX_PACKET_BYTES} bytes")
    try:
        raw = json.loads(packet)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument.of_field("request", "is not JSON") from error
    if not isinstance(raw, dict) or set(raw) != {"op", "args"} or not isinstance(raw["args"], dict):
        raise InvalidArgument.of_field("request", "must hold exactly op and args")
    op = raw["op"]
    kind = REQUESTS.get(op) if isinstance(op, str) else None
    if kind is None:
        raise InvalidArgument.of_field("op", f"{str(op)[:64]!r} is not one of {', '.join(REQUESTS)}")
    names = {name for name in kind.__dataclass_fields__ if name != "op"}
    if set(raw["args"]) != names:
        raise InvalidArgument.of_field("args", f"of {op} must be exactly {sorted(names)}")
    return kind(**{name: _CHECKS[name](name, value) for name, value in raw["args"].items()})


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value


_CHECKS: Mapping[str, Callable[[str, Any], Any]] = {
    "replace": fields.flag,
    "map_sizes": fields.map_sizes,
    "monitor_aggregation": fields.aggregation,
    "router_ips": fields.ips,
    "endpoint_id": fields.endpoint_id,
    "holder": fields.holder,
    "set_id": fields.set_id,
    "size": fields.table_size,
    "netns": fields.netns,
    "interface_name": fields.interface,
    "ips": fields.ips,
    "port": fields.port,
    "mac": fields.mac,
    "mtu": fields.mtu,
    "upserts": fields.routes,
    "removals": fields.cidrs,
    "routing_mode": fields.routing_mode,
    "tunnel_port": fields.port_or_zero,
    "uplink": fields.interface_or_empty,
    "internal_ips": fields.ips,
    "services": fields.flag,
    "masquerade": fields.flag,
    "host_firewall": fields.flag,
    "socket_lb": fields.flag,
    "cgroup_root": fields.folder_or_empty,
    "sockmap": fields.flag,
    "dns_proxy": fields.flag,
    "xdp": fields.xdp,
    "attach": fields.attach,
    "health": fields.flag,
}
