"""Which node-local identities a selector reference selects."""

from __future__ import annotations

from typing import Final

from axoneme.lib.labels import LabelSet
from axoneme.lib.policy.model import Entity, SelectorDefinition

_RESERVED_KEYS: Final = {Entity.WORLD: frozenset({"world", "world-ipv4", "world-ipv6"})}


def selects(definition: SelectorDefinition, labels: LabelSet) -> bool:
    """Whether the definition selects an identity with these labels.

    A reserved label counts by source and key, so no label of a workload can imitate it.
    """
    keys = _RESERVED_KEYS[definition.entity]
    return any(label.source == "reserved" and label.key in keys for label in labels.labels)
