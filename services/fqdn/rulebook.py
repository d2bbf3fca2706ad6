"""Which rules there are, and which must still be kept. Pure.

    policy service: rules of a subject ─► set_rules ─┐
    shim: what the kernel redirects ────► confirm ───┴─► effective(subject), digests()

A rule is keyed by (transport, ports, servers). New rules are in force at once for every key that they have. A
key that they lack is kept with its last rules while the kernel may still redirect by an older mapstate: until
the shim says that the mapstate of the newest rules is in force, or that nothing is redirected. So a query
that is redirected always finds the rules of its mapstate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from axoneme.lib.policy.dnsrules import DnsRule, DnsRules
from axoneme.lib.policy.model import Peer, SelectorDefinition, SelectorPeer


class RuleKey(NamedTuple):
    """Transport, ports and servers of a rule; the same selector key may mean other servers later."""

    protocol: int
    port: int
    prefix_length: int
    peer: Peer
    definition: SelectorDefinition | None


class HeldRule(NamedTuple):
    """A rule with the definition of the selector that names its servers."""

    rule: DnsRule
    definition: SelectorDefinition | None

    @property
    def key(self) -> RuleKey:
        """What decides whether newer rules replace it."""
        rule = self.rule
        return RuleKey(rule.protocol, rule.port, rule.prefix_length, rule.peer, self.definition)


@dataclass(slots=True)
class _Subject:
    current: DnsRules | None = None
    kept: dict[RuleKey, frozenset[HeldRule]] = field(default_factory=dict)
    effective: frozenset[HeldRule] | None = None  # None: not put together since the last change


def held_rules(rules: DnsRules) -> dict[RuleKey, frozenset[HeldRule]]:
    """Rules by their key."""
    found: dict[RuleKey, set[HeldRule]] = {}
    for rule in rules.rules:
        definition = rules.selectors[rule.peer.key] if isinstance(rule.peer, SelectorPeer) else None
        held = HeldRule(rule, definition)
        found.setdefault(held.key, set()).add(held)
    return {key: frozenset(some) for key, some in found.items()}


class RuleBook:
    """Rules of all subjects of a node. `revision` grows with each change of what is effective."""

    def __init__(self) -> None:
        self.revision = 0
        self._subjects: dict[str, _Subject] = {}

    def set_rules(self, subject: str, rules: DnsRules) -> None:
        """The newest rules of a subject."""
        known = self._subjects.setdefault(subject, _Subject())
        fresh = held_rules(rules)
        before = {**known.kept, **(held_rules(known.current) if known.current else {})}
        known.kept = {key: some for key, some in before.items() if key not in fresh}
        known.current, known.effective = rules, None
        self.revision += 1

    def remove(self, subject: str) -> None:
        """A subject has no rules any more; what it had is kept until the shim confirms."""
        known = self._subjects.get(subject)
        if known is not None and known.current is not None:
            known.kept |= held_rules(known.current)
            known.current = known.effective = None
            self.revision += 1

    def confirm(self, subject: str, digest: bytes) -> None:
        """The kernel redirects by the rules of this digest; empty: it redirects nothing."""
        known = self._subjects.get(subject)
        if known is None or (digest and (known.current is None or digest != known.current.digest)):
            return
        self.revision += bool(known.kept)
        known.kept, known.effective = {}, None
        if known.current is None:
            del self._subjects[subject]

    def confirm_all(self, digests: Mapping[str, bytes]) -> None:
        """The same for every subject: those that are not named are not redirected."""
        for subject in list(self._subjects):
            self.confirm(subject, digests.get(subject, b""))

    def effective(self, subject: str) -> frozenset[HeldRule]:
        """What queries of a subject are judged by."""
        known = self._subjects.get(subject)
        if known is None:
            return frozenset()
        if known.effective is None:
            current = held_rules(known.current).values() if known.current else ()
            known.effective = frozenset().union(*known.kept.values(), *current)
        return known.effective

    def subjects(self) -> Iterable[str]:
        """Subjects with rules that are in force or kept."""
        return self._subjects.keys()

    def current(self) -> dict[str, DnsRules]:
        """The newest rules by subject."""
        return {key: one.current for key, one in self._subjects.items() if one.current is not None}

    def digests(self) -> dict[str, bytes]:
        """Digest of the newest rules by subject."""
        return {key: rules.digest for key, rules in self.current().items()}

    def kept_count(self) -> int:
        """Keys that only an older mapstate needs."""
        return sum(len(one.kept) for one in self._subjects.values())
