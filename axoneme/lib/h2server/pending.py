"""Bytes of one stream that wait to be sent, in the pieces in which they were written. Pure."""

from __future__ import annotations

from axoneme.lib.h2server.limits import FRAME_BYTES
from axoneme.lib.h2server.messages import PREFIX_BYTES, PREFIXES


class Pending:
    """A queue of bytes that is cut into frames without being copied on the way."""

    __slots__ = ("_chunks", "_offset", "size")

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._offset = 0
        self.size = 0

    def __len__(self) -> int:
        return self.size

    def add(self, data: bytes) -> None:
        """Appends."""
        self._chunks.append(data)
        self.size += len(data)

    def add_message(self, message: bytes) -> None:
        """Appends a message shorter than KNOWN_LENGTHS with its prefix."""
        length = len(message)
        self._chunks += (PREFIXES[length], message)
        self.size += length + PREFIX_BYTES

    def clear(self) -> None:
        """Forgets everything."""
        self._chunks.clear()
        self._offset = self.size = 0

    def cut(self, size: int) -> list[memoryview]:
        """Takes `size` bytes off the front, in pieces that fit into a frame each."""
        view = self._joined()[self._offset : self._offset + size]
        self.size -= size
        if self.size:
            self._offset += size  # a client that opens its window by single bytes copies nothing
        else:
            self.clear()
        return [view[start : start + FRAME_BYTES] for start in range(0, size, FRAME_BYTES)]

    def _joined(self) -> memoryview:
        """All that waits, in one piece."""
        if len(self._chunks) > 1:
            first = memoryview(self._chunks[0])[self._offset :]
            self._chunks, self._offset = [b"".join((first, *self._chunks[1:]))], 0
        return memoryview(self._chunks[0])
