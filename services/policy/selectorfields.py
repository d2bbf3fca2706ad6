"""Reading matchLabels and matchExpressions."""

from __future__ import annotations

import re
from typing import Final

from services.policy.document import Node
from services.policy.faults import nearest
from services.policy.fields import Fields
from services.policy.selectors import LabelSelector, Operator, Requirement, names_namespace

_VALUE: Final = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
_KEY: Final = re.compile(r"\$?[A-Za-z0-9]([-A-Za-z0-9_./:]*[A-Za-z0-9])?")
_MAX_VALUE: Final = 63
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


def _labels(node: Node, fields: Fields, subject: bool) -> list[Requirement]:
    if node.mapping is None:
        fields.fault(node, f"expected a mapping of labels, found {node.kind}")
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
            fields.fault(node, f"the expression has no {needed}")
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
    text = fields.text(node)
    if text is None:
        return None
    try:
        return Operator(text)
    except ValueError:
        fields.fault(node, f"unknown operator {text[:40]!r}", nearest(text, list(Operator)))
        return None


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
