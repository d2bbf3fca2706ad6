"""What two patterns of DNS names have to do with each other, by their labels from the last to the first.

Decided exactly but for lengths of labels in `includes`, where a wrong "no" is harmless.
"""

from __future__ import annotations

import functools
import itertools
import re
from typing import Final, NamedTuple

from axoneme.lib.dns.names import MAX_LABEL, MAX_NAME, labels_of
from axoneme.lib.dns.pattern import Kind, parts_of
from axoneme.lib.policy.model import FqdnDefinition

_FAR: Final = MAX_LABEL + 1


class _Shape(NamedTuple):
    """Labels, last first; `below`: one or more labels come before them; `every`: no more is said."""

    labels: tuple[str, ...]
    below: bool
    every: bool


@functools.lru_cache(maxsize=16_384)
def _shape(pattern: FqdnDefinition) -> _Shape:
    parts = parts_of(pattern)
    if parts is None:
        raise ValueError(f"no name can match {pattern.text!r}")
    labels = (*parts.wild, *(label.decode("latin-1") for label in labels_of(parts.tail)))
    below = parts.below or parts.kind is Kind.ANY_LABELS
    return _Shape(labels[::-1], below, parts.kind is Kind.EVERY)


def compatible(one: FqdnDefinition, other: FqdnDefinition) -> bool:
    """Whether some name matches both. Raises ValueError for a pattern that no name can match."""
    first, second = _shape(one), _shape(other)
    if first.every or second.every:
        return True
    few, many = sorted((first, second), key=lambda shape: len(shape.labels))
    same_length = len(few.labels) == len(many.labels)
    # What one has more, the other must let come before; neither may ask for more labels than there are.
    if not (first.below == second.below if same_length else few.below):
        return False
    pairs = itertools.zip_longest(few.labels, many.labels, fillvalue="*")
    sizes = [shortest_common(*pair) for pair in pairs]
    if many.below:
        sizes.append(1)
    return max(sizes) <= MAX_LABEL and sum(sizes) + len(sizes) + 1 <= MAX_NAME


def includes(wide: FqdnDefinition, narrow: FqdnDefinition) -> bool:
    """Whether every name that matches `narrow` matches `wide` too."""
    first, second = _shape(wide), _shape(narrow)
    if first.every or second.every:
        return first.every
    more = len(second.labels) - len(first.labels) + second.below
    fits = more >= 1 if first.below else more == 0 and not second.below
    return fits and all(map(_label_includes, first.labels, second.labels))


@functools.lru_cache(maxsize=65_536)
def shortest_common(one: str, other: str) -> int:
    """The length (at least 1) of the shortest label that matches both; above 63 when there is none."""
    if not _ends_fit(one.split("*"), other.split("*")):
        return _FAR
    # Row i: shortest for one[i:] and other[j:], from the ends.
    below = [_FAR] * (len(other) + 1)
    for i in range(len(one), -1, -1):
        row = [_FAR] * (len(other) + 1)
        for j in range(len(other), -1, -1):
            row[j] = _step(one[i : i + 1], other[j : j + 1], row, below, j)
        below = row
    return max(1, below[0])


def _ends_fit(one: list[str], other: list[str]) -> bool:
    """Whether beginnings and ends do not contradict each other: a quick look before the long one."""
    begins, ends = sorted((one[0], other[0]), key=len), sorted((one[-1], other[-1]), key=len)
    return begins[1].startswith(begins[0]) and ends[1].endswith(ends[0])


def _step(a: str, b: str, row: list[int], below: list[int], j: int) -> int:
    """The shortest rest from the first character of each, by the rests after one or both."""
    if not a and not b:
        return 0
    best = _FAR
    if a == "*":
        # The star is nothing, or it stands for the next character of the other.
        best = min(best, below[j], row[j + 1] + 1 if b not in ("", "*") else _FAR)
    if b == "*":
        best = min(best, row[j + 1], below[j] + 1 if a not in ("", "*") else _FAR)
    if a == b != "*":
        best = min(best, below[j + 1] + 1)
    return min(best, _FAR)


@functools.lru_cache(maxsize=65_536)
def _label_includes(wide: str, narrow: str) -> bool:
    # A star of the narrow one is a character that only a star of the wide one stands for.
    form = ".*".join(map(re.escape, wide.split("*")))
    return re.fullmatch(form, narrow) is not None
