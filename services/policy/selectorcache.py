"""Which identities each selector selects, kept up to date as either side comes and goes.

Selectors are filed under one of their positive requirements (the one with the shortest queue), identities
under each of their labels; a change then looks only at candidates. `BruteSelectorCache` is the plain twin
that tests compare it with.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias

from axoneme.lib.labels import LabelSet
from services.policy.selectors import LabelSelector, Operator, Requirement

# Where a requirement looks: a key with one value, or a key with any.
_Slot: TypeAlias = tuple[str, str | None]
_NOBODY: Final[frozenset[int]] = frozenset()


class SelectorCache:
    """Selector -> identities. Selectors are counted: the last `drop` forgets one."""

    def __init__(self) -> None:
        self._labels: dict[int, LabelSet] = {}
        self._members: dict[LabelSelector, set[int]] = {}
        self._uses: dict[LabelSelector, int] = {}
        self._numbers_by_slot: defaultdict[_Slot, set[int]] = defaultdict(set)
        self._selectors_by_slot: defaultdict[_Slot, set[LabelSelector]] = defaultdict(set)
        self._slots: dict[LabelSelector, tuple[_Slot, ...]] = {}
        self._unfiled: set[LabelSelector] = set()

    @property
    def labels(self) -> Mapping[int, LabelSet]:
        """All identities."""
        return self._labels

    def members(self, selector: LabelSelector) -> frozenset[int]:
        """The identities that a kept selector selects."""
        return frozenset(self._members.get(selector, _NOBODY))

    def selects(self, selector: LabelSelector, number: int) -> bool:
        """Whether a kept selector selects an identity."""
        return number in self._members.get(selector, _NOBODY)

    def keep(self, selector: LabelSelector) -> None:
        """Start to follow a selector, or count one more use."""
        self._uses[selector] = self._uses.get(selector, 0) + 1
        if selector in self._members:
            return
        self._file(selector)
        labels = self._labels
        self._members[selector] = {n for n in self._candidates(selector) if selector.matches(labels[n])}

    def drop(self, selector: LabelSelector) -> None:
        """Count one use less."""
        self._uses[selector] -= 1
        if self._uses[selector]:
            return
        del self._uses[selector], self._members[selector]
        self._unfiled.discard(selector)
        for slot in self._slots.pop(selector, ()):
            self._selectors_by_slot[slot].discard(selector)
            if not self._selectors_by_slot[slot]:
                del self._selectors_by_slot[slot]

    def put(self, number: int, labels: LabelSet) -> set[LabelSelector]:
        """Add or change an identity. Returns the selectors whose selection changed."""
        if self._labels.get(number) == labels:
            return set()
        before = self.remove(number)
        self._labels[number] = labels
        now: set[LabelSelector] = set()
        for slot in _slots_of(labels):
            self._numbers_by_slot[slot].add(number)
            now.update(self._selectors_by_slot.get(slot, ()))
        matching = {selector for selector in now | self._unfiled if selector.matches(labels)}
        for selector in matching:
            self._members[selector].add(number)
        return before ^ matching

    def remove(self, number: int) -> set[LabelSelector]:
        """Remove an identity. Returns the selectors that had selected it."""
        labels = self._labels.pop(number, None)
        if labels is None:
            return set()
        candidates = set(self._unfiled)
        for slot in _slots_of(labels):
            candidates.update(self._selectors_by_slot.get(slot, ()))
            self._numbers_by_slot[slot].discard(number)
            if not self._numbers_by_slot[slot]:
                del self._numbers_by_slot[slot]
        gone = {selector for selector in candidates if number in self._members[selector]}
        for selector in gone:
            self._members[selector].discard(number)
        return gone

    def _file(self, selector: LabelSelector) -> None:
        choices = [_slots_of_requirement(requirement) for requirement in selector.requirements]
        usable = [slots for slots in choices if slots]
        if not usable:
            self._unfiled.add(selector)
            return
        slots = min(usable, key=self._queue_length)
        self._slots[selector] = slots
        for slot in slots:
            self._selectors_by_slot[slot].add(selector)

    def _queue_length(self, slots: tuple[_Slot, ...]) -> int:
        return sum(len(self._selectors_by_slot.get(slot, ())) for slot in slots)

    def _candidates(self, selector: LabelSelector) -> Iterable[int]:
        choices = [_slots_of_requirement(requirement) for requirement in selector.requirements]
        usable = [slots for slots in choices if slots]
        if not usable:
            return list(self._labels)

        def size(slots: tuple[_Slot, ...]) -> int:
            return sum(len(self._numbers_by_slot.get(slot, ())) for slot in slots)

        return set().union(*(self._numbers_by_slot.get(slot, ()) for slot in min(usable, key=size)))


def _slots_of(labels: LabelSet) -> Iterable[_Slot]:
    for label in labels.labels:
        yield (label.key, label.value)
        yield (label.key, None)


def _slots_of_requirement(requirement: Requirement) -> tuple[_Slot, ...]:
    if requirement.operator is Operator.IN:
        return tuple((requirement.key, value) for value in requirement.values)
    if requirement.operator is Operator.EXISTS:
        return ((requirement.key, None),)
    return ()


class BruteSelectorCache:
    """The same answers by looking at everything, for tests."""

    def __init__(self) -> None:
        self.labels: dict[int, LabelSet] = {}

    def put(self, number: int, labels: LabelSet) -> None:
        """Add or change an identity."""
        self.labels[number] = labels

    def remove(self, number: int) -> None:
        """Remove an identity."""
        self.labels.pop(number, None)

    def members(self, selector: LabelSelector) -> frozenset[int]:
        """The identities that a selector selects."""
        return frozenset(number for number, labels in self.labels.items() if selector.matches(labels))
