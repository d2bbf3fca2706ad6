"""Label selectors: canonical, hashable, matched against label sets.

A key is `source:key`, `any:key`, `key` (any source) or `$key` (reserved). A selector is the AND of its
requirements; the empty one selects everything. Pure; how policies scope selectors is `services.policy.scope`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from axoneme.lib.labels import RESERVED, LabelSet

ANY: Final = "any"


class Operator(StrEnum):
    """What a requirement asks of the value of its key."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


@dataclass(frozen=True, slots=True, order=True)
class Requirement:
    """One condition on one key; `source` `any` accepts a label of every source."""

    source: str
    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    @classmethod
    def of(cls, key: str, operator: Operator, values: tuple[str, ...] = ()) -> Requirement:
        """Read a key as users write it."""
        source, name = split_key(key)
        return cls(source, name, operator, tuple(sorted(set(values))))

    @property
    def positive(self) -> bool:
        """Whether the key has to be there."""
        return self.operator in (Operator.IN, Operator.EXISTS)

    def matches(self, labels: LabelSet) -> bool:
        """Whether a label set meets the condition; NotIn is met by a set without the key."""
        # Node-local identities may carry one key under two sources, such as node:host and reserved:host.
        values = [
            label.value
            for label in labels.labels
            if label.key == self.key and self.source in (ANY, label.source)
        ]
        if self.operator is Operator.EXISTS:
            return bool(values)
        if self.operator is Operator.DOES_NOT_EXIST:
            return not values
        inside = any(value in self.values for value in values)
        return inside if self.operator is Operator.IN else not inside

    def __str__(self) -> str:
        name = f"{self.source}:{self.key}"
        if self.operator in (Operator.EXISTS, Operator.DOES_NOT_EXIST):
            return name if self.positive else f"!{name}"
        return f"{name} {self.operator} ({','.join(self.values)})"


def split_key(key: str) -> tuple[str, str]:
    """Source and key of a key as users write it."""
    if key.startswith("$"):
        return RESERVED, key[1:]
    source, colon, name = key.partition(":")
    return (source, name) if colon and source else (ANY, key)


@dataclass(frozen=True, slots=True, order=True)
class LabelSelector:
    """Requirements in canonical order; equal selectors select equally."""

    requirements: tuple[Requirement, ...] = ()

    @classmethod
    def of(cls, *requirements: Requirement) -> LabelSelector:
        """Sort and drop repetitions."""
        return cls(tuple(sorted(set(requirements))))

    def matches(self, labels: LabelSet) -> bool:
        """Whether a label set meets all requirements."""
        return all(requirement.matches(labels) for requirement in self.requirements)

    def also(self, *requirements: Requirement) -> LabelSelector:
        """The selector with more requirements."""
        return LabelSelector.of(*self.requirements, *requirements)

    def __str__(self) -> str:
        return " and ".join(map(str, self.requirements)) or "everything"
