"""Tuples of connections as people write them."""

from __future__ import annotations

from shim.maps.base import address_from_bytes

ICMP, ICMPV6 = 1, 58


def place(address: bytes, port_be: bytes) -> str:
    """`10.0.0.1:80`, `[fd00::1]:80`."""
    parsed = address_from_bytes(address)
    port = int.from_bytes(port_be, "big")
    return f"[{parsed}]:{port}" if parsed.version == 6 else f"{parsed}:{port}"


def port(port_be: bytes) -> int:
    """A port out of network order."""
    return int.from_bytes(port_be, "big")


def names(flags: int, known: dict[int, str]) -> list[str]:
    """Names of the bits that are set, by bit."""
    return [name for bit, name in known.items() if flags & bit]
