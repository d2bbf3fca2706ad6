"""Where the parts of policies stand in a text: the line of an object and of a path inside it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from services.policy.reading.document import Node, parse

_STEP: Final = re.compile(r"\.?([^.\[\]]+)|\[(\d+)\]")


class Places:
    """The objects of a text, in the order in which `objects.parse_objects` gives them."""

    def __init__(self, text: str) -> None:
        self._objects = [one for node in parse(text) for one in _objects(node)]

    def line(self, index: int, path: str = "") -> int:
        """The line of a path of an object, of the deepest part of it that is there."""
        if index >= len(self._objects):
            return 1
        node = self._objects[index]
        line = node.line
        for key, position in _STEP.findall(path.removeprefix(node.path).removeprefix(".")):
            if key and node.mapping is not None and key in node.mapping:
                line, node = node.key_lines.get(key, node.mapping[key].line), node.mapping[key]
            elif position and node.items is not None and int(position) < len(node.items):
                node = node.items[int(position)]
                line = node.line
            else:
                break
        return line


def _objects(node: Node) -> Iterator[Node]:
    """The objects of a document: the items of a list, else itself."""
    mapping = node.mapping or {}
    kind = mapping.get("kind")
    items = mapping.get("items")
    if kind is not None and str(kind.scalar).endswith("List") and items is not None:
        yield from items.items or ()
    else:
        yield node
