"""DNS over TCP: each message after its length in two bytes (RFC 1035 §4.2.2, RFC 7766 §8). No I/O."""

from __future__ import annotations

from typing import Final

LENGTH_BYTES: Final = 2
MAX_MESSAGE: Final = 65_535


class TooLong(ValueError):  # noqa: N818  named by the situation
    """A message is announced that is longer than this side accepts."""


class FrameReader:
    """Takes a stream in any pieces and gives the messages in it, one at a time."""

    __slots__ = ("_buffer", "_limit")

    def __init__(self, limit: int = MAX_MESSAGE) -> None:
        self._buffer = b""
        self._limit = limit

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next(self) -> bytes | None:
        """The next message that is complete. Raises TooLong; the stream has no meaning after it."""
        buffer = self._buffer
        if len(buffer) < LENGTH_BYTES:
            return None
        end = LENGTH_BYTES + (buffer[0] << 8 | buffer[1])
        if end - LENGTH_BYTES > self._limit:
            raise TooLong("a message longer than the limit")
        if end > len(buffer):
            return None
        self._buffer = buffer[end:]
        return buffer[LENGTH_BYTES:end]

    @property
    def held(self) -> int:
        """Bytes that were not given out yet."""
        return len(self._buffer)


def framed(message: bytes) -> bytes:
    return len(message).to_bytes(LENGTH_BYTES, "big") + message
