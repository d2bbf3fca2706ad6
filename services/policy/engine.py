"""All policies and identities of the cluster, and the mapstate of each subject, incrementally.

    put_policy / remove_policy ─┐                      ┌─> upserts: subject -> SubjectPolicy
    put_identity / remove_... ──┴─> dirty subjects ──> drain
                                                       └─> removals: subjects whose labels went away

The outcome depends on the present policies and identities only, never on the order in which they came; a
change touches only the subjects that it affects. Pure and single-threaded; `resolve_all` is the plain twin.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from axoneme.lib import identities
from axoneme.lib.labels import LabelSet
from axoneme.lib.policy.model import SubjectPolicy
from services.policy.resolve import BoundRule, bind, resolve
from services.policy.rules import ParsedPolicy, PolicyKey
from services.policy.selectorcache import BruteSelectorCache, SelectorCache
from services.policy.selectors import LabelSelector

# Numbers that stand for addresses outside: never a peer by number, since nodes split them further.
_WORLD = frozenset({identities.WORLD, identities.WORLD_IPV4, identities.WORLD_IPV6})


@dataclass(frozen=True, slots=True)
class Drained:
    """Subjects that changed since the last drain."""

    upserts: Mapping[int, SubjectPolicy]
    removals: frozenset[int]


class PolicyEngine:
    """The state of one policy service."""

    def __init__(self, cluster_name: str) -> None:
        self._cluster_name = cluster_name
        self._rules: dict[PolicyKey, tuple[BoundRule, ...]] = {}
        self._cache = SelectorCache()
        # Values are dictionaries used as ordered sets: BoundRule compares by content, and is kept by its id.
        self._rules_by_subject: defaultdict[LabelSelector, dict[int, BoundRule]] = defaultdict(dict)
        self._rules_by_peer: defaultdict[LabelSelector, dict[int, BoundRule]] = defaultdict(dict)
        self._rules_of: defaultdict[int, dict[int, BoundRule]] = defaultdict(dict)
        self._resolved: dict[int, SubjectPolicy] = {}
        self._dirty: set[int] = set()
        for number, (_, labels) in identities.RESERVED.items():
            if number not in _WORLD:
                self.put_identity(number, labels)

    @property
    def policies(self) -> Mapping[PolicyKey, ParsedPolicy]:
        """The policies in force."""
        return {key: rules[0].policy for key, rules in self._rules.items()}

    @property
    def subject_count(self) -> int:
        """How many subjects have a policy."""
        return len(self._resolved)

    def subject(self, number: int) -> SubjectPolicy | None:
        """The policy of a subject as of the last drain; None for a number without known labels."""
        return self._resolved.get(number)

    def labels(self, number: int) -> LabelSet | None:
        """The labels of an identity."""
        return self._cache.labels.get(number)

    def selected_subjects(self, policy: ParsedPolicy) -> set[int]:
        """The subjects that a policy selects, whether it is in force or not."""
        labels = self._cache.labels
        return {
            number
            for number, one in labels.items()
            if any(rule.subject.matches(one) for rule in policy.rules)
        }

    def affected_subjects(self, number: int) -> set[int]:
        """The subject itself and all subjects whose policy names the number as a peer."""
        affected = {number}
        for selector, rules in self._rules_by_peer.items():
            if self._cache.selects(selector, number):
                for rule in rules.values():
                    affected |= self._cache.members(rule.rule.subject)
        return affected

    def put_policy(self, policy: ParsedPolicy) -> None:
        """Add or replace a policy."""
        present = self._rules.get(policy.key)
        if present is not None and present[0].policy == policy:
            return
        self.remove_policy(policy.key)
        bound = bind(policy, self._cluster_name)
        self._rules[policy.key] = bound
        for rule in bound:
            self._add_rule(rule)

    def remove_policy(self, key: PolicyKey) -> None:
        """Remove a policy; removing what is not there does nothing."""
        for rule in self._rules.pop(key, ()):
            self._remove_rule(rule)

    def put_identity(self, number: int, labels: LabelSet) -> None:
        """Add an identity or change its labels."""
        if self._cache.labels.get(number) == labels:
            return
        self._dirty.add(number)
        self._on_selectors_changed(self._cache.put(number, labels), number)

    def remove_identity(self, number: int) -> None:
        """Remove an identity, as peer and as subject."""
        if number in self._cache.labels and number not in identities.RESERVED:
            self._dirty.add(number)
            self._on_selectors_changed(self._cache.remove(number), number)

    def drain(self, revision: int) -> Drained:
        """Resolve what changed; `revision` is noted in policies that really differ."""
        upserts: dict[int, SubjectPolicy] = {}
        removals: set[int] = set()
        for number in self._dirty:
            if number not in self._cache.labels:
                if self._resolved.pop(number, None) is not None:
                    removals.add(number)
                continue
            policy = resolve(number, self._rules_for(number), self._cache.members, revision)
            if self._resolved.get(number) != policy:
                upserts[number] = self._resolved[number] = policy
        self._dirty.clear()
        return Drained(upserts, frozenset(removals))

    def _rules_for(self, number: int) -> list[BoundRule]:
        return list(self._rules_of.get(number, {}).values())

    def _add_rule(self, rule: BoundRule) -> None:
        subject = rule.rule.subject
        for selector in (subject, *rule.peer_selectors):
            self._cache.keep(selector)
        self._rules_by_subject[subject][id(rule)] = rule
        for selector in rule.peer_selectors:
            self._rules_by_peer[selector][id(rule)] = rule
        for number in self._cache.members(subject):
            self._rules_of[number][id(rule)] = rule
            self._dirty.add(number)

    def _remove_rule(self, rule: BoundRule) -> None:
        subject = rule.rule.subject
        for number in self._cache.members(subject):
            self._forget_rule(number, rule)
            self._dirty.add(number)
        _discard(self._rules_by_subject, subject, rule)
        for selector in rule.peer_selectors:
            _discard(self._rules_by_peer, selector, rule)
        for selector in (subject, *rule.peer_selectors):
            self._cache.drop(selector)

    def _forget_rule(self, number: int, rule: BoundRule) -> None:
        rules = self._rules_of.get(number, {})
        rules.pop(id(rule), None)
        if not rules:
            self._rules_of.pop(number, None)

    def _on_selectors_changed(self, selectors: Iterable[LabelSelector], number: int) -> None:
        for selector in selectors:
            selected = self._cache.selects(selector, number)
            for rule in self._rules_by_subject.get(selector, {}).values():
                if selected:
                    self._rules_of[number][id(rule)] = rule
                else:
                    self._forget_rule(number, rule)
            for rule in self._rules_by_peer.get(selector, {}).values():
                self._invalidate(rule, selector)

    def _invalidate(self, rule: BoundRule, selector: LabelSelector) -> None:
        for entry in rule.entries:
            if selector in entry.selectors:
                entry.cached = None
        self._dirty |= self._cache.members(rule.rule.subject)


def _discard(
    index: defaultdict[LabelSelector, dict[int, BoundRule]], selector: LabelSelector, rule: BoundRule
) -> None:
    index[selector].pop(id(rule), None)
    if not index[selector]:
        del index[selector]


def resolve_all(
    policies: Iterable[ParsedPolicy], labels: Mapping[int, LabelSet], cluster_name: str
) -> dict[int, SubjectPolicy]:
    """The policy of every subject from scratch, without any index: what the engine must equal."""
    cache = BruteSelectorCache()
    reserved = {n: one for n, (_, one) in identities.RESERVED.items() if n not in _WORLD}
    for number, one in (reserved | dict(labels)).items():
        cache.put(number, one)
    bound = [rule for policy in policies for rule in bind(policy, cluster_name)]
    return {
        number: resolve(number, [rule for rule in bound if rule.rule.subject.matches(one)], cache.members, 0)
        for number, one in cache.labels.items()
    }
