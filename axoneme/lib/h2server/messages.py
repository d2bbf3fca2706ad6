"""gRPC messages in a stream of bytes: one byte "compressed", four bytes length, the message. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from axoneme.lib.h2server.faults import CallFault

PREFIX_BYTES = 5
KNOWN_LENGTHS = 4_096
PREFIXES = [b"\0" + length.to_bytes(4, "big") for length in range(KNOWN_LENGTHS)]
"""Most messages are short; a look-up costs a third of packing."""


def prefix(length: int) -> bytes:
    """The five bytes before an uncompressed message."""
    return PREFIXES[length] if length < KNOWN_LENGTHS else b"\0" + length.to_bytes(4, "big")


def framed(messages: Sequence[bytes], most_bytes: int) -> bytes:
    """Messages with their prefixes, in one piece. Raises CallFault for one above `most_bytes`.

    No loop in Python: this is most of what a flow costs.
    """
    longest = max(map(len, messages), default=0)
    if longest > most_bytes:
        raise CallFault("RESOURCE_EXHAUSTED", f"Sent message larger than max ({longest} vs. {most_bytes})")
    look_up = PREFIXES.__getitem__ if longest < KNOWN_LENGTHS else prefix
    return b"".join(chain.from_iterable(zip(map(look_up, map(len, messages)), messages, strict=True)))


class MessageReader:
    """Cuts what arrives on one stream into messages."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._buffer = bytearray()

    def __len__(self) -> int:
        """Bytes that wait for the rest of their message."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """Complete messages. Raises CallFault for one that is compressed or too long, at its prefix."""
        buffer = self._buffer
        buffer += data
        messages, position = [], 0
        while len(buffer) - position >= PREFIX_BYTES:
            length = int.from_bytes(buffer[position + 1 : position + PREFIX_BYTES], "big")
            if buffer[position]:
                raise CallFault("INTERNAL", "compressed message on a call without compression")
            if length > self._most_bytes:
                raise CallFault(
                    "RESOURCE_EXHAUSTED",
                    f"Received message larger than max ({length} vs. {self._most_bytes})",
                )
            end = position + PREFIX_BYTES + length
            if len(buffer) < end:
                break
            messages.append(bytes(buffer[position + PREFIX_BYTES : end]))
            position = end
        del buffer[:position]
        return messages
