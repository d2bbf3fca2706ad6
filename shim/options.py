"""Checks of a node's options that more than one part needs; each names the option that is wrong."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterable

from axoneme.lib.errors import InvalidArgument

MAX_MAP_ENTRIES = 16_777_216
MIN_MTU, MAX_MTU = 1280, 65_535

_MAP_SIZE = re.compile(r"(axoneme_[a-z0-9_]{1,32})=([0-9]{1,9})")
_LABEL_KEY = re.compile(
    r"([a-z0-9][a-z0-9.-]{0,251}[a-z0-9]/|[a-z0-9]/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
)
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")
_INTERFACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}")


def one_of(name: str, value: str, allowed: Collection[str]) -> None:
    """Raises InvalidArgument for any other word."""
    if value not in allowed:
        raise InvalidArgument.of_field(name, f"is {value!r}; write {' or '.join(allowed)}")


def in_range(name: str, value: int, low: int, high: int) -> None:
    """Raises InvalidArgument outside of the range, ends included."""
    if not low <= value <= high:
        raise InvalidArgument.of_field(name, f"is {value}; must be from {low} to {high}")


def mtu_or_zero(name: str, value: int) -> None:
    """An MTU that carries IPv6, or 0 for none given."""
    if value:
        in_range(name, value, MIN_MTU, MAX_MTU)


def interface_or_empty(name: str, value: str) -> None:
    """The name of an interface as the kernel takes it, or nothing."""
    if value and not _INTERFACE.fullmatch(value):
        raise InvalidArgument.of_field(name, f"{value!r} is not the name of an interface")


def addresses(name: str, values: Iterable[str]) -> None:
    """Raises InvalidArgument for text that is no address."""
    for text in values:
        try:
            ipaddress.ip_address(text)
        except ValueError as error:
            raise InvalidArgument.of_field(name, str(error)) from error


def networks(name: str, values: Iterable[str]) -> None:
    """Raises InvalidArgument for text that is no prefix, or has host bits."""
    for text in values:
        try:
            ipaddress.ip_network(text)
        except ValueError as error:
            raise InvalidArgument.of_field(name, str(error)) from error


def port_range(name: str, text: str) -> tuple[int, int]:
    """Both ends of `LOW-HIGH`, included."""
    low, dash, high = text.partition("-")
    if not (dash and low.isascii() and low.isdigit() and high.isascii() and high.isdigit()):
        raise InvalidArgument.of_field(name, f"{text!r} is not LOW-HIGH, such as 16384-29999")
    ends = int(low), int(high)
    if not 1 <= ends[0] <= ends[1] <= 65_535:
        raise InvalidArgument.of_field(name, f"{text!r} must rise and lie within 1-65535")
    return ends


def labels(name: str, texts: Iterable[str]) -> dict[str, str]:
    """Key → value out of `KEY=VALUE`; a value may be empty. Raises InvalidArgument."""
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (equals and _LABEL_KEY.fullmatch(key) and _LABEL_VALUE.fullmatch(value)):
            raise InvalidArgument.of_field(name, f"{text[:128]!r} is not KEY=VALUE, such as role=edge")
        if key in found:
            raise InvalidArgument.of_field(name, f"gives {key!r} twice")
        found[key] = value
    return found


def map_sizes(name: str, texts: Iterable[str], known: Collection[str]) -> dict[str, int]:
    """Map → entries out of `axoneme_ct=262144`. `known`: the maps whose size may be chosen."""
    sizes: dict[str, int] = {}
    for text in texts:
        match = _MAP_SIZE.fullmatch(text)
        if match is None:
            raise InvalidArgument.of_field(name, f"{text!r} is not MAP=ENTRIES, such as axoneme_ct=262144")
        if match[1] not in known:
            raise InvalidArgument.of_field(
                name, f"{match[1]!r} has no size to choose; these have: {', '.join(known)}"
            )
        in_range(name, int(match[2]), 1, MAX_MAP_ENTRIES)
        sizes[match[1]] = int(match[2])
    return sizes
