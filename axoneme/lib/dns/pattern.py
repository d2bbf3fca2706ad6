"""A pattern of DNS names in parts: what stars stand for, and the labels after the last star.

    text               kind       wild           tail (wire form)
    www.x.com          EXACT      ()             \\3www\\1x\\3com\\0
    *                  EVERY      ()             \\0
    *.x.com            ONE_LABEL  ("*",)         \\1x\\3com\\0
    **.x.com           ANY_LABELS ()             \\1x\\3com\\0
    a*.b.*c.x.com      LEFTOVER   ("a*","b","*c") \\1x\\3com\\0
    **.a*.x.com        LEFTOVER   ("a*",)        \\1x\\3com\\0     below: True

Rules are those of `axoneme.lib.dnsnames`: a star is zero or more of `[-a-z0-9_]` inside a label, a leading
`**.` one or more labels of them.
"""

from __future__ import annotations

import functools
import re
from enum import Enum
from typing import Final, NamedTuple

from axoneme.lib.dns.names import MAX_LABEL, Malformed, wire_of
from axoneme.lib.dnsnames import canonical_name
from axoneme.lib.policy.model import FqdnDefinition

_STARS: Final = re.compile(r"\*+")


class Kind(Enum):
    """How a definition is looked up."""

    EXACT = 1
    EVERY = 2
    ONE_LABEL = 3
    ANY_LABELS = 4
    LEFTOVER = 5


class PatternParts(NamedTuple):
    """See the table above. `below`: one or more labels come before `wild`."""

    kind: Kind
    wild: tuple[str, ...]
    tail: bytes
    below: bool = False


@functools.lru_cache(maxsize=16_384)
def parts_of(definition: FqdnDefinition) -> PatternParts | None:
    """The parts of a name or pattern; None for one that no name can match."""
    text = canonical_name(definition.text)
    try:
        return _parts(text) if definition.pattern else PatternParts(Kind.EXACT, (), wire_of(text or "."))
    except Malformed:
        return None


def _parts(text: str) -> PatternParts:
    if text == "*":
        return PatternParts(Kind.EVERY, (), b"\x00")
    below = text.startswith("**.")
    labels = _STARS.sub("*", text[3:] if below else text).split(".")
    count = max((n for n, label in enumerate(labels, 1) if "*" in label), default=0)
    wild = tuple(labels[:count])
    tail = wire_of(".".join(labels[count:]) or ".")
    if not all(map(_possible, wild)):
        raise Malformed("an empty label between stars, or one that is too long")
    if not wild:
        return PatternParts(Kind.ANY_LABELS if below else Kind.EXACT, (), tail)
    one = wild == ("*",) and not below and len(labels) > 1
    return PatternParts(Kind.ONE_LABEL if one else Kind.LEFTOVER, wild, tail, below)


def _possible(label: str) -> bool:
    return bool(label) and len(label) - label.count("*") <= MAX_LABEL
