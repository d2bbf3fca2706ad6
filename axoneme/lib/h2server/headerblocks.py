"""Header blocks of one connection: put together from HEADERS and CONTINUATION, and decoded. Pure.

Every block is decoded, also one of a stream that is refused: the table that it changes belongs to all.
"""

from __future__ import annotations

from typing import NamedTuple

from hpack.exceptions import HPACKError, OversizedHeaderListError
from hpack.hpack import Decoder

from axoneme.lib.h2server import frames
from axoneme.lib.h2server.faults import ConnectionFault, ErrorCode
from axoneme.lib.h2server.frames import Frame
from axoneme.lib.h2server.requesthead import Fields

CONTINUATIONS = 8
"""A block within the limit needs one; more are a flood (CVE-2024-27316)."""


class Block(NamedTuple):
    """A complete block."""

    stream_id: int
    ended: bool
    fields: Fields


class HeaderBlocks:
    """The block that is not complete, and the table of the client's fields."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._decoder = Decoder(max_header_list_size=most_bytes)
        self._open: Frame | None = None
        self._payload = bytearray()
        self._count = 0

    @property
    def unfinished(self) -> bool:
        """True when only CONTINUATION may follow."""
        return self._open is not None

    def begin(self, frame: Frame) -> Block | None:
        """Takes HEADERS. Raises ConnectionFault."""
        if not frame.stream_id % 2:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "clients open odd streams")
        self._open, self._payload, self._count = frame, bytearray(frames.unpadded(frame)), 0
        return self._finished(frame.flags)

    def go_on(self, frame: Frame) -> Block | None:
        """Takes CONTINUATION. Raises ConnectionFault."""
        if self._open is None or self._open.stream_id != frame.stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "CONTINUATION of nothing")
        self._payload += frame.payload
        self._count += 1
        if self._count > CONTINUATIONS or len(self._payload) > self._most_bytes:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "header block too long")
        return self._finished(frame.flags)

    def _finished(self, flags: int) -> Block | None:
        if not flags & frames.END_HEADERS or self._open is None:
            return None
        first, self._open = self._open, None
        return Block(first.stream_id, bool(first.flags & frames.END_STREAM), self._decoded())

    def _decoded(self) -> Fields:
        try:
            fields = self._decoder.decode(bytes(self._payload), raw=True)
        except OversizedHeaderListError as error:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "header list too large") from error
        except HPACKError as error:
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, "header block cannot be decoded") from error
        return [(bytes(name), bytes(value)) for name, value in fields]
