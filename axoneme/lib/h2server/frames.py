"""Frames of HTTP/2 (RFC 9113 section 4 and 6): bytes to frames, and the few that a server writes. Pure.

length 24 bits | type 8 | flags 8 | reserved 1, stream 31 | payload
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import NamedTuple

from axoneme.lib.h2server.faults import ConnectionFault, ErrorCode
from axoneme.lib.h2server.limits import FRAME_BYTES

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = 0, 1, 2, 3, 4
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 5, 6, 7, 8, 9

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITISED = 0x20

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS = 1, 2, 3
INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = 4, 5, 6

MAX_WINDOW = 2**31 - 1
STREAM_MASK = 2**31 - 1
HEAD_BYTES = 9
_HEAD = struct.Struct(">HBBBL")
_PAIR = struct.Struct(">HL")


class Frame(NamedTuple):
    """One frame as it came."""

    kind: int
    flags: int
    stream_id: int
    payload: bytes


class FrameReader:
    """Cuts what arrives into frames; keeps at most one that is not complete."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._greeted = False

    @property
    def greeted(self) -> bool:
        """True when the client's preface has come."""
        return self._greeted

    def feed(self, data: bytes) -> list[Frame]:
        """Complete frames so far. Raises ConnectionFault for what is no HTTP/2 or too long."""
        buffer = self._buffer
        buffer += data
        if not self._greeted and not self._greet():
            return []
        frames, position, end = [], 0, len(buffer)
        while end - position >= HEAD_BYTES:
            high, low, kind, flags, stream_id = _HEAD.unpack_from(buffer, position)
            length = high << 8 | low
            if length > FRAME_BYTES:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"frame of {length} bytes")
            start = position + HEAD_BYTES
            if end - start < length:
                break
            position = start + length
            frames.append(Frame(kind, flags, stream_id & STREAM_MASK, bytes(buffer[start:position])))
        del buffer[:position]
        return frames

    def _greet(self) -> bool:
        size = min(len(self._buffer), len(PREFACE))
        if self._buffer[:size] != PREFACE[:size]:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "no HTTP/2 preface")
        if size < len(PREFACE):
            return False
        del self._buffer[:size]
        self._greeted = True
        return True


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """The bytes of one frame."""
    return frame_head(len(payload), kind, flags, stream_id) + payload


def frame_head(length: int, kind: int, flags: int, stream_id: int) -> bytes:
    """The nine bytes before a payload."""
    return _HEAD.pack(length >> 8, length & 0xFF, kind, flags, stream_id)


def settings(values: Mapping[int, int]) -> bytes:
    """A SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(_PAIR.pack(key, value) for key, value in values.items()))


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    """Pairs of a SETTINGS frame, checked (RFC 9113 section 6.5.2). Raises ConnectionFault."""
    if len(payload) % _PAIR.size:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of a broken length")
    pairs = list(_PAIR.iter_unpack(payload))
    for key, value in pairs:
        if key == INITIAL_WINDOW_SIZE and value > MAX_WINDOW:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "initial window too large")
        if key == MAX_FRAME_SIZE and not FRAME_BYTES <= value < 2**24:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "frame size out of range")
        if key == ENABLE_PUSH and value > 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "ENABLE_PUSH is 0 or 1")
    return pairs


def number(payload: bytes, what: str) -> int:
    """The 31 bits that WINDOW_UPDATE carries, or the 32 of RST_STREAM. Raises ConnectionFault."""
    if len(payload) != 4:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"{what} of {len(payload)} bytes")
    return int.from_bytes(payload, "big")


def window_update(stream_id: int, size: int) -> bytes:
    """A WINDOW_UPDATE frame."""
    return frame(WINDOW_UPDATE, 0, stream_id, size.to_bytes(4, "big"))


def rst_stream(stream_id: int, code: int) -> bytes:
    """A RST_STREAM frame."""
    return frame(RST_STREAM, 0, stream_id, code.to_bytes(4, "big"))


def goaway(last_stream_id: int, code: int, text: str) -> bytes:
    """A GOAWAY frame."""
    payload = last_stream_id.to_bytes(4, "big") + code.to_bytes(4, "big") + text.encode()[:128]
    return frame(GOAWAY, 0, 0, payload)


def unpadded(received: Frame) -> bytes:
    """Payload of DATA or HEADERS without padding and priority. Raises ConnectionFault."""
    payload, start, padding = received.payload, 0, 0
    if received.flags & PADDED:
        if not payload:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "padded frame without its length")
        start, padding = 1, payload[0]
    if received.kind == HEADERS and received.flags & PRIORITISED:
        start += 5
    if start + padding > len(payload):
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "padding longer than the frame")
    return payload[start : len(payload) - padding] if start or padding else payload
