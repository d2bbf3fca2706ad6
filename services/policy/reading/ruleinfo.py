"""Reading what a rule says about itself: description, labels, log. Checked and stored; it selects nothing."""

from __future__ import annotations

from typing import Final

from services.policy.reading.document import Node
from services.policy.reading.fields import Fields

KEYS: Final = ("description", "labels", "log")
_MAX_LOG: Final = 32


def check_info(present: dict[str, Node], fields: Fields) -> None:
    """Check these keys of a rule."""
    if "description" in present:
        fields.text(present["description"])
    if "labels" in present:
        for item in fields.items(present["labels"]):
            _check_label(item, fields)
    if "log" in present:
        _check_log(present["log"], fields)


def _check_label(node: Node, fields: Fields) -> None:
    """A text `source:key=value`, or its three parts."""
    if node.mapping is None:
        fields.text(node, fix="write source:key=value")
        return
    present = fields.mapping(node, ("key", "value", "source"))
    if "key" not in present:
        fields.fault(node, "the label has no key", "give it a key")
    for child in present.values():
        fields.text(child)


def _check_log(node: Node, fields: Fields) -> None:
    present = fields.mapping(node, ("value",))
    text = fields.text(present["value"]) if "value" in present else ""
    if text and (len(text) > _MAX_LOG or not text.isprintable()):
        fix = f"use at most {_MAX_LOG} printable characters"
        fields.fault(present["value"], f"{text[:80]!r} cannot be logged", fix)
