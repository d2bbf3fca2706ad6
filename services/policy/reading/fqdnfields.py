"""Reading DNS names and patterns, of peers (toFQDNs), of DNS rules and of TLS server names.

Canonical: lower case, no dot at the end, runs of stars as one, `*` for every name, a leading `**.` for one or
more whole labels. A pattern without a star is a name.
"""

from __future__ import annotations

import re
from typing import Final

from axoneme.lib.dnsnames import canonical_name
from services.policy.reading.document import Node
from services.policy.reading.fields import Fields
from services.policy.rules import FqdnPeer

MAX_LENGTH: Final = 255
_KEYS: Final = ("matchName", "matchPattern")
_NAME: Final = re.compile(r"[-A-Za-z0-9_]+(\.[-A-Za-z0-9_]+)*\.?")
_PATTERN: Final = re.compile(r"[-A-Za-z0-9_*]+(\.[-A-Za-z0-9_*]+)*\.?")


def read_fqdn(node: Node, fields: Fields) -> FqdnPeer | None:
    """An element of toFQDNs with exactly one of matchName and matchPattern."""
    present = fields.mapping(node, _KEYS)
    kind = fields.only_one(node, present, _KEYS)
    return None if kind is None else _read(kind, present[kind], fields)


def read_dns_rule(node: Node, fields: Fields) -> tuple[FqdnPeer, ...]:
    """An element of DNS rules with matchName, matchPattern or both, which are alternatives then."""
    present = fields.mapping(node, _KEYS)
    if not present:
        fields.only_one(node, present, _KEYS)
    read = (_read(kind, child, fields) for kind, child in present.items())
    return tuple(one for one in read if one is not None)


def _read(kind: str, node: Node, fields: Fields) -> FqdnPeer | None:
    text = read_name(node, fields) if kind == "matchName" else read_pattern(node, fields)
    return None if text is None else FqdnPeer(text=text, pattern="*" in text)


def read_name(node: Node, fields: Fields) -> str | None:
    """The canonical form of one name."""
    text = fields.text(node)
    if text is None or _valid(text, _NAME):
        return text if text is None else canonical_name(text)
    fix = "use matchPattern for wildcards" if "*" in text else _fix(text, "letters, digits, '-', '_' and '.'")
    fields.fault(node, f"{text[:80]!r} is not a DNS name", fix)
    return None


def read_pattern(node: Node, fields: Fields) -> str | None:
    """The canonical form of a pattern."""
    text = fields.text(node)
    if text is None or _valid(text, _PATTERN):
        return text if text is None else canonical_pattern(text)
    fix = _fix(text, "letters, digits, '-', '_', '.' and '*'")
    fields.fault(node, f"{text[:80]!r} is not a pattern of DNS names", fix)
    return None


def canonical_pattern(text: str) -> str:
    """Equal patterns of one meaning: `**` is kept only where it means whole labels."""
    lowered = canonical_name(text)
    if set(lowered) == {"*"}:
        return "*"
    lead, dot, rest = lowered.partition(".")
    whole_labels = "**." if dot and len(lead) > 1 and set(lead) == {"*"} else ""
    return whole_labels + re.sub(r"\*+", "*", rest if whole_labels else lowered)


def _valid(text: str, form: re.Pattern[str]) -> bool:
    return len(text) <= MAX_LENGTH and form.fullmatch(text) is not None


def _fix(text: str, characters: str) -> str:
    if len(text) > MAX_LENGTH:
        return f"at most {MAX_LENGTH} characters are accepted"
    return f"use {characters}, with no empty part between dots"
