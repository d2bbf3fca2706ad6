"""What `axoneme trace` prints: one line an event, counts and log2 histograms at the end."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from shim.diagnostics.names import Names

BAR_CHARACTERS = 40
PROTOCOLS = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6", 132: "SCTP"}
TITLES = {"connect_us": "time to connect", "rtt_us": "smoothed round-trip time, one count an ACK"}


def line_of(event: dict[str, Any], names: Names) -> str:
    """One event for people."""
    moment = dt.datetime.fromtimestamp(event["time"], tz=dt.UTC).astimezone()
    protocol = PROTOCOLS.get(event["protocol"], f"protocol {event['protocol']}")
    ends = [_end(event[side], event[f"{side}_port"], names) for side in ("source", "destination")]
    return f"{moment:%H:%M:%S.%f}  {_what(event):<28}  {protocol:<6}  {' -> '.join(ends)}".rstrip()


def _what(event: dict[str, Any]) -> str:
    if event["event"] == "drop":
        return str(event["reason"])
    if event["event"] == "connect":
        outcome = "connected" if event["state"] == "established" else "failed"
        return f"{outcome} {event['milliseconds']:.3f} ms {event['task']}"
    return f"retransmit in {event['state']}"


def _end(address: str, port: int, names: Names) -> str:
    shown = f"[{address}]" if ":" in address else address
    name = names.of(address)
    return f"{shown}:{port}" * bool(port) + shown * (not port) + f" ({name})" * bool(name)


class Summary:
    """Counts of what was seen, by what tells it apart."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, event: dict[str, Any]) -> None:
        """One event."""
        self._counts[str(event["reason"] if event["event"] == "drop" else event["state"])] += 1

    def lines(self) -> Iterator[str]:
        """Most frequent first."""
        yield from bars([(name, count) for name, count in self._counts.most_common()])


def histogram(name: str, buckets: Sequence[tuple[int, int]]) -> Iterator[str]:
    """A log2 histogram; a bucket holds values from its number to below its double, in microseconds."""
    yield f"{TITLES.get(name, name)}:"
    if not buckets:
        yield "  nothing was seen"
        return
    count_by_low = dict(buckets)
    low, rows = min(count_by_low), []
    while low <= max(count_by_low):
        rows.append((f"{_time(low)} - {_time(low * 2 or 1)}", count_by_low.get(low, 0)))
        low = low * 2 or 1
    yield from bars(rows)


def bars(rows: Iterable[tuple[str, int]]) -> Iterator[str]:
    """Rows with a bar each, the longest of which is full."""
    known = list(rows)
    most = max((count for _, count in known), default=0)
    width = max((len(name) for name, _ in known), default=0)
    for name, count in known:
        bar = "\u2588" * round(count / most * BAR_CHARACTERS) if most else ""
        yield f"  {name.rjust(width)}  {count:>8}  {bar}".rstrip()


def _time(microseconds: int) -> str:
    for unit, size in (("s", 1_000_000), ("ms", 1_000)):
        if microseconds >= size:
            return f"{microseconds / size:.3g} {unit}"
    return f"{microseconds} \u00b5s"
