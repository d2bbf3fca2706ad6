"""YAML or JSON text into trees of nodes that remember their lines.

Built on the event stream of PyYAML's C parser, without its composer: aliases and anchors are refused
(expanding them is exponential), so are repeated keys, explicit tags, merge keys and keys that are no texts.
Bounds: 256 KiB, nesting of 20, 100 documents. The plain data of a node keeps the difference between absent,
null, [] and {}.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, TypeAlias

import yaml

from services.policy.reading.faults import Fault, InvalidPolicy

MAX_BYTES: Final = 256 * 1024
MAX_DEPTH: Final = 20
MAX_DOCUMENTS: Final = 100
_MEND: Final = "check quotes, colons and indentation before this place"
_NO_POLICY: Final = "no policy needs that; take levels out"

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
Scalar: TypeAlias = bool | int | float | str | None


@dataclass(slots=True, kw_only=True)
class Node:
    """One value of a document: a mapping, a list or a scalar, with its position."""

    document: int
    line: int
    path: str = ""
    mapping: dict[str, Node] | None = None
    items: list[Node] | None = None
    scalar: Scalar = None
    key_lines: dict[str, int] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """What the value is, in words."""
        if self.mapping is not None:
            return "a mapping"
        if self.items is not None:
            return "a list"
        names = {bool: "a boolean", int: "a number", float: "a number", str: "a text"}
        return names.get(type(self.scalar), "null")

    @property
    def null(self) -> bool:
        """Whether the value is null, which reads as if its key were absent."""
        return self.mapping is None and self.items is None and self.scalar is None

    def plain(self) -> Json:
        """The value without positions."""
        if self.mapping is not None:
            return {key: value.plain() for key, value in self.mapping.items()}
        if self.items is not None:
            return [item.plain() for item in self.items]
        return self.scalar

    def fault(self, reason: str, fix: str = "") -> Fault:
        """A fault at this value."""
        return Fault(self.document, self.line, self.path, reason, fix)


def parse(text: str) -> list[Node]:
    """Read all documents of a text; empty ones are left out. Raises InvalidPolicy."""
    if len(text.encode(errors="surrogatepass")) > MAX_BYTES:
        raise InvalidPolicy.of_faults([Fault(0, 1, "", f"the text exceeds {MAX_BYTES} bytes", "split it")])
    if text.lstrip()[:1] in ("{", "["):
        # JSON allows tabs between its tokens, YAML does not; within JSON strings a raw tab is invalid anyhow.
        text = text.replace("\t", " ")
    reader = _Reader()
    try:
        for event in yaml.parse(text, Loader=yaml.CSafeLoader):
            reader.feed(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        problem = error.problem or error.context or "not valid YAML"
        raise InvalidPolicy.of_faults(
            [Fault(reader.document, line, "", f"not valid YAML: {problem}", _MEND)]
        ) from error
    except (yaml.YAMLError, UnicodeError) as error:
        reason = f"not valid YAML: {str(error)[:200]}"
        raise InvalidPolicy.of_faults([Fault(max(reader.document, 0), 1, "", reason, _MEND)]) from error
    if reader.faults:
        raise InvalidPolicy.of_faults(reader.faults)
    return [node for node in reader.documents if not node.null]


class _Reader:
    """Builds trees from parser events."""

    def __init__(self) -> None:
        self.documents: list[Node] = []
        self.faults: list[Fault] = []
        self.document = -1
        self._stack: list[Node] = []
        self._keys: list[str | None] = []

    def feed(self, event: yaml.Event) -> None:
        """Take one event. Raises InvalidPolicy for what makes going on pointless."""
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.DocumentStartEvent):
            self._start_document(line)
        elif isinstance(event, yaml.AliasEvent):
            self._refuse_anchor(line, "an alias (*name)")
        elif isinstance(event, yaml.NodeEvent):
            self._start_node(event, line)
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            self._stack.pop()
            self._keys.pop()

    def _start_document(self, line: int) -> None:
        self.document += 1
        if self.document >= MAX_DOCUMENTS:
            self._stop(line, f"more than {MAX_DOCUMENTS} documents", "apply them in several steps")

    def _refuse_anchor(self, line: int, what: str) -> None:
        self._stop(line, f"{what} is not accepted", "write the value out")

    def _stop(self, line: int, reason: str, fix: str) -> None:
        raise InvalidPolicy.of_faults([*self.faults, Fault(self.document, line, self._path(), reason, fix)])

    def _start_node(self, event: yaml.NodeEvent, line: int) -> None:
        if event.anchor is not None:
            self._refuse_anchor(line, "an anchor (&name)")
        if len(self._stack) >= MAX_DEPTH:
            self._stop(line, f"nested deeper than {MAX_DEPTH} levels", _NO_POLICY)
        if self._awaits_key():
            self._take_key(event, line)
            return
        node = Node(document=self.document, line=line, path=self._path())
        self._attach(node)
        if isinstance(event, yaml.ScalarEvent):
            self._set_scalar(node, event)
            return
        if getattr(event, "tag", None) is not None:
            self.faults.append(node.fault("an explicit tag is not accepted", "leave it out"))
        if isinstance(event, yaml.MappingStartEvent):
            node.mapping = {}
        else:
            node.items = []
        self._stack.append(node)
        self._keys.append(None)

    def _awaits_key(self) -> bool:
        return bool(self._stack) and self._stack[-1].mapping is not None and self._keys[-1] is None

    def _take_key(self, event: yaml.NodeEvent, line: int) -> None:
        if not isinstance(event, yaml.ScalarEvent):
            self._stop(line, "a key is a list or a mapping", "keys must be texts")
            return
        parent = self._stack[-1]
        key: str = event.value
        if key == "<<" and event.implicit[0]:
            self._stop(line, "a merge key (<<) is not accepted", "write the keys out")
        if parent.mapping is not None and key in parent.mapping:
            reason = f"the key {key!r} is repeated (first on line {parent.key_lines[key]})"
            path = f"{parent.path}.{key}" if parent.path else key
            self.faults.append(Fault(self.document, line, path, reason, "keep one"))
        self._keys[-1] = key
        parent.key_lines.setdefault(key, line)

    def _attach(self, node: Node) -> None:
        if not self._stack:
            self.documents.append(node)
            return
        parent, key = self._stack[-1], self._keys[-1]
        if parent.items is not None:
            parent.items.append(node)
        elif parent.mapping is not None and key is not None:
            parent.mapping.setdefault(key, node)
            self._keys[-1] = None

    def _path(self) -> str:
        if not self._stack:
            return ""
        parent, key = self._stack[-1], self._keys[-1]
        if parent.items is not None:
            return f"{parent.path}[{len(parent.items)}]"
        if key is None:
            return parent.path
        return f"{parent.path}.{key}" if parent.path else key

    def _set_scalar(self, node: Node, event: yaml.ScalarEvent) -> None:
        tag = event.tag
        if tag is not None and tag != "!":
            self.faults.append(node.fault(f"the tag {tag} is not accepted", "leave it out"))
        elif not event.implicit[0] or tag == "!":
            node.scalar = event.value
            return
        try:
            node.scalar = plain_scalar(event.value)
        except ValueError:
            self.faults.append(node.fault(f"{event.value[:40]!r} is not a number", "quote it"))


_RESOLVER: Final = yaml.resolver.Resolver()
_INTEGER_DIGITS: Final = 20


def plain_scalar(text: str) -> Scalar:
    """Value of an unquoted scalar by the rules of YAML 1.1, as kubectl reads it; dates stay texts."""
    tag = str(_RESOLVER.resolve(yaml.ScalarNode, text, (True, False))).rpartition(":")[2]  # type: ignore[no-untyped-call]
    if tag == "null":
        return None
    if tag == "bool":
        return text.lower() in ("yes", "true", "on")
    if tag == "int" and ":" not in text:
        if len(text) > _INTEGER_DIGITS:
            raise ValueError(text)
        plain = text.replace("_", "")
        octal = plain.lstrip("+-").startswith("0") and plain.lstrip("+-").isdecimal()
        return int(plain, 8 if octal else 0)
    if tag == "float" and ":" not in text:
        return _float(text)
    return text


def _float(text: str) -> Scalar:
    try:
        return float(text.replace("_", ""))
    except ValueError:
        return text  # .inf and .nan have no place in a policy


def from_plain(value: object, path: str = "", depth: int = 0) -> Node:
    """A tree over data that is already decoded; every position is line 1. Raises InvalidPolicy."""
    if depth > MAX_DEPTH:
        raise InvalidPolicy.of_faults(
            [Fault(0, 1, path, f"nested deeper than {MAX_DEPTH} levels", _NO_POLICY)]
        )
    node = Node(document=0, line=1, path=path)
    if isinstance(value, dict):
        node.mapping = {
            str(key): from_plain(child, f"{path}.{key}" if path else str(key), depth + 1)
            for key, child in value.items()
        }
    elif isinstance(value, list):
        node.items = [from_plain(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(value)]
    elif value is None or isinstance(value, (str, int, float)):
        node.scalar = value
    else:
        raise TypeError(f"{type(value).__name__} is not JSON data")
    return node
