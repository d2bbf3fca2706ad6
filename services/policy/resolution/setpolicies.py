"""The policy of each set of rules, resolved once and shared by all subjects of the set.

    reframe(set, rules) ─> frame + held entries ─┐
    entries whose groups changed ────────────────┴─> resolve ─> sets whose policy differs, with its DNS rules

Single-threaded; knows nothing of single subjects.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias
from weakref import WeakValueDictionary

from axoneme.lib.policy.dnsrules import DnsRules
from axoneme.lib.policy.groups import Group
from axoneme.lib.policy.model import SubjectPolicy
from services.policy.inputs import PolicySettings
from services.policy.resolution.bind import BoundRule
from services.policy.resolution.dnscompile import rules_of
from services.policy.resolution.locking import SubjectKind
from services.policy.resolution.resolve import Frame, frame_of, policy_of, same_policy
from services.policy.resolution.sharedentries import SharedEntries

_NO_SETS: Final[frozenset[int]] = frozenset()
_Source: TypeAlias = tuple[tuple[Group, ...], ...]
"""The groups of the entries that DNS rules come from; other groups whenever an entry means something else."""
_Compiled: TypeAlias = dict[tuple[tuple[int, ...], bool], DnsRules | None]
"""DNS rules by the entries that they come from, and by whether egress is locked."""


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
        self._about_dns: dict[int, tuple[int, ...]] = {}
        self._dns_rules: dict[int, tuple[_Source, DnsRules | None]] = {}
        self._by_digest: WeakValueDictionary[bytes, DnsRules] = WeakValueDictionary()

    def policy(self, number: int) -> SubjectPolicy | None:
        """The policy of a set; None for one with a fault."""
        return self._policies.get(number)

    def dns_rules(self, digest: bytes) -> DnsRules | None:
        """The DNS rules with a digest, if a policy has them."""
        return self._by_digest.get(digest)

    def fault(self, number: int) -> str:
        """Why the policy of a set cannot be computed; empty when it can."""
        return self._faults.get(number, "")

    def reframe(self, number: int, kind: SubjectKind, rules: Sequence[BoundRule]) -> None:
        """Set the rules of a set."""
        frame = frame_of(kind, rules, self._settings)
        # Two elements of one path may say exactly the same.
        held = {entry: self._shared.hold(entry) for entry in dict.fromkeys(frame.entries)}
        entries = tuple(held.values())
        self._let_go(number)
        self._about_dns.pop(number, None)
        self._dns_rules.pop(number, None)
        if frame.about_dns:
            self._about_dns[number] = tuple(held[entry] for entry in dict.fromkeys(frame.about_dns))
        self._frames[number], self._entries[number] = frame, entries
        for entry in entries:
            self._sets_by_entry.setdefault(entry, set()).add(number)

    def forget(self, number: int) -> None:
        """Drop a set that has no subjects any more."""
        self._let_go(number)
        self._frames.pop(number, None)
        self._policies.pop(number, None)
        self._about_dns.pop(number, None)
        self._dns_rules.pop(number, None)
        self._faults.pop(number, None)

    def using(self, entries: Iterable[int]) -> set[int]:
        """The sets in which entries count."""
        return {number for entry in entries for number in self._sets_by_entry.get(entry, _NO_SETS)}

    def resolve(self, numbers: Iterable[int], revision: int) -> dict[int, SubjectPolicy | None]:
        """Resolve sets again. Returns those whose policy or fault differs, with the policy before."""
        changed: dict[int, SubjectPolicy | None] = {}
        compiled: _Compiled = {}
        for number in numbers:
            present = self._policies.get(number)
            if number in self._frames and self._resolve(number, revision, compiled):
                changed[number] = present
        return changed

    def copy(self, entries: SharedEntries) -> SetPolicies:
        """Policies of their own with the same content, over a copy of the entries."""
        twin = SetPolicies(entries, self._settings)
        twin._frames, twin._entries = self._frames.copy(), self._entries.copy()
        twin._sets_by_entry = {entry: sets.copy() for entry, sets in self._sets_by_entry.items()}
        twin._policies, twin._faults = self._policies.copy(), self._faults.copy()
        twin._about_dns, twin._dns_rules = self._about_dns.copy(), self._dns_rules.copy()
        twin._by_digest = self._by_digest.copy()
        return twin

    def _resolve(self, number: int, revision: int, compiled: _Compiled) -> bool:
        frame, before = self._frames[number], self._faults.pop(number, "")
        if frame.fault:
            self._faults[number] = frame.fault
            self._policies.pop(number, None)
            return before != frame.fault
        groups = [group for entry in self._entries[number] for group in self._shared.groups(entry)]
        digest = self._compile(number, frame, compiled)
        policy, present = policy_of(frame, groups, revision, digest), self._policies.get(number)
        if present is not None and same_policy(present, policy):
            return False
        self._policies[number] = policy
        return True

    def _compile(self, number: int, frame: Frame, compiled: _Compiled) -> bytes:
        """Bring the DNS rules of a set up to date; returns their digest, empty without any."""
        entries = self._about_dns.get(number)
        if entries is None:
            return b""
        source = tuple(map(self._shared.groups, entries))
        present = self._dns_rules.get(number)
        if present is None or present[0] != source:
            rules = self._compiled((entries, frame.locks_egress), frame, compiled)
            present = self._dns_rules[number] = (source, rules)
        return b"" if present[1] is None else present[1].digest

    def _compiled(
        self, key: tuple[tuple[int, ...], bool], frame: Frame, compiled: _Compiled
    ) -> DnsRules | None:
        if key not in compiled:
            reaches = (reach for entry in key[0] for reach in self._shared.reaches(entry))
            rules = rules_of(reaches, frame.header["selectors"], locked=key[1])
            compiled[key] = None if rules is None else self._by_digest.setdefault(rules.digest, rules)
        return compiled[key]

    def _let_go(self, number: int) -> None:
        for entry in self._entries.pop(number, ()):
            self._shared.release(entry)
            sets = self._sets_by_entry[entry]
            sets.discard(number)
            if not sets:
                del self._sets_by_entry[entry]
