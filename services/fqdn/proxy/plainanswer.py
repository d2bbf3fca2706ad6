"""The commonest answers without a loop: nothing but addresses of the name that was asked, by pointer.

    c00c 0001 0001 | TTL | 0004 | address        repeated ANCOUNT times (AAAA: 001c, 0010, 16 bytes)

`read_answer` says the same of these and of all others, at three times the cost; tests hold them together.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from axoneme.lib.dns.wire import Answer, Question, read_answer

A, AAAA, IN = 1, 28, 1
MAX_RECORDS: Final = 16
_TOP_BIT: Final = 1 << 31


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

_ONE: Final = b"\x00\x01"
_HEAD_A: Final = b"\xc0\x0c\x00\x01\x00\x01"
_TYPES_A: Final = (A,)
_one_a = struct.Struct(">6sIH4s").unpack_from
_answer = Answer._make


def read_any_answer(message: bytes, question: Question) -> Answer:
    """As `read_answer`, for a message that answers the question for certain (`answers_question`)."""
    _, qtype, _, end = question
    if message[3] & 15 or message[2] & 2:  # rcode, TC
        return read_answer(message, question)
    try:
        if message[6:8] == _ONE and qtype == A:
            head, ttl, size, address = _one_a(message, end)
            if head == _HEAD_A and size == 4 and ttl < _TOP_BIT:
                return _answer((0, False, (address,), ttl, (), _TYPES_A, True))
            return read_answer(message, question)
        shape = _SHAPES.get((qtype, message[6:8]))
        if shape is not None:
            return _several(message, question, shape)
    except struct.error:
        pass  # it ends early: malformed, or truncated
    return read_answer(message, question)


def _several(message: bytes, question: Question, shape: _Shape) -> Answer:
    """Raises struct.error."""
    fields = shape.unpack(message, question.end)
    if fields[::4] != shape.heads or fields[2::4] != shape.sizes:
        return read_answer(message, question)
    addresses, ttl = fields[3::4], min(fields[1::4])
    # Doubles, and TTLs with the top bit (RFC 2181 §8), are rare.
    if max(fields[1::4]) >= _TOP_BIT or len(set(addresses)) != len(addresses):
        return read_answer(message, question)
    return _answer((0, False, addresses, ttl, (), shape.types, True))
