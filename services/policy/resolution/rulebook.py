"""The bound rules in force, filed by policy and by the selector of their subjects.

    replace(policy) ─> selectors that got or lost rules ─> whose sets of rules are stale

Keeps the subject selectors in the caches and the entries held, so that an identity that comes later finds
everything in place. Single-threaded; resolves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from axoneme.lib.identities import HOST
from axoneme.lib.selectors import LabelSelector
from services.policy.inputs import PolicySettings
from services.policy.resolution.bind import BoundEntry, BoundRule, Claim
from services.policy.resolution.conflicts import Conflict, Place, conflicts_among, places
from services.policy.resolution.expansion import weight_of
from services.policy.resolution.rulesets import Subject
from services.policy.resolution.selectorcache import Member, SelectorCache
from services.policy.resolution.sharedentries import SharedEntries
from services.policy.rules import ParsedPolicy, PolicyKey, Rule

_Claims: TypeAlias = Mapping[Place, frozenset[Claim]]
"""What a rule asks of connections, by where it asks it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectorUse:
    """A selector or reference of rules, as text; a reference selects no cluster-wide identity."""

    text: str
    uses: int
    identities: frozenset[int]
    policies: tuple[PolicyKey, ...]


@dataclass(slots=True)
class Filed:
    """Rules that came, or that went: their selectors, with repetitions, and those that are new or gone."""

    rules: tuple[int, ...] = ()
    selectors: list[int] = field(default_factory=list)
    new_selectors: list[int] = field(default_factory=list)
    gone_selectors: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _FiledRule:
    bound: BoundRule
    selector: int
    entries: tuple[int, ...]


