"""Subjects that the same rules select, as one: a policy is resolved once per set, not once per subject.

    subject ─> set ─> (kind, subject selectors that select it)

A set is named by the subject selectors, not by rules, so that another rule with a known selector moves
nobody. A set without subjects is forgotten. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Final, TypeAlias

from services.policy.resolution.locking import SubjectKind, kind_of

Subject: TypeAlias = int | str
"""An identity, or the name of a node whose host is meant."""
_NONE: Final[frozenset[int]] = frozenset()


@dataclass(frozen=True, slots=True)
class SetName:
    """What the subjects of a set have in common."""

    kind: SubjectKind
    selectors: frozenset[int]


class RuleSets:
    """The sets, and which subjects are in them."""

    def __init__(self) -> None:
        self._next = 0
        self._set_of: dict[Subject, int] = {}
        self._names: dict[int, SetName] = {}
        self._numbers: dict[SetName, int] = {}
        self._subjects: dict[int, set[Subject]] = {}
        self._by_selector: dict[int, set[int]] = {}
        self._added: set[int] = set()
        self._gone: set[int] = set()

    @property
    def set_of(self) -> Mapping[Subject, int]:
        """The set of each subject."""
        return self._set_of

    def name(self, number: int) -> SetName | None:
        """What a set stands for; None for one that is gone."""
        return self._names.get(number)

    def subjects(self, number: int) -> Set[Subject]:
        """The subjects of a set."""
        return self._subjects.get(number, frozenset())

    def with_selector(self, selector: int) -> frozenset[int]:
        """The sets whose subjects a selector selects."""
        return frozenset(self._by_selector.get(selector, _NONE))

    def change(self, subject: Subject, changed: Iterable[int]) -> None:
        """Add a subject, or move it: `changed` are the selectors that begin or cease to select it."""
        kind = kind_of(subject)
        present = self._set_of.get(subject)
        selectors = _NONE if present is None else self._names[present].selectors
        if kind is not SubjectKind.HOST_IDENTITY:
            selectors = selectors.symmetric_difference(changed)
        self._move(subject, SetName(kind, selectors))

    def remove(self, subject: Subject) -> None:
        """Forget a subject."""
        number = self._set_of.pop(subject, None)
        if number is not None:
            self._leave(subject, number)

    def toggle(self, selector: int, subjects: Iterable[Subject]) -> list[Subject]:
        """A selector begins or ceases to name sets: move all that it selects. Returns who moved."""
        moved = [one for one in subjects if kind_of(one) is not SubjectKind.HOST_IDENTITY]
        names: dict[int, SetName] = {}
        for subject in moved:
            present = self._set_of[subject]
            name = names.get(present)
            if name is None:
                old = self._names[present]
                name = names[present] = SetName(old.kind, old.selectors ^ {selector})
            self._move(subject, name)
        return moved

    def take_changes(self) -> tuple[set[int], set[int]]:
        """The sets that came and those that went since the last call."""
        added, gone = self._added - self._gone, self._gone - self._added
        self._added, self._gone = set(), set()
        return added, gone

    def copy(self) -> RuleSets:
        """Sets of its own with the same numbers and subjects."""
        twin = RuleSets()
        twin._next = self._next
        twin._set_of, twin._names = self._set_of.copy(), self._names.copy()
        twin._numbers = self._numbers.copy()
        twin._added, twin._gone = self._added.copy(), self._gone.copy()
        twin._subjects = {number: subjects.copy() for number, subjects in self._subjects.items()}
        twin._by_selector = {selector: sets.copy() for selector, sets in self._by_selector.items()}
        return twin

    def _move(self, subject: Subject, name: SetName) -> None:
        number = self._numbers.get(name)
        if number is None:
            number = self._add(name)
        present = self._set_of.get(subject)
        if present == number:
            return
        self._set_of[subject] = number
        self._subjects[number].add(subject)
        if present is not None:
            self._leave(subject, present)

    def _add(self, name: SetName) -> int:
        number = self._next
        self._next += 1
        self._names[number] = name
        self._numbers[name] = number
        self._subjects[number] = set()
        self._added.add(number)
        for selector in name.selectors:
            self._by_selector.setdefault(selector, set()).add(number)
        return number

    def _leave(self, subject: Subject, number: int) -> None:
        subjects = self._subjects[number]
        subjects.discard(subject)
        if subjects:
            return
        name = self._names.pop(number)
        del self._subjects[number], self._numbers[name]
        self._gone.add(number)
        for selector in name.selectors:
            self._by_selector[selector].discard(number)
            if not self._by_selector[selector]:
                del self._by_selector[selector]
