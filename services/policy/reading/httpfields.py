"""Reading HTTP rules: method, path and host as regular expressions, headers as texts."""

from __future__ import annotations

import re
from typing import Final

from services.policy.reading.context import Reading
from services.policy.reading.document import Node
from services.policy.reading.fields import Fields
from services.policy.reading.regexes import problem_of
from services.policy.reading.tlsfields import read_secret
from services.policy.rules import HeaderMatch, HttpRule

_TOKEN: Final = re.compile(r"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
_MISMATCHES: Final = ("LOG", "ADD", "DELETE", "REPLACE")


def read_http(node: Node, reading: Reading) -> HttpRule:
    """One rule of `http`; an empty one lets every request through."""
    fields = reading.fields
    present = fields.mapping(node, ("method", "path", "host", "headers", "headerMatches"))
    texts = {key: _expression(present[key], fields) for key in ("method", "path", "host") if key in present}
    headers = {_header(item, fields) for item in _items(present, "headers", fields)}
    matches = {_match(item, reading) for item in _items(present, "headerMatches", fields)}
    return HttpRule(
        method=texts.get("method", ""),
        path=texts.get("path", ""),
        host=texts.get("host", ""),
        headers=tuple(sorted(header for header in headers if header)),
        header_matches=tuple(sorted(match for match in matches if match)),
    )


def _items(present: dict[str, Node], key: str, fields: Fields) -> list[Node]:
    return fields.items(present[key]) if key in present else []


def _expression(node: Node, fields: Fields) -> str:
    text = fields.text(node) or ""
    problem = problem_of(text)
    if problem:
        fields.fault(node, f"not a regular expression: {problem}", "use RE2 syntax, without look-around")
    return text


def _header(node: Node, fields: Fields) -> str | None:
    """`Name`, or `Name: value` with one space."""
    text = fields.text(node)
    if text is None:
        return None
    name, colon, value = text.partition(":")
    if not _TOKEN.fullmatch(name) or (colon and not value.strip()) or not text.isprintable():
        fields.fault(node, f"{text[:80]!r} is not a header", "write `Name` or `Name: value`")
        return None
    return f"{name}: {value.strip()}" if colon else name


def _match(node: Node, reading: Reading) -> HeaderMatch | None:
    fields = reading.fields
    present = fields.mapping(node, ("name", "value", "secret", "mismatch"))
    name = _header_name(node, present, fields)
    value = fields.text(present["value"]) if "value" in present else ""
    secret = read_secret(present["secret"], reading) if "secret" in present else None
    mismatch = fields.choice(present["mismatch"], "mismatch", _MISMATCHES) if "mismatch" in present else ""
    if name is None:
        return None
    where = "/".join(secret) if secret else ""
    return HeaderMatch(name=name, value=value or "", secret=where, mismatch=mismatch or "")


def _header_name(node: Node, present: dict[str, Node], fields: Fields) -> str | None:
    if "name" not in present:
        if node.mapping is not None:
            fields.fault(node, "the header match has no name", "give it a name")
        return None
    name = fields.text(present["name"])
    if name is not None and not _TOKEN.fullmatch(name):
        fields.fault(
            present["name"], f"{name[:80]!r} is not the name of a header", "use letters, digits and '-'"
        )
        return None
    return name
