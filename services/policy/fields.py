"""Reading typed values out of document nodes; each wrong one becomes a fault, never an exception."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from services.policy.document import Node
from services.policy.faults import Fault, nearest

_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_NAMESPACE: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


class Fields:
    """Access to one document that collects faults."""

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = faults

    def fault(self, node: Node, reason: str, fix: str = "") -> None:
        """Note a fault at a node."""
        self.faults.append(node.fault(reason, fix))

    def unsupported(self, node: Node, fix: str = "") -> None:
        """Note that the node means something this version cannot enforce."""
        self.fault(node, f"not supported yet: {node.path}", fix or "remove it, or wait for a later version")

    def mapping(
        self,
        node: Node,
        supported: Collection[str],
        later: Collection[str] = (),
        ignored: Collection[str] = (),
    ) -> dict[str, Node]:
        """The supported keys that have a value (null reads as absent). Others are faults, save `ignored`."""
        if node.mapping is None:
            self.fault(node, f"expected a mapping, found {node.kind}")
            return {}
        for key, child in node.mapping.items():
            if key in supported or key in ignored:
                continue
            if key in later:
                if not child.null:
                    self.unsupported(_at_key(node, key, child))
            else:
                known = {*supported, *later, *ignored}
                self.fault(_at_key(node, key, child), f"unknown key {key!r}", nearest(key, known))
        return {key: child for key, child in node.mapping.items() if key in supported and not child.null}

    def items(self, node: Node) -> list[Node]:
        """The elements of a list; a null element is a fault."""
        if node.items is None:
            self.fault(node, f"expected a list, found {node.kind}", "start each element with '- '")
            return []
        for item in node.items:
            if item.null:
                self.fault(item, "a list element is null")
        return [item for item in node.items if not item.null]

    def text(self, node: Node, *, fix: str = "put it in quotes") -> str | None:
        """A text."""
        if isinstance(node.scalar, str):
            return node.scalar
        self.fault(node, f"expected a text, found {node.kind}", "" if node.mapping or node.items else fix)
        return None

    def whole_number(self, node: Node, low: int, high: int) -> int | None:
        """A number within bounds."""
        if type(node.scalar) is int and low <= node.scalar <= high:
            return node.scalar
        self.fault(node, f"expected a number from {low} to {high}")
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
