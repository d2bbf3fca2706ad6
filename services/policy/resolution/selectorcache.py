"""Which members (identities, or nodes) each selector selects, kept up to date as either side comes and goes.

    keep(selector) ─> number of the selector        put(member, labels) ─> selectors whose members changed
                          │                                  │
                          └────> members(number) <───────────┘

Selectors are filed under one of their positive requirements (the one with the shortest queue), members under
each of their labels; a change then looks only at candidates. Selectors are handed around as small numbers,
because hashing one is dear. `BruteSelectorCache` is the plain twin that tests compare it with.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Final, Generic, TypeAlias, TypeVar

from axoneme.lib.labels import Label, LabelSet
from axoneme.lib.selectors import ANY, LabelSelector, Operator, Requirement

Member = TypeVar("Member", int, str)
# Where a requirement looks: a key with one value, or a key with any.
_Slot: TypeAlias = tuple[str, str | None]
_NO_SELECTORS: Final[frozenset[int]] = frozenset()


class SelectorCache(Generic[Member]):
    """Selector -> members. Selectors are counted: the last `drop` forgets one.

    `first` is the number of the first selector, so that two caches can have numbers that never meet.
    """

    def __init__(self, first: int = 0) -> None:
        self._next = first
        self._labels: dict[Member, LabelSet] = {}
        self._number_of: dict[LabelSelector, int] = {}
        self._selectors: dict[int, LabelSelector] = {}
        self._uses: dict[int, int] = {}
        self._members: dict[int, set[Member]] = {}
        self._frozen: dict[int, frozenset[Member]] = {}
        self._members_by_slot: defaultdict[_Slot, set[Member]] = defaultdict(set)
        self._selectors_by_slot: defaultdict[_Slot, set[int]] = defaultdict(set)
        self._slots: dict[int, tuple[_Slot, ...]] = {}
        self._unfiled: set[int] = set()

    @property
    def labels(self) -> Mapping[Member, LabelSet]:
        """All members."""
        return self._labels

    def number_of(self, selector: LabelSelector) -> int | None:
        """The number of a kept selector."""
        return self._number_of.get(selector)

    def selector(self, number: int) -> LabelSelector:
        """A kept selector."""
        return self._selectors[number]

    def members(self, selector: int) -> frozenset[Member]:
        """The members that a kept selector selects; the same object until they change."""
        frozen = self._frozen.get(selector)
        if frozen is None:
            frozen = self._frozen[selector] = frozenset(self._members[selector])
        return frozen

    def view(self, selector: int) -> Set[Member]:
        """The members as they change, without a copy; to be read at once."""
        return self._members[selector]

    def selects(self, selector: int, member: Member) -> bool:
        """Whether a kept selector selects a member."""
        return member in self._members[selector]

    def keep(self, selector: LabelSelector) -> int:
        """Start to follow a selector, or count one more use. Returns its number."""
        number = self._number_of.get(selector)
        if number is not None:
            self._uses[number] += 1
            return number
        number = self._number_of[selector] = self._next
        self._next += 1
        self._uses[number] = 1
        self._selectors[number] = selector
        self._members[number] = self._find(selector)
        self._file(number, selector)
        return number

    def drop(self, number: int) -> None:
        """Count one use less."""
        self._uses[number] -= 1
        if self._uses[number]:
            return
        del self._number_of[self._selectors.pop(number)], self._uses[number], self._members[number]
        self._frozen.pop(number, None)
        self._unfiled.discard(number)
        for slot in self._slots.pop(number, ()):
            _discard(self._selectors_by_slot, slot, number)

    def put(self, member: Member, labels: LabelSet) -> set[int]:
        """Add or change a member. Returns the selectors whose selection changed."""
        if self._labels.get(member) == labels:
            return set()
        before = self.remove(member)
        self._labels[member] = labels
        by_key: dict[str, list[Label]] = {}
        for label in labels.labels:
            by_key.setdefault(label.key, []).append(label)
        candidates = set(self._unfiled)
        for slot in _slots_of(labels):
            self._members_by_slot[slot].add(member)
            candidates |= self._selectors_by_slot.get(slot, _NO_SELECTORS)
        now = {number for number in candidates if _matches(self._selectors[number], by_key)}
        for number in now:
            self._members[number].add(member)
        changed = before ^ now
        self._forget_frozen(changed)
        return changed

    def remove(self, member: Member) -> set[int]:
        """Remove a member. Returns the selectors that had selected it."""
        labels = self._labels.pop(member, None)
        if labels is None:
            return set()
        candidates = set(self._unfiled)
        for slot in _slots_of(labels):
            candidates |= self._selectors_by_slot.get(slot, _NO_SELECTORS)
            _discard(self._members_by_slot, slot, member)
        gone = {number for number in candidates if member in self._members[number]}
        for number in gone:
            self._members[number].discard(member)
        self._forget_frozen(gone)
        return gone

    def copy(self) -> SelectorCache[Member]:
        """A cache of its own with the same selectors, numbers and members."""
        twin: SelectorCache[Member] = SelectorCache(self._next)
        twin._labels, twin._number_of = self._labels.copy(), self._number_of.copy()
        twin._selectors, twin._uses = self._selectors.copy(), self._uses.copy()
        twin._frozen, twin._slots, twin._unfiled = (
            self._frozen.copy(),
            self._slots.copy(),
            self._unfiled.copy(),
        )
        twin._members = {number: members.copy() for number, members in self._members.items()}
        for slot, members in self._members_by_slot.items():
            twin._members_by_slot[slot] = members.copy()
        for slot, numbers in self._selectors_by_slot.items():
            twin._selectors_by_slot[slot] = numbers.copy()
        return twin

    def _forget_frozen(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self._frozen.pop(number, None)

    def _file(self, number: int, selector: LabelSelector) -> None:
        usable = _usable_slots(selector)
        if not usable:
            self._unfiled.add(number)
            return
        queues = self._selectors_by_slot
        slots = min(usable, key=lambda slots: sum(len(queues.get(slot, ())) for slot in slots))
        self._slots[number] = slots
        for slot in slots:
            queues[slot].add(number)

    def _find(self, selector: LabelSelector) -> set[Member]:
        usable = _usable_slots(selector)
        if not usable:
            return {one for one, labels in self._labels.items() if selector.matches(labels)}
        nobody = set[Member]()
        filed = [[self._members_by_slot.get(slot, nobody) for slot in slots] for slots in usable]
        filed.sort(key=lambda parts: sum(map(len, parts)))
        candidates = nobody.union(*filed[0])
        for parts in filed[1:]:
            candidates = {one for one in candidates if any(one in part for part in parts)}
        return {one for one in candidates if selector.matches(self._labels[one])}


def _discard(index: defaultdict[_Slot, set[Member]], slot: _Slot, one: Member) -> None:
    index[slot].discard(one)
    if not index[slot]:
        del index[slot]


def _slots_of(labels: LabelSet) -> Iterable[_Slot]:
    for label in labels.labels:
        yield (label.key, label.value)
        yield (label.key, None)


def _usable_slots(selector: LabelSelector) -> list[tuple[_Slot, ...]]:
    found: list[tuple[_Slot, ...]] = []
    for requirement in selector.requirements:
        if requirement.operator is Operator.IN:
            found.append(tuple((requirement.key, value) for value in requirement.values))
        elif requirement.operator is Operator.EXISTS:
            found.append(((requirement.key, None),))
    return found


def _matches(selector: LabelSelector, by_key: Mapping[str, Sequence[Label]]) -> bool:
    return all(_meets(requirement, by_key) for requirement in selector.requirements)


def _meets(requirement: Requirement, by_key: Mapping[str, Sequence[Label]]) -> bool:
    """As Requirement.matches, without a search for the key; nodes may carry a key under two sources."""
    found = by_key.get(requirement.key, ())
    values = [label.value for label in found if requirement.source in (ANY, label.source)]
    if requirement.operator is Operator.EXISTS:
        return bool(values)
    if requirement.operator is Operator.DOES_NOT_EXIST:
        return not values
    inside = any(value in requirement.values for value in values)
    return inside if requirement.operator is Operator.IN else not inside


class BruteSelectorCache(Generic[Member]):
    """The same answers by looking at everything, for tests and for `resolve_all`."""

    def __init__(self) -> None:
        self.labels: dict[Member, LabelSet] = {}

    def put(self, member: Member, labels: LabelSet) -> None:
        """Add or change a member."""
        self.labels[member] = labels

    def remove(self, member: Member) -> None:
        """Remove a member."""
        self.labels.pop(member, None)

    def members(self, selector: LabelSelector) -> frozenset[Member]:
        """The members that a selector selects."""
        return frozenset(one for one, labels in self.labels.items() if selector.matches(labels))
