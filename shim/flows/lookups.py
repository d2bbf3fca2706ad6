"""Where the DNS messages that the proxy saw enter the flows of a node.

The proxy reports messages in batches, with the number of those that it could not keep for us. A message gets
the identities of both ends when it comes in, as of its own time; what it says is decoded when it is asked
for. Everything runs in the event loop's thread; nothing here waits.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Iterable
from functools import lru_cache
from ipaddress import ip_address
from typing import Final

from axoneme.api.fqdn.v1 import fqdn_pb2
from axoneme.api.hubble.flow import flow_pb2
from shim.flows import dnswords, record
from shim.flows.bell import Bell
from shim.flows.context import FlowContext, address_of, mapped
from shim.flows.decode import FlowDecoder
from shim.flows.feed import FlowFeed
from shim.flows.lookupdecode import LookupDecoder
from shim.flows.lookupstore import LookupStore, Report
from shim.flows.record import records_from_bytes

CAPACITY: Final = 1 << 16
_RECORD: Final = struct.Struct("<QII16s16sHHBBBBHBBBBBBIIII6s6sI")
"""The layout of `record.EVENT_DTYPE`; a test compares them."""
_NO_MAC: Final = bytes(6)
_VERDICTS: Final = {
    fqdn_pb2.LOOKUP_VERDICT_FORWARDED: flow_pb2.FORWARDED,
    fqdn_pb2.LOOKUP_VERDICT_DENIED: flow_pb2.DROPPED,
    fqdn_pb2.LOOKUP_VERDICT_ERROR: flow_pb2.ERROR,
}


class Lookups:
    """The DNS messages of one node, as a feed beside that of the packets."""

    def __init__(
        self,
        names: FlowDecoder,
        *,
        boot_clock_ns: Callable[[], int],
        bell: Bell | None = None,
        store: LookupStore | None = None,
    ) -> None:
        """Take the decoder of packets, the clock of records and the bell that wakes readers of both feeds."""
        self.store = store if store is not None else LookupStore(CAPACITY)
        self.feed = FlowFeed(
            self.store,
            boot_clock_ns=boot_clock_ns,
            bell=bell,
            loss_source=flow_pb2.OBSERVER_EVENTS_QUEUE,
        )
        self.decoder = LookupDecoder(names)
        self._names = names
        self._boot_clock_ns = boot_clock_ns

    def add(self, events: Iterable[fqdn_pb2.LookupEvent], lost: int) -> None:
        """Take a batch, before which `lost` messages were lost; what cannot be read counts as lost too."""
        offset_ns, now_ns = self._names.boot_offset_ns, self._boot_clock_ns()
        rows: list[bytes] = []
        reports: list[Report] = []
        for event in events:
            try:
                rows.append(_row(event, self._names.context, offset_ns, now_ns))
            except ValueError:
                lost += 1
            else:
                query = sys.intern(dnswords.printable(event.query))
                reports.append(Report(query, event.SerializeToString()))
        self.feed.add_lost(lost)
        if rows:
            self.store.append_reports(records_from_bytes(b"".join(rows)), reports)
            self.feed.wake()


def _row(event: fqdn_pb2.LookupEvent, context: FlowContext, offset_ns: int, now_ns: int) -> bytes:
    """The record of a message. Raises ValueError when an address, a port or a number is none."""
    client, server = _packed(event.client), _packed(event.server)
    wall = event.time
    wall_ns = wall.seconds * 1_000_000_000 + wall.nanos
    time_ns = max(0, wall_ns - offset_ns) if wall_ns else now_ns
    endpoint_id = event.endpoint_id
    ends = (
        (_client_identity(context, endpoint_id, client, time_ns), client, event.client_port),
        (event.server_identity or _owner_identity(context, server, time_ns), server, event.server_port),
    )
    source, destination = ends[::-1] if event.response else ends
    flags = record.FLAG_REPLY_KNOWN | (record.FLAG_REPLY if event.response else 0)
    verdict = _VERDICTS.get(event.verdict, flow_pb2.VERDICT_UNKNOWN)
    try:
        return _RECORD.pack(
            time_ns, source[0], destination[0], source[1], destination[1], source[2], destination[2],
            event.protocol, 0, record.LAYER7, 0, endpoint_id, record.EGRESS, flags, verdict, 0, 0, 0,
            0, 0, 0, 0, _NO_MAC, _NO_MAC, 0,
        )  # fmt: skip
    except struct.error as error:
        raise ValueError(f"a number of the lookup event is too large: {error}") from error


def _client_identity(context: FlowContext, endpoint_id: int, client: bytes, time_ns: int) -> int:
    endpoint = context.endpoint(endpoint_id, time_ns) if endpoint_id else None
    return endpoint.identity if endpoint is not None else _owner_identity(context, client, time_ns)


def _owner_identity(context: FlowContext, address: bytes, time_ns: int) -> int:
    owner = context.workload_at(address_of(address), time_ns)
    return owner.identity if owner is not None else 0


@lru_cache(maxsize=4096)
def _packed(text: str) -> bytes:
    return mapped(ip_address(text).packed)
