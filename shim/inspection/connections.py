"""Connections of the kernel's table as messages: newest first, filtered, by pages; and their removal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from axoneme.api.node.v1 import node_pb2
from axoneme.api.policy.v1 import policy_pb2
from axoneme.lib.bpf.maps import BpfMap
from axoneme.lib.pagination import page as page_of
from axoneme.lib.policy.model import Origin
from shim.inspection.tuples import names, place, port
from shim.lifetimes import NS, STATE_NAMES, Lifetimes
from shim.maps import layout
from shim.maps.base import address_from_bytes
from shim.messages import origin_message

FLAGS: Final = {
    1: "reply-seen",
    2: "audit",
    4: "learned",
    8: "fin-original",
    16: "fin-reply",
    32: "audit-endpoint",
    64: "translated",
    128: "carried",
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which connections: a substring of `source:port -> destination:port`, and an endpoint."""

    text: str = ""
    endpoint_id: int | None = None

    def matches(self, key: layout.CtKey) -> bool:
        if self.endpoint_id is not None and key.endpoint_id != self.endpoint_id:
            return False
        return self.text in shown(key)


def shown(key: layout.CtKey) -> str:
    """`10.0.0.1:4711 -> 10.0.0.2:80`."""
    return f"{place(key.source, key.source_port_be)} -> {place(key.destination, key.destination_port_be)}"


class Connections:
    """The connection tracking table of one node. Methods block: call them in a thread."""

    def __init__(
        self,
        bpf_map: BpfMap,
        *,
        origins_of: Callable[[int], tuple[Origin, ...]],
        lifetimes: Lifetimes | None = None,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._map = bpf_map
        self._origins_of = origins_of
        self._lifetimes = lifetimes or Lifetimes()
        self._now_ns = now_ns

    def page(self, wanted: Wanted, page_size: int, token: str) -> node_pb2.ListConnectionsResponse:
        """One page, newest first. Raises InvalidArgument for a page size or token that is none."""
        rows = self._map.items()
        found = [(key, entry) for key, entry in decoded(rows) if wanted.matches(key)]
        chosen, following = page_of(sorted(found, key=_order), _order, page_size, token)
        now = self._now_ns()
        return node_pb2.ListConnectionsResponse(
            connections=[self._message(key, entry, now) for key, entry in chosen],
            next_page_token=following,
            entries=len(rows),
            max_entries=self._map.max_entries,
        )

    def flush(self, wanted: Wanted) -> int:
        """Removes connections; their next packets are judged as new ones. Returns how many went."""
        keys = [key for key, _ in self._map.items() if wanted.matches(layout.CtKey.unpack(key))]
        return sum(self._map.delete(key) for key in keys)

    def _message(self, key: layout.CtKey, entry: layout.CtEntry, now_ns: int) -> node_pb2.Connection:
        left_ns = self._lifetimes.connection_left_ns(key, entry, now_ns)
        return node_pb2.Connection(
            endpoint_id=key.endpoint_id,
            direction=policy_pb2.Direction.ValueType(key.direction),
            protocol=key.protocol,
            source_ip=str(address_from_bytes(key.source)),
            source_port=port(key.source_port_be),
            destination_ip=str(address_from_bytes(key.destination)),
            destination_port=port(key.destination_port_be),
            state=STATE_NAMES.get(entry.state, "unknown"),
            peer_identity=entry.peer_identity,
            policy_generation=entry.policy_generation,
            flags=names(entry.flags, FLAGS),
            idle_seconds=max(now_ns - entry.last_seen_ns, 0) / NS,
            expires_seconds=max(left_ns, 0) / NS,
            origins=[origin_message(origin) for origin in self._origins_of(entry.cookie)],
            proxy_port=port(entry.proxy_port_be),
        )


def decoded(rows: list[tuple[bytes, bytes]]) -> Iterator[tuple[layout.CtKey, layout.CtEntry]]:
    """Rows of the map as records."""
    return ((layout.CtKey.unpack(key), layout.CtEntry.unpack(value)) for key, value in rows)


def _order(row: tuple[layout.CtKey, layout.CtEntry]) -> str:
    """Newest first, then by tuple; a connection that gets packets between two pages may move."""
    key, entry = row
    return f"{(1 << 64) - 1 - entry.last_seen_ns:016x} {key.pack().hex()}"
