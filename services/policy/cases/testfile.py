"""Files of `axoneme policy test`: YAML or JSON, in either of two formats, told apart by their keys.

    text ──> one case, a list of cases, or {cases: [...]}, in any number of documents ──> Case

A case with `endpoints` and `flows` names single flows (`testflows` reads it), one with `pods` and `expected`
holds matrices over all pods (`testmatrix`). Unknown keys are faults with their path, as everywhere. Pure.
"""

from __future__ import annotations

import json
from typing import Final

from services.policy.cases.testcase import Case
from services.policy.cases.testflows import FLOW_KEYS, read_flow_case
from services.policy.cases.testmatrix import MATRIX_KEYS, read_matrix_case
from services.policy.reading.document import Node, from_plain, parse
from services.policy.reading.faults import Fault, InvalidPolicy
from services.policy.reading.fields import Fields

_FILE_KEYS: Final = ("cases",)
_FILE_REMARKS: Final = ("meta", "description")


def read_cases(text: str) -> list[Case]:
    """All cases of a text, in its order. Raises InvalidPolicy with every fault."""
    faults: list[Fault] = []
    fields = Fields(faults)
    cases: list[Case] = []
    for node in _documents(text):
        for one in _case_nodes(node, fields):
            case = _read_case(one, f"case {len(cases) + 1}", fields)
            if case is not None:
                cases.append(case)
    if not faults and not cases:
        faults.append(Fault(0, 1, "", "the text holds no case", "write endpoints, policies and flows"))
    if faults:
        raise InvalidPolicy.of_faults(faults)
    return cases


def _documents(text: str) -> list[Node]:
    """The trees of a text. JSON may be large and is read at once; YAML is read with its lines."""
    if text.lstrip()[:1] not in ("{", "["):
        return parse(text)
    try:
        plain = json.loads(text, object_pairs_hook=_without_repetition)
    except (ValueError, RecursionError) as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else 1
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise InvalidPolicy.of_faults([Fault(0, line, "", f"not valid JSON: {reason}")]) from error
    return [from_plain(plain)]


def _without_repetition(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        repeated = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {repeated!r} is repeated; keep one")
    return found


def _case_nodes(node: Node, fields: Fields) -> list[Node]:
    if node.items is not None:
        return fields.items(node)
    if node.mapping is not None and "cases" in node.mapping:
        found = fields.mapping(node, _FILE_KEYS, ignored=_FILE_REMARKS)
        return fields.items(found["cases"]) if "cases" in found else []
    return [node]


def _read_case(node: Node, default_name: str, fields: Fields) -> Case | None:
    if node.mapping is None:
        fields.fault(node, f"expected a case, found {node.kind}", "write endpoints, policies and flows")
        return None
    if node.mapping.keys() & FLOW_KEYS:
        return read_flow_case(node, default_name, fields)
    if node.mapping.keys() & MATRIX_KEYS:
        return read_matrix_case(node, default_name, fields)
    fields.fault(node, "neither flows nor a matrix", "write endpoints and flows, or pods and expected")
    return None
