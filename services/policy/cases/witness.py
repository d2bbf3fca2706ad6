"""A label set that meets selectors: a subject to reason about where no cluster is at hand.

Only the obvious one is tried, with a label for each requirement that asks for one; what it finds is checked,
so that an answer is always right, while None may also mean that the search was too simple. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from axoneme.lib.labels import K8S, Label, LabelSet
from axoneme.lib.selectors import ANY, LabelSelector, Operator, Requirement

_ANY_VALUE: Final = "any-value"


def witness(selectors: Iterable[LabelSelector]) -> LabelSet | None:
    """A label set that all selectors select, or None when there is none to be found."""
    known = tuple(selectors)
    requirements = [one for selector in known for one in selector.requirements]
    labels: dict[str, Label] = {}
    for one in requirements:
        if one.positive and one.key not in labels:
            about = [other for other in requirements if other.key == one.key]
            label = _label(one, about)
            if label is None:
                return None
            labels[one.key] = label
    found = LabelSet(tuple(labels[key] for key in sorted(labels)))
    return found if all(selector.matches(found) for selector in known) else None


def _label(one: Requirement, about: list[Requirement]) -> Label | None:
    """A label of a key that meets all requirements about the key."""
    sources = {other.source for other in about if other.positive and other.source != ANY} or {K8S}
    choices = [value for other in about if other.operator is Operator.IN for value in other.values]
    for value in (*choices, _ANY_VALUE):
        label = Label(min(sources), one.key, value)
        if all(other.matches(LabelSet((label,))) for other in about):
            return label
    return None
