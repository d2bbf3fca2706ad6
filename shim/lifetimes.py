"""How long connections and translations live without a packet; shim/bpf/ct.h decides the same in the kernel.

The kernel treats an entry that is over as absent, so whoever removes it afterwards changes no verdict.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from shim.maps import layout, lb

NEW, ESTABLISHED, CLOSING, CUT = 1, 2, 3, 4
STATE_NAMES: Final = {NEW: "new", ESTABLISHED: "established", CLOSING: "closing", CUT: "cut"}
NS: Final = 1_000_000_000
_STREAMS: Final = frozenset({6, 132})  # TCP, SCTP


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetimes:
    """Seconds; the constants of shim/bpf/maps.h."""

    established: int = 8000
    datagram: int = 60
    new: int = 60
    closing: int = 10
    cut: int = 300

    def seconds(self, state: int, protocol: int) -> int:
        """Lifetime of an entry in `state` of IP protocol number `protocol`."""
        if state == CUT:
            return self.cut
        if state == CLOSING:
            return self.closing
        if protocol in _STREAMS:
            return self.established if state == ESTABLISHED else self.new
        return self.datagram

    def connection_left_ns(self, key: layout.CtKey, entry: layout.CtEntry, now_ns: int) -> int:
        """Nanoseconds of CLOCK_MONOTONIC until a connection is over; negative once it is."""
        return entry.last_seen_ns + self.seconds(entry.state, key.protocol) * NS - now_ns

    def translation_left_ns(self, key: lb.NatKey, entry: lb.NatEntry, now_ns: int) -> int:
        """The same of a translation."""
        return entry.last_seen_ns + self.seconds(entry.state, key.protocol) * NS - now_ns
