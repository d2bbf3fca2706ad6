"""What one set of contributions has that another has not, as serialised entries.

Grouped sets are compared group by group: the same group on both sides costs nothing, groups of the same parts
and fixed peers are told apart by their numbers alone. `plain_difference` is the same over any two sets.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import NamedTuple, TypeAlias

from axoneme.lib.policy.groups import Group, GroupedContributions
from axoneme.lib.policy.model import Contribution, Part, Peer
from axoneme.lib.policycodec.entries import entry_bytes, group_bytes

_Slot: TypeAlias = tuple[tuple[Part, ...], tuple[Peer, ...]]


class Difference(NamedTuple):
    """Serialised entries, sorted: equal changes are equal bytes."""

    added: list[bytes]
    removed: list[bytes]


def whole(contributions: AbstractSet[Contribution]) -> list[bytes]:
    """All entries of a set."""
    if not isinstance(contributions, GroupedContributions):
        return sorted(map(entry_bytes, contributions))
    return sorted(entry for group in contributions.groups for entry in _entries(group))


def difference(before: AbstractSet[Contribution], after: AbstractSet[Contribution]) -> Difference:
    """What came and what went from one set to another."""
    if before is after:
        return Difference([], [])
    if isinstance(before, GroupedContributions) and isinstance(after, GroupedContributions):
        return _by_groups(before.groups, after.groups)
    return plain_difference(before, after)


def plain_difference(before: AbstractSet[Contribution], after: AbstractSet[Contribution]) -> Difference:
    """The same for sets of any kind."""
    old, new = frozenset(before), frozenset(after)
    return Difference(sorted(map(entry_bytes, new - old)), sorted(map(entry_bytes, old - new)))


def _by_groups(before: Iterable[Group], after: Iterable[Group]) -> Difference:
    kept = set(before) & set(after)
    gone: set[bytes] = set()
    came: set[bytes] = set()
    replaced: defaultdict[_Slot, list[Group]] = defaultdict(list)
    for group in before:
        if group not in kept:
            replaced[group.parts, group.fixed].append(group)
    for group in after:
        if group in kept:
            continue
        candidates = replaced.get((group.parts, group.fixed))
        if candidates:
            older = candidates.pop()
            came.update(group_bytes(group, group.numbers - older.numbers, fixed=False))
            gone.update(group_bytes(older, older.numbers - group.numbers, fixed=False))
        else:
            came.update(_entries(group))
    for left in replaced.values():
        for group in left:
            gone.update(_entries(group))
    # The same entry may stand in two groups of different shape, one that went and one that came.
    return Difference(sorted(came - gone), sorted(gone - came))


def _entries(group: Group) -> Iterable[bytes]:
    return group_bytes(group, group.numbers, fixed=True)
