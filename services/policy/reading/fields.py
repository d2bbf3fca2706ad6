"""Reading typed values out of document nodes; each wrong one becomes a fault, never an exception."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Final

from services.policy.reading.document import Node
from services.policy.reading.faults import Fault, nearest

_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_NAMESPACE: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")

NOTHING_REFUSED: Final[Mapping[str, tuple[str, str]]] = MappingProxyType({})


class Fields:
    """Access to one document that collects faults."""

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = faults

    def fault(self, node: Node, reason: str, fix: str = "") -> None:
        """Note a fault at a node."""
        self.faults.append(node.fault(reason, fix))

    def mapping(
        self,
        node: Node,
        supported: Collection[str],
        *,
        refused: Mapping[str, tuple[str, str]] = NOTHING_REFUSED,
        ignored: Collection[str] = (),
    ) -> dict[str, Node]:
        """The supported keys that have a value (null reads as absent).

        Others are faults, save `ignored`; `refused` gives reason and fix for keys with a meaning elsewhere.
        """
        if node.mapping is None:
            self.fault(node, f"expected a mapping, found {node.kind}", "write `key: value`")
            return {}
        for key, child in node.mapping.items():
            if key in supported or key in ignored:
                continue
            if key not in refused:
                known = {*supported, *ignored}
                self.fault(_at_key(node, key, child), f"unknown key {key[:80]!r}", nearest(key, known))
            elif not child.null:
                self.fault(_at_key(node, key, child), *refused[key])
        return {key: child for key, child in node.mapping.items() if key in supported and not child.null}

    def items(self, node: Node) -> list[Node]:
        """The elements of a list; a null element is a fault."""
        if node.items is None:
            self.fault(node, f"expected a list, found {node.kind}", "start each element with '- '")
            return []
        for item in node.items:
            if item.null:
                self.fault(item, "a list element is null", "remove it, or write {} for an empty one")
        return [item for item in node.items if not item.null]

    def text(self, node: Node, *, fix: str = "put it in quotes") -> str | None:
        """A text."""
        if isinstance(node.scalar, str):
            return node.scalar
        structured = node.mapping is not None or node.items is not None
        self.fault(node, f"expected a text, found {node.kind}", "write one text" if structured else fix)
        return None

    def boolean(self, node: Node) -> bool | None:
        """True or false."""
        if isinstance(node.scalar, bool):
            return node.scalar
        self.fault(node, f"expected true or false, found {node.kind}", "write it without quotes")
        return None

    def choice(self, node: Node, what: str, known: Collection[str]) -> str | None:
        """One of a few words, spelled exactly."""
        text = self.text(node)
        if text is None or text in known:
            return text
        self.fault(node, f"unknown {what} {text[:40]!r}", nearest(text, known))
        return None

    def only_one(self, node: Node, present: Mapping[str, Node], keys: Collection[str]) -> str | None:
        """The one of several keys that is there; none or several are a fault."""
        found = [key for key in keys if key in present]
        if len(found) == 1:
            return found[0]
        if found:
            self.fault(present[found[1]], f"{found[0]} and {found[1]} exclude each other", "keep one of them")
        elif node.mapping is not None and all(
            key in present or child.null for key, child in node.mapping.items()
        ):
            # An unknown key, which may be a misspelt one of these, is a fault already; null says nothing.
            self.fault(node, "the element says nothing", f"give it one of {', '.join(keys)}")
        return None

    def whole_number(self, node: Node, low: int, high: int) -> int | None:
        """A number within bounds."""
        if type(node.scalar) is int and low <= node.scalar <= high:
            return node.scalar
        self.fault(node, f"expected a number from {low} to {high}", "write digits without quotes")
        return None

    def name(self, node: Node) -> str | None:
        """The name of an object: a DNS subdomain."""
        text = self.text(node)
        if text is not None and (len(text) > 253 or not _NAME.fullmatch(text)):
            self.fault(
                node, f"{text[:80]!r} is not a valid name", "use lower-case letters, digits, '-' and '.'"
            )
            return None
        return text

    def namespace(self, node: Node) -> str | None:
        """The name of a namespace: a DNS label."""
        text = self.text(node)
        if text is not None and not valid_namespace(text):
            self.fault(
                node, f"{text[:80]!r} is not a valid namespace", "use lower-case letters, digits and '-'"
            )
            return None
        return text


def valid_namespace(text: str) -> bool:
    """Whether a text may name a namespace."""
    return len(text) <= 63 and _NAMESPACE.fullmatch(text) is not None


def _at_key(parent: Node, key: str, child: Node) -> Node:
    """The child, positioned where its key stands (a block value starts on the line after it)."""
    return Node(document=child.document, line=parent.key_lines.get(key, child.line), path=child.path)
