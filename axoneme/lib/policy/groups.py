"""Contributions that many subjects share: each part of a rule entry for each of its peers.

    Group = parts × (fixed peers + identity numbers)        made once per rule entry
    GroupedContributions = the groups of one subject         a read-only set of contributions

A subject holds references to groups, so that a new identity costs one new group however many subjects the
rule has. Groups of one subject never overlap: their parts name different origins or different ports, or their
numbers differ. Groups are compared by identity (`is`); that two groups of one slot differ tells what changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import chain

from axoneme.lib.policy.model import Contribution, IdentityPeer, Part, Peer


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Group:
    """Parts of one rule entry, and for whom they hold."""

    parts: tuple[Part, ...]
    fixed: tuple[Peer, ...] = ()
    numbers: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return len(self.parts) * (len(self.fixed) + len(self.numbers))

    def contributions(self) -> Iterator[Contribution]:
        """Every contribution of the group."""
        return self.of_peers(chain(self.fixed, map(IdentityPeer, self.numbers)))

    def of_peers(self, peers: Iterable[Peer]) -> Iterator[Contribution]:
        """The contributions of the group's parts for some peers."""
        for peer in peers:
            for part in self.parts:
                yield Contribution.of(part, peer)

    def holds(self, one: Contribution) -> bool:
        """Whether a contribution belongs to the group."""
        peer = one.peer
        known = peer.number in self.numbers if isinstance(peer, IdentityPeer) else False
        return (known or peer in self.fixed) and any(Contribution.of(p, peer) == one for p in self.parts)


class GroupedContributions(AbstractSet[Contribution]):
    """The groups of one subject, read as one set."""

    __slots__ = ("_length", "groups")

    def __init__(self, groups: Iterable[Group]) -> None:
        self.groups = tuple(groups)
        self._length = sum(map(len, self.groups))

    @classmethod
    def _from_iterable(cls, found: Iterable[Contribution]) -> frozenset[Contribution]:  # type: ignore[override]
        return frozenset(found)

    def __contains__(self, one: object) -> bool:
        return isinstance(one, Contribution) and any(group.holds(one) for group in self.groups)

    def __iter__(self) -> Iterator[Contribution]:
        return chain.from_iterable(group.contributions() for group in self.groups)

    def __len__(self) -> int:
        return self._length

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, AbstractSet) or len(self) != len(other):
            return False
        if not isinstance(other, GroupedContributions):
            return frozenset(self) == frozenset(other)
        mine, theirs = _apart(self.groups, other.groups), _apart(other.groups, self.groups)
        return frozenset(_all_of(mine)) == frozenset(_all_of(theirs))

    def __hash__(self) -> int:
        return hash(frozenset(self))


def _apart(groups: Iterable[Group], others: Iterable[Group]) -> list[Group]:
    """Groups that the other side lacks. Groups do not overlap, so equality is decided by them alone."""
    shared = set(others)
    return [group for group in groups if group not in shared]


def _all_of(groups: Iterable[Group]) -> Iterator[Contribution]:
    return chain.from_iterable(group.contributions() for group in groups)
