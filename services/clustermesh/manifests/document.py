"""YAML or JSON text into trees of places that remember their lines, and reading them field by field.

The text is a user's own file; still aliases are refused, since expanding them is exponential. Bounds:
256 KiB, nesting of 20.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import yaml

from axoneme.lib.errors import FieldViolation, InvalidArgument

MAX_BYTES: Final = 256 * 1024
MAX_DEPTH: Final = 20

Scalar: TypeAlias = "str | int | float | bool | None"
Value: TypeAlias = "dict[str, Place] | list[Place] | Scalar"
Plain: TypeAlias = "dict[str, Plain] | list[Plain] | Scalar"


@dataclass(slots=True)
class Report:
    """What was found in a file: faults, which refuse it, and warnings."""

    faults: list[FieldViolation] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def fault(self, place: Place, reason: str) -> None:
        """A fault at a place."""
        self.faults.append(FieldViolation(place.path, f"line {place.line}: {reason}"))

    def warn(self, place: Place, reason: str) -> None:
        """Something that is left out or has no effect."""
        where = f"{place.path}: " if place.path else ""
        self.warnings.append(f"line {place.line}: {where}{reason}")

    def raise_if_any(self) -> None:
        """Raises InvalidArgument that names every fault."""
        if self.faults:
            first = self.faults[0]
            raise InvalidArgument(f"{first.field}: {first.description}", violations=self.faults)


@dataclass(frozen=True, slots=True)
class Place:
    """One value of a document, with its line and path."""

    value: Value
    line: int
    path: str = ""

    def plain(self) -> Plain:
        """The value without places."""
        if isinstance(self.value, dict):
            return {key: one.plain() for key, one in self.value.items()}
        if isinstance(self.value, list):
            return [one.plain() for one in self.value]
        return self.value


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of a mapping, read by name; what nobody asked for is warned about by `rest`."""

    place: Place
    report: Report
    asked: set[str] = field(default_factory=set)

    def place_of(self, name: str) -> Place | None:
        """The place of a field; None when it is absent or null."""
        self.asked.add(name)
        found = self.place.value.get(name) if isinstance(self.place.value, dict) else None
        return None if found is None or found.value is None else found

    def text(self, name: str, choices: Iterable[str] = (), default: str = "") -> str:
        """A text, one of `choices` when there are any."""
        place = self.place_of(name)
        if place is None:
            return default
        if not isinstance(place.value, str):
            self.report.fault(place, "must be a text; quote it")
        elif choices and place.value not in choices:
            self.report.fault(place, f"{place.value[:40]!r} is not known; use one of {', '.join(choices)}")
        else:
            return place.value
        return default

    def number(self, name: str) -> int:
        """A whole number; 0 when it is absent."""
        place = self.place_of(name)
        if place is None:
            return 0
        if (
            isinstance(place.value, bool)
            or not isinstance(place.value, int)
            or not 0 <= place.value < 1 << 31
        ):
            self.report.fault(place, "must be a whole number that is not negative")
            return 0
        return place.value

    def flag(self, name: str) -> bool | None:
        """True or false; None when it is absent."""
        place = self.place_of(name)
        if place is None or isinstance(place.value, bool):
            return None if place is None else bool(place.value)
        self.report.fault(place, "must be true or false")
        return None

    def items(self, name: str) -> list[Place]:
        """A list; empty when it is absent."""
        place = self.place_of(name)
        if place is None:
            return []
        if not isinstance(place.value, list):
            self.report.fault(place, "must be a list")
            return []
        return place.value

    def texts(self, name: str) -> list[str]:
        """A list of texts."""
        found = []
        for place in self.items(name):
            if isinstance(place.value, str):
                found.append(place.value)
            else:
                self.report.fault(place, "must be a text; quote it")
        return found

    def fields(self, name: str) -> Fields:
        """A mapping; an empty one when it is absent."""
        place = self.place_of(name)
        if place is not None and not isinstance(place.value, dict):
            self.report.fault(place, "must be a mapping")
            place = None
        return Fields(place or Place({}, self.place.line, join(self.place.path, name)), self.report)

    def words(self, name: str) -> dict[str, str]:
        """A mapping of texts, such as labels."""
        inner = self.fields(name)
        assert isinstance(inner.place.value, dict)
        return {key: inner.text(key) for key in inner.place.value}

    def rest(self, ignored: Iterable[str] = ()) -> Iterator[Place]:
        """Warns about fields that nobody asked for, save those that are known to mean nothing here."""
        assert isinstance(self.place.value, dict)
        known = self.asked.union(ignored)
        for name, place in self.place.value.items():
            if name not in known:
                yield place


def join(path: str, name: str) -> str:
    """Path of a field."""
    return f"{path}.{name}" if path else name


def read_documents(text: str) -> list[Place]:
    """All documents of a text; empty ones are left out. Raises InvalidArgument."""
    if len(text.encode(errors="surrogatepass")) > MAX_BYTES:
        raise InvalidArgument(f"the text exceeds {MAX_BYTES} bytes; split it")
    if text.lstrip()[:1] in ("{", "["):
        text = text.replace("\t", " ")  # JSON allows tabs between its tokens, YAML does not
    try:
        nodes = list(yaml.compose_all(text, Loader=yaml.CSafeLoader))
        seen: set[int] = set()
        places = [_place(node, "", 0, seen) for node in nodes if node is not None]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise _refused(line, f"not valid YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise _refused(1, f"not valid YAML: {str(error)[:200]}") from error
    return [place for place in places if place.value is not None]


def _place(node: yaml.Node, path: str, depth: int, seen: set[int]) -> Place:
    line = node.start_mark.line + 1
    if id(node) in seen:
        raise _refused(line, "an alias (*name) is not accepted; write the value out")
    if depth > MAX_DEPTH:
        raise _refused(line, f"nested deeper than {MAX_DEPTH} levels")
    seen.add(id(node))
    if not isinstance(node, yaml.ScalarNode) and node.tag.rpartition(":")[2] not in ("map", "seq"):
        raise _refused(line, f"the tag {node.tag[:80]} is not accepted; leave it out")
    if isinstance(node, yaml.MappingNode):
        return Place(_mapping(node, path, depth, seen), line, path)
    if isinstance(node, yaml.SequenceNode):
        items = [_place(one, f"{path}[{at}]", depth + 1, seen) for at, one in enumerate(node.value)]
        return Place(items, line, path)
    return Place(_scalar(node, line), line, path)


def _mapping(node: yaml.MappingNode, path: str, depth: int, seen: set[int]) -> dict[str, Place]:
    found: dict[str, Place] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode) or key.value == "<<":
            raise _refused(line, "a key must be a text")
        if key.value in found:
            raise _refused(
                line, f"the key {key.value[:40]!r} is repeated (first on line {found[key.value].line})"
            )
        found[key.value] = _place(value, join(path, key.value), depth + 1, seen)
    return found


def _scalar(node: yaml.Node, line: int) -> Scalar:
    kind = node.tag.rpartition(":")[2]
    text: str = node.value
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() in ("yes", "true", "on")
    if kind == "int" and ":" not in text and len(text) <= 20:
        plain = text.replace("_", "")
        octal = plain.lstrip("+-").startswith("0") and plain.lstrip("+-").isdecimal()
        return int(plain, 8 if octal else 0)
    if kind in ("str", "int", "float", "timestamp"):
        return text
    raise _refused(line, f"the tag {node.tag[:80]} is not accepted; leave it out")


def _refused(line: int, reason: str) -> InvalidArgument:
    return InvalidArgument(reason, violations=[FieldViolation("", f"line {line}: {reason}")])
