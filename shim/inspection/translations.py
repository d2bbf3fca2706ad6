"""Address translations of the kernel's table as messages."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from axoneme.api.node.v1 import node_pb2
from axoneme.lib.bpf.maps import BpfMap
from axoneme.lib.pagination import page as page_of
from shim.inspection.tuples import names, place
from shim.lifetimes import NS
from shim.maps import lb

SIDES: Final = {
    lb.NAT_FROM_EP: "from-endpoint",
    lb.NAT_TO_EP: "to-endpoint",
    lb.NAT_FROM_NET: "from-network",
    lb.NAT_TO_NET: "to-network",
}
FLAGS: Final = {
    lb.NAT_SERVICE: "service",
    lb.NAT_HAIRPIN: "hairpin",
    lb.NAT_MASQUERADE: "masquerade",
    lb.NAT_RETURN: "return",
    lb.NAT_DSR_CLIENT: "dsr",
}


class Translations:
    """The translation table of one node. Methods block: call them in a thread."""

    def __init__(self, bpf_map: BpfMap, *, now_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._map = bpf_map
        self._now_ns = now_ns

    def page(self, text: str, page_size: int, token: str) -> node_pb2.ListTranslationsResponse:
        """One page, by tuple. Raises InvalidArgument for a page size or token that is none."""
        now = self._now_ns()
        found = sorted(self._map.items())
        messages = [
            (key.hex(), _message(lb.NatKey.unpack(key), lb.NatEntry.unpack(raw), now)) for key, raw in found
        ]
        wanted = [(order, one) for order, one in messages if _matches(one, text)]
        chosen, following = page_of(wanted, lambda row: row[0], page_size, token)
        return node_pb2.ListTranslationsResponse(
            translations=[one for _, one in chosen], next_page_token=following
        )


def _matches(one: node_pb2.Translation, text: str) -> bool:
    return not text or any(
        text in place for place in (one.source, one.destination, one.new_source, one.new_destination)
    )


def _message(key: lb.NatKey, entry: lb.NatEntry, now_ns: int) -> node_pb2.Translation:
    return node_pb2.Translation(
        side=SIDES.get(key.side, "unknown"),
        endpoint_id=key.endpoint_id,
        protocol=key.protocol,
        source=place(key.source, key.source_port_be),
        destination=place(key.destination, key.destination_port_be),
        new_source=place(entry.source, entry.source_port_be),
        new_destination=place(entry.destination, entry.destination_port_be),
        flags=names(entry.flags, FLAGS),
        idle_seconds=max(now_ns - entry.last_seen_ns, 0) / NS,
    )
