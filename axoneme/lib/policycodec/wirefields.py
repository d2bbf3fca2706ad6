"""Length-delimited fields put together by hand, so that serialised parts are shared instead of built again.

A message is the concatenation of its fields; each field is a tag, a length and bytes. Only messages whose
bytes are nowhere compared, or whose fields are added in the order of their numbers, are made this way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from google.protobuf.message import Message

_LENGTH_DELIMITED: Final = 2
_SEVEN_BITS: Final = 0x7F
_MORE: Final = 0x80


def varint(number: int) -> bytes:
    """A number that is not negative, seven bits a byte, the lowest first."""
    if number <= _SEVEN_BITS:
        return bytes((number,))
    found = bytearray()
    while number > _SEVEN_BITS:
        found.append(number & _SEVEN_BITS | _MORE)
        number >>= 7
    found.append(number)
    return bytes(found)


def tag_of(message: type[Message], name: str) -> bytes:
    """What stands before the length of a message, text or bytes field of a message."""
    return varint(message.DESCRIPTOR.fields_by_name[name].number << 3 | _LENGTH_DELIMITED)


def field_of(message: type[Message], name: str) -> Callable[[bytes], bytes]:
    """What writes one value of a message, text or bytes field of a message."""
    tag = tag_of(message, name)

    def write(raw: bytes) -> bytes:
        return tag + varint(len(raw)) + raw

    return write


def repeated(write: Callable[[bytes], bytes], values: Iterable[bytes]) -> bytes:
    """All values of a repeated field."""
    return b"".join(map(write, values))
