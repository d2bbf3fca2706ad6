"""Rules with what they refer to worked out: all that does not depend on identities.

    ParsedPolicy + BindContext ──> BoundRule: BoundEntry (parts × peers), one for each rule entry

A bound entry is a value: two that are equal mean the same, so that a change of a service or group leaves
every entry as it was that does not refer to it. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from axoneme.lib.policy.model import (
    Action,
    AnyPeer,
    AuthMode,
    Direction,
    FqdnDefinition,
    NamedPort,
    Origin,
    Part,
    Peer,
    PortBlock,
    Redirect,
    SelectorDefinition,
    SelectorPeer,
)
from axoneme.lib.policy.precedence import REDIRECT_PRIORITY, Tier, precedence
from axoneme.lib.selectors import LabelSelector
from services.policy.resolution.bindpeers import (
    BindContext,
    PeerSide,
    label_references,
    labels_key,
    peer_side,
)
from services.policy.rules import L7, ParsedPolicy, PortRule, Rule, RuleEntry, TlsContext

__all__ = ["BindContext", "BoundEntry", "BoundRule", "Claim", "bind"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What an allow entry asks of connections on one of its ports, beside letting them pass."""

    ports: PortBlock | NamedPort
    parser: str = ""
    listener: str = ""
    priority: int = 0
    auth: AuthMode | None = None
    terminating: TlsContext | None = None
    originating: TlsContext | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundEntry:
    """A rule entry of one policy.

    Peers are `anyone`, or the union of the identities that `endpoints` and `selectors` select, of `numbers`,
    and of `references`. `plain` parts hold for each peer; `named` parts of egress hold for each identity
    under the number that the name means there. `lookups` are the names that DNS queries may ask for on
    redirected parts of egress, None for every name; a redirect that is not in it lets none through.
    `other_texts` and `claims` are for conflicts only.
    """

    origin: Origin
    direction: Direction
    action: Action
    tier: Tier
    priority: int
    plain: tuple[Part, ...]
    named: tuple[Part, ...] = ()
    anyone: bool = False
    endpoints: tuple[LabelSelector, ...] = ()
    selectors: tuple[LabelSelector, ...] = ()
    numbers: frozenset[int] = frozenset()
    references: tuple[tuple[str, SelectorDefinition], ...] = ()
    lookups: tuple[tuple[Part, frozenset[FqdnDefinition] | None], ...] = ()
    other_texts: tuple[str, ...] = ()
    claims: tuple[Claim, ...] = ()

    def __hash__(self) -> int:
        # Entries are dictionary keys at every change of a rule, and hardly two of one origin exist at a time.
        return hash(self.origin.origin_id)

    @property
    def peer_texts(self) -> tuple[str, ...]:
        """A text for each peer: where two entries have one in common, they speak of the same peers."""
        return (*map(labels_key, self.endpoints), *self.other_texts)

    @property
    def fixed(self) -> tuple[Peer, ...]:
        """The peers that do not depend on identities."""
        if self.anyone:
            return (AnyPeer(),)
        return tuple(SelectorPeer(key) for key, _ in self.references)

    def narrowed(self, requirements: Iterable[LabelSelector]) -> BoundEntry:
        """The entry with every endpoint selector ANDed with what fromRequires or toRequires ask."""
        if not self.endpoints:
            return self
        extra = [one for selector in requirements for one in selector.requirements]
        endpoints = tuple(selector.also(*extra) for selector in self.endpoints)
        before = dict(label_references(self.endpoints))
        kept = {key: one for key, one in self.references if key not in before}
        references = tuple((kept | dict(label_references(endpoints))).items())
        return replace(self, endpoints=endpoints, references=references)


@dataclass(frozen=True, slots=True)
class BoundRule:
    """A rule of one policy with its entries bound, in the order of the rule's own."""

    policy: ParsedPolicy
    rule: Rule
    entries: tuple[BoundEntry, ...] = ()


def bind(policy: ParsedPolicy, context: BindContext) -> tuple[BoundRule, ...]:
    """Work out what the rules of a policy refer to."""
    return tuple(
        BoundRule(policy, rule, tuple(_bind_entry(policy, entry, context) for entry in rule.entries))
        for rule in policy.rules
    )


