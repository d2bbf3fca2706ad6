"""Reading matchLabels and matchExpressions, of endpoints and of nodes."""

from __future__ import annotations

import re
from typing import Final

from axoneme.lib.labels import RESERVED
from axoneme.lib.selectors import ANY, LabelSelector, Operator, Requirement
from services.policy.reading.document import Node
from services.policy.reading.fields import Fields
from services.policy.scope import names_namespace

_VALUE: Final = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
_KEY: Final = re.compile(r"\$?[A-Za-z0-9]([-A-Za-z0-9_./:]*[A-Za-z0-9])?")
_MAX_VALUE: Final = 63
NODE: Final = "node"
_MAX_KEY: Final = 330


def read_selector(node: Node | None, fields: Fields, *, subject: bool = False) -> LabelSelector:
    """The selector as written, without a scope; `subject` leaves out a namespace among the labels."""
    if node is None:
        return LabelSelector()
    present = fields.mapping(node, ("matchLabels", "matchExpressions"))
    requirements = _labels(present["matchLabels"], fields, subject) if "matchLabels" in present else []
    if "matchExpressions" in present:
        read = [_expression(item, fields) for item in fields.items(present["matchExpressions"])]
        requirements += [requirement for requirement in read if requirement is not None]
    return LabelSelector.of(*requirements)


def read_node_selector(node: Node, fields: Fields) -> LabelSelector:
    """A selector of nodes: keys are node labels, which have the source `node`, or reserved ones."""
    written = read_selector(node, fields)
    for one in written.requirements:
        if one.source not in (ANY, NODE, RESERVED):
            fix = f"write {one.key} without a source"
            fields.fault(node, f"{one.source}:{one.key} is not a label of nodes", fix)
    return LabelSelector.of(
        *(
            Requirement(NODE, one.key, one.operator, one.values) if one.source == ANY else one
            for one in written.requirements
        )
    )


def _labels(node: Node, fields: Fields, subject: bool) -> list[Requirement]:
    if node.mapping is None:
        fields.fault(node, f"expected a mapping of labels, found {node.kind}", "write `key: value`")
        return []
    requirements = []
    for key, child in node.mapping.items():
        value = "" if child.null else _value(child, fields)
        valid = _valid_key(key, child, fields)
        if value is not None and valid and not (subject and names_namespace(key)):
            requirements.append(Requirement.of(key, Operator.IN, (value,)))
    return requirements


def _expression(node: Node, fields: Fields) -> Requirement | None:
    present = fields.mapping(node, ("key", "operator", "values"))
    for needed in ("key", "operator"):
        if needed not in present:
            fields.fault(node, f"the expression has no {needed}", f"give it a {needed}")
    if "key" not in present or "operator" not in present:
        return None
    key, operator = fields.text(present["key"]), _operator(present["operator"], fields)
    values = [_value(item, fields) for item in fields.items(present["values"])] if "values" in present else []
    if key is None or operator is None or not _valid_key(key, present["key"], fields):
        return None
    wants_values = operator in (Operator.IN, Operator.NOT_IN)
    if wants_values != bool(values):
        fix = "give it at least one value" if wants_values else "remove `values`"
        fields.fault(node, f"operator {operator} {'without' if wants_values else 'with'} values", fix)
        return None
    return Requirement.of(key, operator, tuple(value for value in values if value is not None))


def _operator(node: Node, fields: Fields) -> Operator | None:
    text = fields.choice(node, "operator", list(Operator))
    return None if text is None else Operator(text)


def _value(node: Node, fields: Fields) -> str | None:
    text = fields.text(node)
    if text is not None and (len(text) > _MAX_VALUE or not _VALUE.fullmatch(text)):
        fields.fault(node, f"{text[:80]!r} is not a valid label value", "use at most 63 of [A-Za-z0-9_.-]")
        return None
    return text


def _valid_key(key: str, node: Node, fields: Fields) -> bool:
    if len(key) <= _MAX_KEY and _KEY.fullmatch(key):
        return True
    fields.fault(node, f"{key[:80]!r} is not a valid label key", "write key, source:key or $key")
    return False
