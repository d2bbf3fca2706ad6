"""The policy of each set of rules, resolved once and shared by all subjects of the set.

    reframe(set, rules) ─> frame + held entries ─┐
    entries whose groups changed ────────────────┴─> resolve ─> sets whose policy differs

Single-threaded; knows nothing of single subjects.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from axoneme.lib.policy.model import SubjectPolicy
from services.policy.inputs import PolicySettings
from services.policy.resolution.bind import BoundRule
from services.policy.resolution.locking import SubjectKind
from services.policy.resolution.resolve import Frame, frame_of, policy_of, same_policy
from services.policy.resolution.sharedentries import SharedEntries

_NO_SETS: Final[frozenset[int]] = frozenset()


class SetPolicies:
    """Frames and policies by set."""

    def __init__(self, entries: SharedEntries, settings: PolicySettings) -> None:
        self._shared = entries
        self._settings = settings
        self._frames: dict[int, Frame] = {}
        self._entries: dict[int, tuple[int, ...]] = {}
        self._sets_by_entry: dict[int, set[int]] = {}
        self._policies: dict[int, SubjectPolicy] = {}
        self._faults: dict[int, str] = {}

    def policy(self, number: int) -> SubjectPolicy | None:
        """The policy of a set; None for one with a fault."""
        return self._policies.get(number)

    def fault(self, number: int) -> str:
        """Why the policy of a set cannot be computed; empty when it can."""
        return self._faults.get(number, "")

    def reframe(self, number: int, kind: SubjectKind, rules: Sequence[BoundRule]) -> None:
        """Set the rules of a set."""
        frame = frame_of(kind, rules, self._settings)
        # Two elements of one path may say exactly the same.
        entries = tuple(self._shared.hold(entry) for entry in dict.fromkeys(frame.entries))
        self._let_go(number)
        self._frames[number], self._entries[number] = frame, entries
        for entry in entries:
            self._sets_by_entry.setdefault(entry, set()).add(number)

    def forget(self, number: int) -> None:
        """Drop a set that has no subjects any more."""
        self._let_go(number)
        self._frames.pop(number, None)
        self._policies.pop(number, None)
        self._faults.pop(number, None)

    def using(self, entries: Iterable[int]) -> set[int]:
        """The sets in which entries count."""
        return {number for entry in entries for number in self._sets_by_entry.get(entry, _NO_SETS)}

    def resolve(self, numbers: Iterable[int], revision: int) -> dict[int, SubjectPolicy | None]:
        """Resolve sets again. Returns those whose policy or fault differs, with the policy before."""
        changed: dict[int, SubjectPolicy | None] = {}
        for number in numbers:
            present = self._policies.get(number)
            if number in self._frames and self._resolve(number, revision):
                changed[number] = present
        return changed

    def copy(self, entries: SharedEntries) -> SetPolicies:
        """Policies of their own with the same content, over a copy of the entries."""
        twin = SetPolicies(entries, self._settings)
        twin._frames, twin._entries = self._frames.copy(), self._entries.copy()
        twin._sets_by_entry = {entry: sets.copy() for entry, sets in self._sets_by_entry.items()}
        twin._policies, twin._faults = self._policies.copy(), self._faults.copy()
        return twin

    def _resolve(self, number: int, revision: int) -> bool:
        frame, before = self._frames[number], self._faults.pop(number, "")
        if frame.fault:
            self._faults[number] = frame.fault
            self._policies.pop(number, None)
            return before != frame.fault
        groups = [group for entry in self._entries[number] for group in self._shared.groups(entry)]
        policy, present = policy_of(frame, groups, revision), self._policies.get(number)
        if present is not None and same_policy(present, policy):
            return False
        self._policies[number] = policy
        return True

    def _let_go(self, number: int) -> None:
        for entry in self._entries.pop(number, ()):
            self._shared.release(entry)
            sets = self._sets_by_entry[entry]
            sets.discard(number)
            if not sets:
                del self._sets_by_entry[entry]