class RuleBook:
    """The rules of all policies."""

    def __init__(
        self,
        identities: SelectorCache[int],
        nodes: SelectorCache[str],
        entries: SharedEntries,
        settings: PolicySettings,
    ) -> None:
        self._identities = identities
        self._nodes = nodes
        self._entries = entries
        self._settings = settings
        self._next = 0
        self.policies: dict[PolicyKey, ParsedPolicy] = {}
        self._rules_of: dict[PolicyKey, tuple[int, ...]] = {}
        self._rules: dict[int, _FiledRule] = {}
        self._by_selector: dict[int, set[int]] = {}
        self._of_nodes: set[int] = set()
        self._claims: dict[int, _Claims] = {}

    def rules_with(self, selectors: Iterable[int]) -> tuple[BoundRule, ...]:
        """The rules behind subject selectors, in a fixed order."""
        found = [self._rules[rule].bound for one in selectors for rule in self._by_selector.get(one, ())]
        return tuple(sorted(found, key=lambda rule: (rule.policy.key, rule.rule.path)))

    def naming_subjects(self, selectors: Iterable[int]) -> list[int]:
        """Those of some selectors that select the subjects of a rule."""
        return [one for one in selectors if one in self._by_selector]

    def selector_in_force(self, subject: LabelSelector, *, of_nodes: bool) -> int | None:
        """The number of a selector, when it selects the subjects of a rule in force."""
        cache: SelectorCache[int] | SelectorCache[str] = self._nodes if of_nodes else self._identities
        number = cache.number_of(subject)
        return number if number in self._by_selector else None

    def selected_by(self, rule: Rule) -> frozenset[int] | frozenset[str]:
        """Whom a rule selects, in force or not."""
        return self._selected(rule)

    def members(self, selector: int) -> frozenset[int] | frozenset[str]:
        """The subjects that the selector of a rule selects."""
        cache = self._nodes if selector in self._of_nodes else self._identities
        return cache.members(selector)

    def replace(
        self, key: PolicyKey, policy: ParsedPolicy | None, rules: tuple[BoundRule, ...]
    ) -> tuple[Filed, Filed]:
        """Exchange the rules of a policy. Returns what came and what goes; `let_go` of the latter."""
        added, removed = Filed(), Filed(self._rules_of.pop(key, ()))
        added.rules = tuple(self._add(rule, added) for rule in rules if self._counts(rule.rule))
        for number in removed.rules:
            self._unfile(number, removed)
        if policy is None:
            del self.policies[key]
        else:
            self.policies[key] = policy
            self._rules_of[key] = added.rules
        return added, removed

    def let_go(self, removed: Filed) -> None:
        """Release what removed rules had kept."""
        for number in removed.rules:
            rule = self._rules.pop(number)
            for entry in rule.entries:
                self._entries.release(entry)
            self._drop(rule)
        self._of_nodes.difference_update(removed.gone_selectors)

    def selected(self, policy: ParsedPolicy) -> set[Subject]:
        """Whom the rules of a policy select, in force or not."""
        return {one for rule in policy.rules if self._counts(rule) for one in self._selected(rule)}

    def conflicts_of(
        self, rules: Iterable[BoundRule], selectors_beside: Callable[[Rule], Iterable[int]]
    ) -> list[Conflict]:
        """What among some rules contradicts, or contradicts a rule in force of a policy that is not theirs.

        `selectors_beside` gives the subject selectors in force that select a subject of a rule too.
        """
        coming = [(rule, _claims_of(rule)) for rule in rules if self._counts(rule.rule)]
        theirs = {rule.policy.key for rule, _ in coming}
        found: set[Conflict] = set()
        for number, (rule, claims) in enumerate(coming):
            found.update(conflicts_among(rule.entries))
            rivals = [
                other
                for other, others in coming[:number]
                if _may_clash(claims, others) and self._meet(rule.rule, other.rule)
            ]
            for selector in selectors_beside(rule.rule) if claims else ():
                rivals += self._rivals(selector, claims, theirs)
            for other in rivals:
                own = {entry.origin for entry in rule.entries}
                both = conflicts_among((*rule.entries, *other.entries))
                found.update(one for one in both if one.first in own or one.second in own)
        return sorted(found)

    def size_of(self, rules: Iterable[BoundRule]) -> int:
        """How many contributions some rules make to each subject at most."""
        entries = (entry for rule in rules if self._counts(rule.rule) for entry in rule.entries)
        return sum(map(self._size, entries))

    def selector_uses(self) -> list[SelectorUse]:
        """Every selector and reference with whom it selects and who uses it, by text."""
        by_selector: dict[int, list[PolicyKey]] = {}
        by_text: dict[str, list[PolicyKey]] = {}
        for key, rules in sorted(self._rules_of.items()):
            for rule in (self._rules[number] for number in rules):
                for selector in self._selectors_of(rule):
                    by_selector.setdefault(selector, []).append(key)
                for text in _references_of(rule.bound):
                    by_text.setdefault(text, []).append(key)
        cache = self._identities
        uses = [_use(text, keys, frozenset()) for text, keys in by_text.items()]
        uses += [_use(str(cache.selector(one)), by_selector[one], cache.members(one)) for one in by_selector]
        return sorted(uses, key=lambda use: use.text)

    def copy(
        self, identities: SelectorCache[int], nodes: SelectorCache[str], entries: SharedEntries
    ) -> RuleBook:
        """A book of its own with the same rules, over copies of the caches and entries."""
        twin = RuleBook(identities, nodes, entries, self._settings)
        twin._next, twin.policies = self._next, self.policies.copy()
        twin._rules_of, twin._rules = self._rules_of.copy(), self._rules.copy()
        twin._by_selector = {selector: rules.copy() for selector, rules in self._by_selector.items()}
        twin._of_nodes, twin._claims = self._of_nodes.copy(), self._claims.copy()
        return twin

    def _counts(self, rule: Rule) -> bool:
        return self._settings.host_firewall or not rule.of_nodes

    def _add(self, bound: BoundRule, added: Filed) -> int:
        rule = bound.rule
        selector = self._nodes.keep(rule.subject) if rule.of_nodes else self._identities.keep(rule.subject)
        number = self._next
        self._next += 1
        entries = tuple(self._entries.hold(entry) for entry in bound.entries)
        self._rules[number] = _FiledRule(bound, selector, entries)
        if selector not in self._by_selector:
            self._by_selector[selector] = set()
            added.new_selectors.append(selector)
            if rule.of_nodes:
                self._of_nodes.add(selector)
        self._by_selector[selector].add(number)
        added.selectors.append(selector)
        claims = _claims_of(bound)
        if claims:
            self._claims[number] = claims
        return number

    def _unfile(self, number: int, removed: Filed) -> None:
        selector = self._rules[number].selector
        self._claims.pop(number, None)
        self._by_selector[selector].discard(number)
        removed.selectors.append(selector)
        if not self._by_selector[selector]:
            del self._by_selector[selector]
            removed.gone_selectors.append(selector)

    def _size(self, entry: BoundEntry) -> int:
        selectors = {*entry.endpoints, *entry.selectors}
        peers = entry.numbers.union(*(_members(self._identities, one) for one in selectors))
        fixed = map(weight_of, (definition for _, definition in entry.references))
        return len((*entry.plain, *entry.named)) * (entry.anyone + len(peers) + sum(fixed))

    def _drop(self, rule: _FiledRule) -> None:
        if rule.bound.rule.of_nodes:
            self._nodes.drop(rule.selector)
        else:
            self._identities.drop(rule.selector)

    def _selected(self, rule: Rule) -> frozenset[int] | frozenset[str]:
        if rule.of_nodes:
            return _members(self._nodes, rule.subject)
        return _members(self._identities, rule.subject) - {HOST}

    def _rivals(self, selector: int, claims: _Claims, theirs: Collection[PolicyKey]) -> Iterator[BoundRule]:
        """Rules of other policies that ask something else of the same connections."""
        for number in self._by_selector.get(selector, ()):
            others = self._claims.get(number)
            if others and _may_clash(claims, others) and self._rules[number].bound.policy.key not in theirs:
                yield self._rules[number].bound

    def _meet(self, one: Rule, other: Rule) -> bool:
        """Whether two rules have a subject in common."""
        if one.of_nodes != other.of_nodes:
            return False
        return one.subject == other.subject or not self._selected(one).isdisjoint(self._selected(other))

    def _selectors_of(self, rule: _FiledRule) -> Iterator[int]:
        if not rule.bound.rule.of_nodes:
            yield rule.selector
        for entry in rule.entries:
            yield from self._entries.selectors(entry)


def _references_of(rule: BoundRule) -> Iterator[str]:
    return (key for entry in rule.entries for key, _ in entry.references if not key.startswith("labels:"))


def _use(text: str, keys: list[PolicyKey], identities: frozenset[int]) -> SelectorUse:
    return SelectorUse(text=text, uses=len(keys), identities=identities, policies=tuple(dict.fromkeys(keys)))


def _members(cache: SelectorCache[Member], selector: LabelSelector) -> frozenset[Member]:
    number = cache.keep(selector)
    found = cache.members(number)
    cache.drop(number)
    return found


def _claims_of(rule: BoundRule) -> _Claims:
    found: dict[Place, set[Claim]] = {}
    for entry in rule.entries:
        for claim in entry.claims:
            for place in places(entry, (claim.ports,)):
                found.setdefault(place, set()).add(claim)
    return {place: frozenset(claims) for place, claims in found.items()}


def _may_clash(one: _Claims, other: _Claims) -> bool:
    """Whether the other asks something of the same connections that the one does not ask."""
    return any(not other[place] <= one[place] for place in one.keys() & other.keys())