def _bind_entry(policy: ParsedPolicy, entry: RuleEntry, context: BindContext) -> BoundEntry:
    origin = policy.origin(entry)
    side = peer_side(entry.peers, context)
    written = list(_parts(policy, entry, origin))
    parts = tuple(dict.fromkeys(part for part, _ in written))
    by_number = entry.direction is Direction.EGRESS
    named = tuple(part for part in parts if by_number and isinstance(part.ports, NamedPort))
    return BoundEntry(
        origin=origin,
        direction=entry.direction,
        action=entry.action,
        tier=entry.tier,
        priority=entry.priority,
        plain=tuple(part for part in parts if part not in named),
        named=named,
        anyone=side.anyone,
        endpoints=tuple(side.endpoints),
        selectors=tuple(side.selectors),
        numbers=frozenset(side.numbers),
        references=_references(side),
        lookups=_lookups(written) if by_number else (),
        other_texts=tuple(side.texts),
        claims=tuple(dict.fromkeys(_claims(entry))),
    )


def _references(side: PeerSide) -> tuple[tuple[str, SelectorDefinition], ...]:
    return tuple((dict(label_references(side.endpoints)) | side.references).items())


def _parts(policy: ParsedPolicy, entry: RuleEntry, origin: Origin) -> Iterable[tuple[Part, L7 | None]]:
    for rule in entry.ports:
        redirect = _redirect(entry, rule.l7)
        action = Action.REDIRECT if redirect else entry.action
        word = precedence(
            tier=entry.tier,
            priority=entry.priority,
            action=action,
            redirect_priority=redirect.priority if redirect else 126,
        )
        for ports in rule.ports:
            part = Part(
                direction=entry.direction,
                ports=ports,
                action=action,
                redirect=redirect,
                precedence=word,
                origins=frozenset({origin.origin_id}),
                audit=policy.audit,
                auth=entry.auth if entry.action is Action.ALLOW else None,
            )
            yield part, rule.l7


def _lookups(
    written: Iterable[tuple[Part, L7 | None]],
) -> tuple[tuple[Part, frozenset[FqdnDefinition] | None], ...]:
    """The names by part. A proxy without rules of its own lets every request through, DNS queries too."""
    found: dict[Part, frozenset[FqdnDefinition] | None] = {}
    for part, l7 in written:
        if l7 is None or part.redirect is None or not (l7.dns or l7.allow_all):
            continue
        present = found.get(part, frozenset())
        if present is not None:
            found[part] = None if _every_name(l7) else present | _names_of(l7)
    return tuple(found.items())


def _every_name(l7: L7) -> bool:
    return l7.allow_all or any(one.pattern and one.text == "*" for one in l7.dns)


def _names_of(l7: L7) -> frozenset[FqdnDefinition]:
    return frozenset(FqdnDefinition(one.text, one.pattern) for one in l7.dns)


def _redirect(entry: RuleEntry, l7: L7 | None) -> Redirect | None:
    if l7 is None or entry.action is not Action.ALLOW:
        return None
    return Redirect(l7.parser, l7.listener, redirect_priority(l7))


def redirect_priority(l7: L7) -> int:
    """The number of a redirect among others, 1 the strongest: its own, or its parser's."""
    return l7.priority or REDIRECT_PRIORITY.get(l7.parser, REDIRECT_PRIORITY["generic"])


def _claims(entry: RuleEntry) -> Iterable[Claim]:
    if entry.action is not Action.ALLOW:
        return
    for rule in entry.ports:
        if rule.l7 is not None or entry.auth is not None:
            for ports in rule.ports:
                yield _claim(entry, rule, ports)


def _claim(entry: RuleEntry, rule: PortRule, ports: PortBlock | NamedPort) -> Claim:
    l7 = rule.l7
    if l7 is None:
        return Claim(ports=ports, auth=entry.auth)
    return Claim(
        ports=ports,
        parser=l7.parser,
        listener=l7.listener,
        priority=redirect_priority(l7),
        auth=entry.auth,
        terminating=l7.terminating,
        originating=l7.originating,
    )
