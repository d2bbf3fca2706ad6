"""Reading references to groups of a cloud provider (toGroups, fromGroups)."""

from __future__ import annotations

import json
from typing import Final

from services.policy.reading.document import Json, Node
from services.policy.reading.fields import Fields

_AWS: Final = ("labels", "region", "securityGroupsIds", "securityGroupsNames")


def read_group(node: Node, fields: Fields) -> str | None:
    """The canonical text of a reference; equal texts are the same group."""
    before = len(fields.faults)
    present = fields.mapping(node, ("aws",))
    if fields.only_one(node, present, ("aws",)) is None:
        return None
    aws = fields.mapping(present["aws"], _AWS)
    if not aws and present["aws"].mapping is not None:
        fields.fault(present["aws"], "the group names nothing", f"give it one of {', '.join(_AWS)}")
    for key, child in aws.items():
        _check(key, child, fields)
    return canonical_group(node.plain()) if len(fields.faults) == before else None


def canonical_group(reference: Json) -> str:
    """The text under which a reference is known: keys and lists sorted, no spaces, null left out."""
    return json.dumps(_sorted(reference), sort_keys=True, separators=(",", ":"))


def _sorted(value: Json) -> Json:
    if isinstance(value, dict):
        return {key: _sorted(child) for key, child in value.items() if child is not None}
    if isinstance(value, list):
        # Lists of a reference are sets of names.
        names = {item for item in value if isinstance(item, str)}
        return [*sorted(names)]
    return value


def _check(key: str, node: Node, fields: Fields) -> None:
    if key == "region":
        fields.text(node)
    elif key == "labels":
        if node.mapping is None:
            fields.fault(node, f"expected a mapping of labels, found {node.kind}", "write `key: value`")
        for child in (node.mapping or {}).values():
            fields.text(child)
    else:
        for item in fields.items(node):
            fields.text(item)
