"""Blocks of flows as bytes: raw records and what their numbers meant, each block complete in itself.

    magic (4) | bytes of the rest (u32) | its CRC-32 (u32) | zlib( bytes of names (u32) | names | records )

Names are JSON: a list of statements. Times are nanoseconds since 1970, in records too, since the clock of
records starts anew with each boot. No I/O here.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from shim.flows.record import EVENT_BYTES, Records, records_from_bytes

MAGIC: Final = b"AXF1"
MAX_BLOCK_BYTES: Final = 64 << 20
_HEAD: Final = struct.Struct("<4sII")
_LENGTH: Final = struct.Struct("<I")


class Statement(NamedTuple):
    """From a time on, a key of a kind meant a value; None: nothing any more."""

    kind: str
    key: Any
    since_ns: int
    value: Any


class Block(NamedTuple):
    """Records and all names that they need."""

    statements: list[Statement]
    records: Records


def encoded(statements: Sequence[Statement], records: Records) -> bytes:
    """A block as bytes."""
    names = json.dumps(statements, separators=(",", ":")).encode()
    body = zlib.compress(_LENGTH.pack(len(names)) + names + records.tobytes(), level=1)
    return _HEAD.pack(MAGIC, len(body), zlib.crc32(body)) + body


def decoded(data: bytes) -> Iterator[Block]:
    """The blocks of a file up to the first that is cut off or damaged."""
    at = 0
    while at + _HEAD.size <= len(data):
        magic, size, checksum = _HEAD.unpack_from(data, at)
        body = data[at + _HEAD.size : at + _HEAD.size + size]
        if magic != MAGIC or len(body) < size or zlib.crc32(body) != checksum:
            return
        block = _block(body)
        if block is None:
            return
        yield block
        at += _HEAD.size + size


def _block(body: bytes) -> Block | None:
    """None for what another version wrote."""
    unpacker = zlib.decompressobj()
    try:
        raw = unpacker.decompress(body, MAX_BLOCK_BYTES)
        (length,) = _LENGTH.unpack_from(raw)
        names = json.loads(raw[_LENGTH.size : _LENGTH.size + length])
        rows = raw[_LENGTH.size + length :]
        if not unpacker.eof or len(rows) % EVENT_BYTES:
            return None
        return Block([Statement(*one) for one in names], records_from_bytes(rows))
    except (zlib.error, struct.error, ValueError, TypeError):
        return None
