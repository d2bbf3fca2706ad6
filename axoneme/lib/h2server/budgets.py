"""How many frames that cost the sender nothing one connection may send: a bucket for each kind. Pure.

The figures are a thousand at once and 33 a second, those of nghttp2 against rapid reset (CVE-2023-44487), for
all that makes no progress; window updates belong to a fast reader, so their bucket is larger.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from axoneme.lib.h2server.faults import ConnectionFault, ErrorCode


class Rate(NamedTuple):
    """`burst` at once, refilled by `per_second`."""

    burst: float
    per_second: float


IDLE = Rate(1_000, 33)
RATES: Mapping[str, Rate] = {
    "reset": IDLE,
    "ping": IDLE,
    "settings": Rate(100, 10),
    "empty": IDLE,
    "refused": IDLE,
    "other": IDLE,
    "window": Rate(50_000, 20_000),
}


class Budgets:
    """State of the buckets of one connection."""

    def __init__(self, now: float, rates: Mapping[str, Rate] = RATES) -> None:
        self._rates = rates
        self._left = {kind: rate.burst for kind, rate in rates.items()}
        self._seen = dict.fromkeys(rates, now)

    def spend(self, kind: str, now: float) -> None:
        """Takes one of a kind at a monotonic time in seconds. Raises ConnectionFault when none is left."""
        left = self._left[kind] - 1
        if left < 0:
            rate = self._rates[kind]
            left = min(rate.burst, left + (now - self._seen[kind]) * rate.per_second)
            self._seen[kind] = now
            if left < 0:
                raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"too_many_{kind}")
        self._left[kind] = left
