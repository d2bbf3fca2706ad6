"""Which parts hold for which identity, kept up while groups, selections and numbers change.

    groups ──────────┐
                     ├─> bundles per identity, per selector and for every peer
    selections ──────┘

A bundle is a number for the parts of a group; an identity's bundles are a sorted tuple, so that identities
with equal parts have equal tuples. A group counts as often as it is there. Pure.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from axoneme.lib.policy.grouping import Census, resolved
from axoneme.lib.policy.groups import Group
from axoneme.lib.policy.model import ANY_IDENTITY, AnyPeer, Direction, IdentityPeer, Part, SelectorPeer

Bundles: TypeAlias = tuple[int, ...]

_NO_BUNDLES: Final[Bundles] = ()


@dataclass(slots=True)
class _Bundle:
    number: int
    uses: int
    parts_by_direction: dict[Direction, tuple[Part, ...]]


class Holders:
    """The bundles of every identity; identity 0 is every peer."""

    def __init__(self, named_ports: Mapping[tuple[int, str], int]) -> None:
        self._named_ports = dict(named_ports)
        self._bundle_by_parts: dict[tuple[Part, ...], _Bundle] = {}
        self._bundle_by_number: dict[int, _Bundle] = {}
        self._next = 0
        self._by_selector: dict[str, list[int]] = {}
        self._members: dict[str, frozenset[int]] = {}
        self.census = Census()
        self.bundles_by_identity: dict[int, Bundles] = {}
        self.touched: set[int] = set()
        """Identities whose bundles changed since the owner last cleared this set."""

    def parts(self, direction: Direction, bundles: Bundles) -> list[Part]:
        """The parts of some bundles in one direction, ports resolved."""
        return [part for one in bundles for part in self._bundle_by_number[one].parts_by_direction[direction]]

    def members(self, key: str) -> frozenset[int]:
        """Whom a selector that is in use selects."""
        return self._members.get(key, frozenset())

    def select(self, key: str, members: frozenset[int]) -> None:
        """Whom a selector selects from now on."""
        before = self._members.get(key, frozenset())
        self._members[key] = members
        for bundle in self._by_selector.get(key, ()):
            self._shift(bundle, before - members, members - before)

    def forget(self, key: str) -> None:
        """A selector that no group refers to any more."""
        self._by_selector.pop(key, None)
        self._members.pop(key, None)

    def change(self, gone: Iterable[Group], come: Iterable[Group]) -> None:
        """Take groups out and others in; selectors that these refer to were selected before."""
        leaving: dict[tuple[Part, ...], list[Group]] = {}
        for group in gone:
            leaving.setdefault(group.parts, []).append(group)
        for group in come:
            bundle = self._use(group)
            twins = leaving.get(group.parts)
            if not twins:
                self._replace(bundle, Group(group.parts), group)
                continue
            # Other numbers in place of those that the same parts held for: only the difference changes.
            twin = twins.pop()
            self._replace(bundle, twin, group)
            self._release(twin)
        for groups in leaving.values():
            for group in groups:
                self._replace(self._bundle_by_parts[group.parts].number, group, Group(group.parts))
                self._release(group)

    def _replace(self, bundle: int, before: Group, after: Group) -> None:
        self._shift(bundle, before.numbers - after.numbers, after.numbers - before.numbers)
        for group, present in ((before, False), (after, True)):
            for peer in group.fixed:
                if isinstance(peer, SelectorPeer):
                    self._refer(peer.key, bundle, present=present)
                elif isinstance(peer, AnyPeer | IdentityPeer):
                    number = peer.number if isinstance(peer, IdentityPeer) else ANY_IDENTITY
                    self._shift(bundle, () if present else (number,), (number,) if present else ())

    def _refer(self, key: str, bundle: int, *, present: bool) -> None:
        bundles = self._by_selector.setdefault(key, [])
        numbers = self.members(key)
        if present:
            insort(bundles, bundle)
            self._shift(bundle, (), numbers)
        else:
            bundles.remove(bundle)
            self._shift(bundle, numbers, ())

    def _shift(self, bundle: int, gone: Iterable[int], come: Iterable[int]) -> None:
        """A bundle leaves some identities and reaches others."""
        for numbers, change in ((gone, _without), (come, _with)):
            changed: dict[Bundles, Bundles] = {}
            for number in numbers:
                before = self.bundles_by_identity.get(number, _NO_BUNDLES)
                after = changed.get(before)
                if after is None:
                    after = changed[before] = change(before, bundle)
                if after:
                    self.bundles_by_identity[number] = after
                else:
                    del self.bundles_by_identity[number]
                self.touched.add(number)

    def _use(self, group: Group) -> int:
        parts = group.parts
        bundle = self._bundle_by_parts.get(parts)
        if bundle is None:
            known = resolved(parts, self._named_ports)
            by_direction = {d: tuple(one for one in known if one.direction is d) for d in Direction}
            bundle = _Bundle(self._next, 0, by_direction)
            self._next += 1
            self._bundle_by_parts[parts] = self._bundle_by_number[bundle.number] = bundle
            self.census.add(parts)
        bundle.uses += _peers(group)
        return bundle.number

    def _release(self, group: Group) -> None:
        parts = group.parts
        bundle = self._bundle_by_parts[parts]
        bundle.uses -= _peers(group)
        if not bundle.uses:
            del self._bundle_by_parts[parts]
            del self._bundle_by_number[bundle.number]
            self.census.add(parts, -1)


def _peers(group: Group) -> int:
    """What a group counts: of bare contributions, some peers of a part may go while others stay."""
    return len(group.fixed) + len(group.numbers)


def _with(bundles: Bundles, one: int) -> Bundles:
    return tuple(sorted((*bundles, one)))


def _without(bundles: Bundles, one: int) -> Bundles:
    kept = list(bundles)
    kept.remove(one)
    return tuple(kept)
