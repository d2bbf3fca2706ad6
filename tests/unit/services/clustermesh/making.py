"""Services for tests, written short."""

from __future__ import annotations

from typing import Any

import msgspec

from services.clustermesh.model import Backend, Port, Service, ServiceKey
from services.clustermesh.pools import Pools

POOLS = Pools.parse(("10.96.0.0/16", "fd00:96::/112"), "30000-32767")
V4, V6 = "198.51.100.7", "2001:db8::7"


def made(name: str = "shop/web", *ports: Port, **fields: Any) -> Service:
    """A service `namespace/name`, with port 80 when none is given and none is left out by headless."""
    namespace, _, short = name.partition("/")
    fields.setdefault("ports", ports or ((Port(port=80),) if not fields.get("headless") else ()))
    return Service(key=ServiceKey(namespace, short), **fields)


def changed(service: Service, **fields: Any) -> Service:
    """A copy with other fields."""
    return msgspec.structs.replace(service, **fields)


def backends(*ips: str) -> tuple[Backend, ...]:
    """Active backends."""
    return tuple(Backend(ip=ip) for ip in ips)
