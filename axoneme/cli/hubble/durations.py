"""Durations as the Hubble CLI writes them: 12s, 1m30s, 500ms; a bare number is seconds."""

from __future__ import annotations

import re
from typing import Any, Final

import click

from axoneme.lib.errors import InvalidArgument

_UNIT_SECONDS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")


def parse_seconds(text: str) -> float:
    """Seconds of a duration. Raises InvalidArgument for what is none or not above 0."""
    if re.fullmatch(r"\d+(\.\d*)?|\.\d+", text):
        seconds = float(text)
    elif re.fullmatch(f"(?:{_PART.pattern})+", text):
        seconds = sum(float(number) * _UNIT_SECONDS[unit] for number, unit in _PART.findall(text))
    else:
        raise InvalidArgument(f"{text!r} is not a duration such as 5s, 1m30s or 10")
    if seconds <= 0:
        raise InvalidArgument(f"{text!r} is not above 0")
    return seconds


def format_duration(nanoseconds: int) -> str:
    """As Go prints it: 1h2m3.5s, 12s, 350ms."""
    if nanoseconds < 10**9:
        for unit, size in (("ms", 10**6), ("µs", 10**3), ("ns", 1)):
            if nanoseconds >= size:
                return f"{_decimal(nanoseconds, size)}{unit}"
        return "0s"
    minutes, rest = divmod(nanoseconds, 60 * 10**9)
    hours, minutes = divmod(minutes, 60)
    text = f"{_decimal(rest, 10**9)}s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text


def _decimal(value: int, unit: int) -> str:
    whole, rest = divmod(value, unit)
    digits = len(str(unit)) - 1
    fraction = f"{rest:0{digits}d}".rstrip("0") if rest else ""
    return f"{whole}.{fraction}" if fraction else str(whole)


class Duration(click.ParamType[float]):
    """A click type that gives seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds of a text or a number."""
        if isinstance(value, int | float):
            return float(value)
        try:
            return parse_seconds(value)
        except InvalidArgument as error:
            self.fail(error.message, param, ctx)
