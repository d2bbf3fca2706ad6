"""Times on the command line: a duration back from now, or a date."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from axoneme.lib.errors import InvalidArgument

_UNIT_NS: Final = {
    "ns": 1, "us": 1_000, "µs": 1_000, "ms": 1_000_000, "s": 10**9, "m": 60 * 10**9, "h": 3_600 * 10**9,
}  # fmt: skip
_DURATION: Final = re.compile(r"(?:\d+(?:\.\d*)?|\.\d+)(?:ns|us|µs|ms|s|m|h)")
_PART: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_ZONE: Final = r"(Z|[+-]\d\d:\d\d)"
_FRACTION: Final = re.compile(r"\.(\d{1,9})(?=Z|[+-]\d\d:\d\d$)")


def parse_time(text: str, flag: str, now_ns: int) -> Timestamp:
    """`5m`, `1h43m`, `2026-03-01`, `2026-03-01T10:00Z`, RFC 3339 or 1123. Raises InvalidArgument."""
    if re.fullmatch(f"(?:{_DURATION.pattern})+", text):
        back_ns = sum(int(float(number) * _UNIT_NS[unit]) for number, unit in _PART.findall(text))
        return _timestamp(now_ns - back_ns)
    moment = _date(text)
    if moment is None:
        forms = "a duration such as 5m, 2026-03-01, 2026-03-01T10Z or 2026-03-01T10:00:00Z"
        raise InvalidArgument(f"--{flag}: cannot read {text!r}; give {forms}")
    fraction = _FRACTION.search(text)
    nanos = int(fraction[1].ljust(9, "0")) if fraction else 0
    return Timestamp(seconds=int(moment.timestamp()), nanos=nanos)


def _date(text: str) -> datetime | None:
    """The date to the second."""
    plain = _FRACTION.sub("", text)
    forms = (
        ("%Y-%m-%d", ""),
        ("%Y-%m-%dT%H", _ZONE),
        ("%Y-%m-%dT%H:%M", _ZONE),
        ("%Y-%m-%dT%H:%M:%S", _ZONE),
    )
    for form, zone in forms:
        try:
            if not zone:
                return datetime.strptime(plain, form).replace(tzinfo=UTC)
            return datetime.strptime(plain, f"{form}%z")
        except ValueError:
            continue
    try:
        return datetime.strptime(text, "%a, %d %b %Y %H:%M:%S %z")
    except ValueError:
        return None


def _timestamp(time_ns: int) -> Timestamp:
    return Timestamp(seconds=time_ns // 10**9, nanos=time_ns % 10**9)
