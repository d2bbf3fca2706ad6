"""The policy map of one subject on one node, kept up to date step by step.

    policy ───────────┐            bundles              trees
                      ├─> Holders ─────────> directions ─────> upserts and removals
    local identities ─┘

`entries` is always what `finish` would make of the same policy and identities. Only what changed is worked
out again: the trees of identities whose parts changed, and a whole direction when what holds for every peer,
its default or the way to finish it changed. Not thread-safe; no I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from axoneme.lib.labels import LabelSet
from axoneme.lib.policy.grouping import changed_groups, groups_of, selector_keys
from axoneme.lib.policy.groups import Group
from axoneme.lib.policy.holders import Bundles, Holders
from axoneme.lib.policy.model import ANY_IDENTITY, Direction, MapEntry, MapKey, SubjectPolicy
from axoneme.lib.policy.selection import matcher, members
from axoneme.lib.policy.sides import Way, side_of, way_of
from axoneme.lib.policy.tree import Side, Tree

_SPARE_TREES: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class MapChanges:
    """What turns one map into the next; no key is in both."""

    upserts: dict[MapKey, MapEntry] = field(default_factory=dict)
    removals: set[MapKey] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.upserts or self.removals)


class MapstateBuilder:
    """Finishes the policies of one endpoint one after the other."""

    def __init__(
        self, local_identities: Mapping[int, LabelSet], named_ports: Mapping[tuple[int, str], int]
    ) -> None:
        self._local = dict(local_identities)
        self._policy: SubjectPolicy | None = None
        self._holders = Holders(named_ports)
        self._uses_by_selector: dict[str, int] = {}
        self._directions = {direction: _DirectionTrees(direction) for direction in Direction}
        self.entries: dict[MapKey, MapEntry] = {}

    def update(self, policy: SubjectPolicy) -> MapChanges:
        """Go on to another policy of the subject.

        Raises KeyError for a reference without a definition; the map stays as it was.
        """
        gone, come = self._changed(policy)
        uses = self._uses_after(gone, come)
        fresh = {key: policy.selectors[key] for key in uses}
        known = self._policy.selectors if self._policy is not None else {}
        for key, definition in fresh.items():
            if key not in self._uses_by_selector or known[key] != definition:
                self._holders.select(key, members(definition, self._local))
        self._holders.change(gone, come)
        for key in self._uses_by_selector.keys() - uses.keys():
            self._holders.forget(key)
        self._uses_by_selector, self._policy = uses, policy
        return self._rebuilt(policy)

    def set_local(self, local_identities: Mapping[int, LabelSet]) -> MapChanges:
        """Go on to other node-local identities."""
        before, self._local = self._local, dict(local_identities)
        if self._policy is None:
            return MapChanges()
        gone = before.keys() - self._local.keys()
        changed = [number for number, labels in self._local.items() if before.get(number) != labels]
        if gone or changed:
            for key in self._uses_by_selector:
                self._reselect(key, self._policy, gone, changed)
        return self._rebuilt(self._policy)

    def _changed(self, policy: SubjectPolicy) -> tuple[tuple[Group, ...], tuple[Group, ...]]:
        if self._policy is None:
            return (), groups_of(policy.contributions)
        if self._policy.contributions is policy.contributions:
            return (), ()
        return changed_groups(self._policy.contributions, policy.contributions)

    def _uses_after(self, gone: Iterable[Group], come: Iterable[Group]) -> dict[str, int]:
        leaving, coming = selector_keys(gone), selector_keys(come)
        if not leaving and not coming:
            return self._uses_by_selector
        keys = self._uses_by_selector.keys() | coming.keys()
        after = {key: self._uses_by_selector.get(key, 0) + coming[key] - leaving[key] for key in keys}
        return {key: count for key, count in after.items() if count}

    def _reselect(self, key: str, policy: SubjectPolicy, gone: Iterable[int], changed: Iterable[int]) -> None:
        """Judge only the identities that changed."""
        matches = matcher(policy.selectors[key])
        before = self._holders.members(key)
        joining = {number for number in changed if matches(self._local[number])}
        after = before.difference(gone, changed) | joining
        if after != before:
            self._holders.select(key, after)

    def _rebuilt(self, policy: SubjectPolicy) -> MapChanges:
        changes = MapChanges()
        for trees in self._directions.values():
            trees.rebuild(policy, self._holders, changes)
        self._holders.touched.clear()
        for key in changes.removals:
            del self.entries[key]
        self.entries.update(changes.upserts)
        return changes


class _DirectionTrees:
    """The trees of one direction, and from what they were made."""

    def __init__(self, direction: Direction) -> None:
        self._direction = direction
        self._made_of: tuple[Way, Bundles] | None = None
        self._side: Side | None = None
        self._trees: dict[int, Tree] = {}
        self._tree_by_bundles: dict[Bundles, Tree] = {}

    def rebuild(self, policy: SubjectPolicy, holders: Holders, changes: MapChanges) -> None:
        """Bring the trees up to date and note the differences."""
        every_peer = holders.bundles_by_identity.get(ANY_IDENTITY, ())
        made_of = (way_of(policy, self._direction, holders.census), every_peer)
        touched: Iterable[int] = holders.touched
        if self._side is None or made_of != self._made_of:
            parts = holders.parts(self._direction, every_peer)
            self._side, self._made_of = side_of(made_of[0], parts), made_of
            self._tree_by_bundles.clear()
            self._replace(ANY_IDENTITY, self._side.every_peer, changes)
            touched = self._trees.keys() | holders.bundles_by_identity.keys()
        for number in touched:
            if number != ANY_IDENTITY:
                self._replace(number, self._tree(self._side, number, holders), changes)
        if len(self._tree_by_bundles) > 2 * len(self._trees) + _SPARE_TREES:
            self._tree_by_bundles.clear()

    def _tree(self, side: Side, number: int, holders: Holders) -> Tree:
        bundles = holders.bundles_by_identity.get(number, ())
        tree = self._tree_by_bundles.get(bundles)
        if tree is None:
            tree = side.tree_of(holders.parts(self._direction, bundles))
            self._tree_by_bundles[bundles] = tree
        return tree

    def _replace(self, number: int, tree: Tree, changes: MapChanges) -> None:
        before = self._trees.get(number, {})
        if tree:
            self._trees[number] = tree
        else:
            self._trees.pop(number, None)
        if tree is before:
            return
        for block in before:
            if block not in tree:
                changes.removals.add(MapKey(self._direction, number, block))
        for block, entry in tree.items():
            if before.get(block) != entry:
                changes.upserts[MapKey(self._direction, number, block)] = entry
