"""Names in messages: out of compressed bytes, and to and from text (RFC 1035 §3.1, §4.1.4, §5.1).

Wire form here: labels with their lengths, the final zero, letters in lower case. As text a name ends with a
dot; what is no plain character of a host name or could be misread is `\\DDD`.
"""

from __future__ import annotations

import re
from typing import Final

MAX_NAME: Final = 255  # bytes in wire form, lengths and final zero included
MAX_LABEL: Final = 63
MAX_POINTERS: Final = 126  # of one name: no name has more labels

_HEADER: Final = 12
# What needs no escape: printable, and of no meaning in zone files.
_PLAIN: Final = bytes(set(range(0x21, 0x7F)) - set(b'."\\();@$'))
_ESCAPES: Final = {byte: f"\\{byte:03d}" for byte in range(256) if byte not in _PLAIN}
_PARTS: Final = re.compile(r"\\(\d{3})|\\(\D)|(\.)|([^\\.]+)", re.ASCII)


class Malformed(ValueError):  # noqa: N818  named by the situation
    """Bytes that are no message or name."""


def read_name(message: bytes, at: int, memo: dict[int, bytes]) -> tuple[bytes, int]:
    """The name at an offset and the offset after it; pointers lead strictly backwards.

    `memo` (offset → name) keeps what pointers of this message led to: however the names of a message refer to
    each other, each place is read once. Raises Malformed, or IndexError where the message ends.
    """
    start, end = at, 0
    parts: list[bytes] = []
    targets: list[int] = []
    while length := message[at]:
        if length <= MAX_LABEL:
            at += length + 1
            if at - start >= MAX_NAME:
                raise Malformed("a name longer than 255 bytes")
            continue
        target = (length & 0x3F) << 8 | message[at + 1]
        if length < 0xC0 or not _HEADER <= target < start or len(targets) >= MAX_POINTERS:
            raise Malformed("a label of unknown kind, or a pointer that leads not backwards or too often")
        end = end or at + 2
        parts.append(message[start:at])
        targets.append(target)
        if target in memo:
            return _joined(parts, targets, memo, memo[target]), end
        start = at = target
    at += 1
    return _joined(parts, targets, memo, message[start:at].lower()), end or at


def _joined(parts: list[bytes], targets: list[int], memo: dict[int, bytes], name: bytes) -> bytes:
    for part, target in zip(reversed(parts), reversed(targets), strict=True):
        memo[target] = name
        name = part.lower() + name
        if len(name) > MAX_NAME:
            raise Malformed("a name longer than 255 bytes")
    return name


def skip_name(message: bytes, at: int) -> int:
    """The offset after a name that nobody needs. Raises Malformed, or IndexError where the message ends."""
    start = at
    while length := message[at]:
        if length >= 0xC0:
            return at + 2
        at += length + 1
        if length > MAX_LABEL or at - start >= MAX_NAME:
            raise Malformed("a label of unknown kind, or a name longer than 255 bytes")
    return at + 1


def text_of(name: bytes) -> str:
    """A name in wire form as text with the final dot; the root is `.`. Raises Malformed."""
    labels = labels_of(name)
    text = b".".join(labels)
    if not text.translate(None, _PLAIN + b".") and text.count(b".") == len(labels) - 1:
        return f"{text.decode('ascii')}."
    return "".join(f"{label.decode('latin-1').translate(_ESCAPES)}." for label in labels) or "."


def labels_of(name: bytes) -> list[bytes]:
    """The labels of a name in wire form, without the root. Raises Malformed."""
    labels, at = [], 0
    try:
        while length := name[at]:
            labels.append(name[at + 1 : at + 1 + length])
            at += length + 1
            if length > MAX_LABEL:
                raise Malformed("a label longer than 63 bytes")
    except IndexError:
        raise Malformed("a name without its end") from None
    if at + 1 != len(name) or at >= MAX_NAME:
        raise Malformed("a name with bytes after its end, or longer than 255 bytes")
    return labels


def wire_of(text: str) -> bytes:
    """Text, in any case, with or without the final dot, as wire form. Raises Malformed."""
    if "\\" not in text and text.isascii():
        labels = text.lower().removesuffix(".").encode("ascii").split(b".") if text != "." else []
    else:
        labels = _unescaped(text)
    name = b"".join(_with_length(label) for label in labels) + b"\x00"
    if len(name) > MAX_NAME:
        raise Malformed("a name longer than 255 bytes")
    return name


def _with_length(label: bytes) -> bytes:
    if not 0 < len(label) <= MAX_LABEL:
        raise Malformed("a label that is empty or longer than 63 bytes")
    return bytes((len(label),)) + label


def _unescaped(text: str) -> list[bytes]:
    labels, at = [b""], 0
    while at < len(text):
        match = _PARTS.match(text, at)
        if match is None:
            raise Malformed("a name that ends with a backslash")
        at = match.end()
        number, escaped, dot, plain = match.groups()
        if dot and at < len(text):
            labels.append(b"")
        elif not dot:
            labels[-1] += _bytes_of(number, escaped or plain)
    return [label.lower() for label in labels]


def _bytes_of(number: str | None, plain: str) -> bytes:
    if number is not None:
        if int(number) > 255:
            raise Malformed("an escape above 255")
        return bytes((int(number),))
    if not plain.isascii():
        raise Malformed("a character that is not ASCII; write \\DDD")
    return plain.encode("ascii")
