"""DNS messages of the small node, as its proxy reports them."""

from __future__ import annotations

from typing import Any

from axoneme.api.fqdn.v1 import fqdn_pb2
from shim.flows.answer import Source
from shim.flows.decode import timestamp
from shim.flows.lookups import Lookups
from shim.flows.lookupstore import LookupStore
from tests.unit.shim.flows.scene import BOOT_OFFSET_NS, make_feed


def lookup(*, time_ns: int = 2_000_000, latency_ns: int = 0, **values: Any) -> fqdn_pb2.LookupEvent:
    """A forwarded query of web for the addresses of a name, at a time since boot, unless told otherwise."""
    given: dict[str, Any] = {
        "endpoint_id": 401, "protocol": 17, "client": "10.1.0.11", "client_port": 53011,
        "server": "10.1.1.12", "server_port": 53, "server_identity": 20102, "query": "api.example.com.",
        "qtype": 1, "verdict": fqdn_pb2.LOOKUP_VERDICT_FORWARDED,
    } | values  # fmt: skip
    event = fqdn_pb2.LookupEvent(time=timestamp(time_ns + BOOT_OFFSET_NS), **given)
    if latency_ns:
        event.latency.FromNanoseconds(latency_ns)
    return event


def answer(**values: Any) -> fqdn_pb2.LookupEvent:
    """A response with one address, 3.5 ms after its request."""
    usual: dict[str, Any] = {
        "response": True,
        "ips": ["192.0.2.7"],
        "ttl": 30,
        "rrtypes": [1],
        "latency_ns": 3_500_000,
    }
    return lookup(**usual | values)


class LookupScene:
    """Feeds of packets and messages with their decoders and a clock that stands."""

    def __init__(self, capacity: int = 64, lookups: int = 64, max_bytes: int = 1 << 20) -> None:
        self.feed, self.decoder, self.clock = make_feed(capacity)
        self.lookups = Lookups(
            self.decoder,
            boot_clock_ns=self.clock,
            bell=self.feed.bell,
            store=LookupStore(lookups, max_bytes),
        )
        self.sources = [
            Source(self.feed, self.decoder),
            Source(self.lookups.feed, self.lookups.decoder),
        ]
