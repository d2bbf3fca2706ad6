"""Label selectors of flow filters: Kubernetes' selector language over labels with a source.

`app=web,!test,tier in (a,b)` reads as a conjunction. A key may name its source (`k8s:app`); without one, or
with `any:`, every source matches. Pure text work: no protobuf, no I/O.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from axoneme.lib.errors import InvalidArgument

_SET: Final = re.compile(r"^(?P<key>\S+)\s+(?P<operator>in|notin)\s*\((?P<values>[^()]*)\)$")
_KEY: Final = re.compile(r"^[A-Za-z0-9]([-A-Za-z0-9_./:\[\]]*[A-Za-z0-9\]])?$")
Labels = Mapping[str, frozenset[str]]
"""Values by key, each key once as `source:key` and once as `any:key`."""


@dataclass(frozen=True, slots=True)
class _Requirement:
    key: str
    operator: str
    values: frozenset[str] = frozenset()

    def holds(self, labels: Labels) -> bool:
        found = labels.get(self.key)
        if self.operator == "exists":
            return found is not None
        if self.operator == "absent":
            return found is None
        matched = found is not None and not found.isdisjoint(self.values)
        return matched if self.operator == "in" else not matched


def index_labels(texts: Iterable[str]) -> Labels:
    """Prepare labels of the form `source:key=value` for matching."""
    collected: dict[str, set[str]] = {}
    for text in texts:
        name, _, value = text.partition("=")
        source, colon, key = name.partition(":")
        if not colon:
            source, key = "", name
        for spelled in (f"{source}:{key}", f"any:{key}"):
            collected.setdefault(spelled, set()).add(value)
    return {key: frozenset(values) for key, values in collected.items()}


def parse_selector(text: str, field: str) -> Callable[[Labels], bool]:
    """Compile a selector. Raises InvalidArgument that names `field`."""
    requirements = [_requirement(part.strip(), field) for part in _split(text)]
    if not requirements:
        raise InvalidArgument.of_field(field, "is empty; use key=value, key, !key or key in (a,b)")
    return lambda labels: all(requirement.holds(labels) for requirement in requirements)


def _split(text: str) -> list[str]:
    """Split at commas outside parentheses; an empty text gives no parts."""
    parts, depth, current = [], 0, ""
    for character in text:
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            parts.append(current)
            current = ""
        else:
            current += character
    return [*parts, current] if text.strip() else []


def _requirement(part: str, field: str) -> _Requirement:
    if match := _SET.match(part):
        values = frozenset(value.strip() for value in match["values"].split(","))
        return _Requirement(_key(match["key"], part, field), match["operator"], values)
    if part.startswith("!"):
        return _Requirement(_key(part[1:].strip(), part, field), "absent")
    for sign, operator in (("!=", "notin"), ("==", "in"), ("=", "in")):
        key, found, value = part.partition(sign)
        if found:
            return _Requirement(_key(key.strip(), part, field), operator, frozenset({value.strip()}))
    return _Requirement(_key(part, part, field), "exists")


def _key(key: str, part: str, field: str) -> str:
    if not _KEY.match(key):
        raise InvalidArgument.of_field(field, f"{part!r} is not key=value, key, !key or key in (a,b)")
    source, colon, rest = key.partition(":")
    return f"{source}:{rest}" if colon else f"any:{key}"
