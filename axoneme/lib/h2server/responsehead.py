"""Header blocks that a server sends, as HPACK without its tables (RFC 7541 section 6.2.2). Pure.

A block without the dynamic table costs a few bytes more and depends on nothing: not on the client's table
size, not on the order in which streams are written.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence

STATUS_200 = b"\x88"
STATUS_NAME_INDEX = 8
PRINTABLE = frozenset(range(0x20, 0x7F)) - {ord("%")}

Metadata = Sequence[tuple[str, str | bytes]]


def literal(name: bytes, value: bytes) -> bytes:
    """One field, without indexing and without Huffman."""
    return b"\0" + _length(len(name)) + name + _length(len(value)) + value


def _length(size: int) -> bytes:
    """An integer with a prefix of seven bits (RFC 7541 section 5.1)."""
    if size < 127:
        return bytes((size,))
    size, encoded = size - 127, bytearray(b"\x7f")
    while size > 127:
        encoded.append(size & 127 | 128)
        size >>= 7
    encoded.append(size)
    return bytes(encoded)


_HEAD = (
    STATUS_200 + literal(b"content-type", b"application/grpc") + literal(b"grpc-accept-encoding", b"identity")
)


def initial_block(metadata: Metadata = ()) -> bytes:
    """Head of a response."""
    return _HEAD + metadata_block(metadata)


def trailer_block(code: int, message: str = "", metadata: Metadata = ()) -> bytes:
    """Trailers with the status of a call."""
    block = literal(b"grpc-status", str(code).encode())
    if message:
        block += literal(b"grpc-message", percent_encoded(message))
    return block + metadata_block(metadata)


def http_block(status: int) -> bytes:
    """The whole answer to what is no gRPC call."""
    return b"\x08" + _length(3) + str(status).encode() + literal(b"content-length", b"0")


def metadata_block(metadata: Iterable[tuple[str, str | bytes]]) -> bytes:
    """Own fields; the values of names that end in -bin are bytes and travel as base64 without padding."""
    return b"".join(literal(*_field(name, value)) for name, value in metadata)


def _field(name: str, value: str | bytes) -> tuple[bytes, bytes]:
    raw = value if isinstance(value, bytes) else value.encode()
    if name.endswith("-bin"):
        raw = base64.b64encode(raw).rstrip(b"=")
    return name.lower().encode(), raw


def percent_encoded(text: str) -> bytes:
    """grpc-message: what is not printable ASCII, and the percent sign, as %XX of its UTF-8."""
    raw = text.encode("utf-8", "replace")
    if all(byte in PRINTABLE for byte in raw):
        return raw
    return b"".join(bytes((byte,)) if byte in PRINTABLE else b"%%%02X" % byte for byte in raw)
