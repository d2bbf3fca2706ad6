"""The commonest messages without a loop; `wire` reads all others, and tests hold both to the same.

An answer of nothing but addresses of the name that was asked, by pointer:

    c00c 0001 0001 | TTL | 0004 | address        repeated ANCOUNT times (AAAA: 001c, 0010, 16 bytes)
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final, NamedTuple

A, AAAA, IN = 1, 28, 1
MAX_RECORDS: Final = 16
_TOP_BIT: Final = 1 << 31
_ONE: Final = b"\x00\x01"
_HEAD_A: Final = b"\xc0\x0c\x00\x01\x00\x01"
_TYPES_A: Final = (A,)
_one_a = struct.Struct(">6sIH4s").unpack_from

# rcode, truncated, addresses, TTL, CNAMEs, types, usable: the fields of `wire.Answer`
PlainAnswer = tuple[int, bool, tuple[bytes, ...], int, tuple[bytes, ...], tuple[int, ...], bool]


class _Shape(NamedTuple):
    unpack: Callable[[bytes, int], tuple[Any, ...]]
    heads: tuple[bytes, ...]
    sizes: tuple[int, ...]
    types: tuple[int, ...]


def _shape(rrtype: int, size: int, count: int) -> _Shape:
    head = b"\xc0\x0c" + rrtype.to_bytes(2, "big") + IN.to_bytes(2, "big")
    unpack = struct.Struct(">" + f"6sIH{size}s" * count).unpack_from
    return _Shape(unpack, (head,) * count, (size,) * count, (rrtype,) * count)


_SHAPES: Final = {
    (rrtype, count.to_bytes(2, "big")): _shape(rrtype, size, count)
    for rrtype, size in ((A, 4), (AAAA, 16))
    for count in range(1, MAX_RECORDS + 1)
}


def addresses_only(message: bytes, qtype: int, end: int) -> PlainAnswer | None:
    """What such an answer says, by the type that was asked and the end of the question; None for another."""
    if message[3] & 15 or message[2] & 2:  # rcode, TC
        return None
    count = message[6:8]
    try:
        if count == _ONE and qtype == A:
            head, ttl, size, address = _one_a(message, end)
            if head == _HEAD_A and size == 4 and ttl < _TOP_BIT:
                return 0, False, (address,), ttl, (), _TYPES_A, True
            return None
        shape = _SHAPES.get((qtype, count))
        return _several(message, end, shape) if shape is not None else None
    except struct.error:  # it ends early
        return None


def _several(message: bytes, end: int, shape: _Shape) -> PlainAnswer | None:
    """Raises struct.error."""
    fields = shape.unpack(message, end)
    if fields[::4] != shape.heads or fields[2::4] != shape.sizes:
        return None
    addresses, ttls = fields[3::4], fields[1::4]
    # Doubles, and TTLs with the top bit (RFC 2181 §8), are rare.
    if max(ttls) >= _TOP_BIT or len(set(addresses)) != len(addresses):
        return None
    return 0, False, addresses, min(ttls), (), shape.types, True
