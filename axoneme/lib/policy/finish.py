"""From the contributions to a subject to the minimal entries of its policy map on one node.

    contributions -> groups -> parts per identity (selector references and named ports expanded)
                  -> one tree per direction and set of parts -> entries

A tree depends on the parts of its identity and on those for every peer alone, so identities with the same
parts share one computation. `MapstateBuilder` does the same step by step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from axoneme.lib.labels import LabelSet
from axoneme.lib.policy.grouping import Census, groups_of, resolved
from axoneme.lib.policy.groups import Group
from axoneme.lib.policy.model import (
    ANY_IDENTITY,
    AnyPeer,
    Direction,
    IdentityPeer,
    MapEntry,
    MapKey,
    Part,
    SelectorPeer,
    SubjectPolicy,
)
from axoneme.lib.policy.selection import members
from axoneme.lib.policy.sides import side_of, way_of
from axoneme.lib.policy.tree import Side, Tree

Entries: TypeAlias = dict[MapKey, MapEntry]


def finish(
    policy: SubjectPolicy,
    *,
    local_identities: Mapping[int, LabelSet],
    named_ports: Mapping[tuple[int, str], int],
) -> Entries:
    """Return the minimal policy map of a subject on a node.

    `local_identities` are the numbers that selector references may select here; `named_ports` are the ports
    of one endpoint by protocol and name. Raises KeyError for a reference without a definition.
    """
    groups = groups_of(policy.contributions)
    selected = {key: members(definition, local_identities) for key, definition in policy.selectors.items()}
    indexes_by_number = _holders(groups, selected)
    every_peer = indexes_by_number.pop(ANY_IDENTITY, [])
    parts = [resolved(group.parts, named_ports) for group in groups]
    census = Census()
    for group in groups:
        census.add(group.parts)
    entries: Entries = {}
    for direction in Direction:
        side = side_of(way_of(policy, direction, census), _of(direction, parts, every_peer))
        entries.update(_keyed(direction, ANY_IDENTITY, side.every_peer))
        _add_identities(entries, direction, side, parts, indexes_by_number)
    return entries


def _holders(groups: Iterable[Group], selected: Mapping[str, Iterable[int]]) -> dict[int, list[int]]:
    """The positions of the groups that hold for each identity, in order; identity 0 is every peer."""
    found: dict[int, list[int]] = {}
    for index, group in enumerate(groups):
        for number in group.numbers:
            found.setdefault(number, []).append(index)
        for peer in group.fixed:
            if isinstance(peer, AnyPeer):
                found.setdefault(ANY_IDENTITY, []).append(index)
            elif isinstance(peer, IdentityPeer):
                found.setdefault(peer.number, []).append(index)
            elif isinstance(peer, SelectorPeer):
                for number in selected[peer.key]:
                    found.setdefault(number, []).append(index)
    return found


def _add_identities(
    entries: Entries,
    direction: Direction,
    side: Side,
    parts: list[tuple[Part, ...]],
    indexes_by_number: Mapping[int, list[int]],
) -> None:
    trees: dict[tuple[int, ...], Tree] = {}
    for number, indexes in indexes_by_number.items():
        candidates = tuple(indexes)
        tree = trees.get(candidates)
        if tree is None:
            tree = trees[candidates] = side.tree_of(_of(direction, parts, indexes))
        for block, entry in tree.items():
            entries[MapKey(direction, number, block)] = entry


def _keyed(direction: Direction, identity: int, tree: Tree) -> Entries:
    return {MapKey(direction, identity, block): entry for block, entry in tree.items()}


def _of(direction: Direction, parts: list[tuple[Part, ...]], indexes: Iterable[int]) -> list[Part]:
    return [part for index in indexes for part in parts[index] if part.direction is direction]
