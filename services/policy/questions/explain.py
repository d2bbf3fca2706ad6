"""Why a flow passes or does not: the verdict of each side's policy with the rules behind it, in words.

    sender's policy (egress) ─┐
                              ├─> DirectionExplanation: verdict, winners, losers, default deny, reason, remedy
    receiver's policy (ingress)┘

Judged by brute force over the subject's contributions (`axoneme.lib.policy.judge`); the entry is the one that
the node's map would have. Pure; takes what the engine resolved, never resolves anything itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from axoneme.lib import identities
from axoneme.lib.labels import LabelSet
from axoneme.lib.policy.dnsrules import DnsRules
from axoneme.lib.policy.finish import finish
from axoneme.lib.policy.groups import GroupedContributions
from axoneme.lib.policy.judge import Judgement, judge
from axoneme.lib.policy.lookup import lookup
from axoneme.lib.policy.model import (
    Action,
    AuthMode,
    Contribution,
    Direction,
    Enforcement,
    MapEntry,
    MapKey,
    Origin,
    SubjectPolicy,
)
from axoneme.lib.policy.outside import OutsideNames
from axoneme.lib.policy.precedence import Tier, tier_of
from services.policy.questions.parties import Party
from services.policy.questions.remedy import remedy_for

_SHOWN_NAMES: Final = 20


class Verdict(StrEnum):
    """What happens to a flow."""

    ALLOW = "allow"
    DENY = "deny"
    REDIRECT = "redirect"
    AUDIT = "audit"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class RuleReference:
    """A rule, what it says, and why it lost (empty for winners)."""

    origin: Origin
    action: Action
    note: str = ""

    def __str__(self) -> str:
        one = self.origin
        name = f"{one.namespace}/{one.name}" if one.namespace else one.name
        return f"{one.rule} of {one.kind} {name}" if one.rule else f"{one.kind} {name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectionExplanation:
    """The verdict of one side's policy."""

    direction: Direction
    verdict: Verdict
    parser: str = ""
    auth: AuthMode | None = None
    key: MapKey | None = None
    entry: MapEntry | None = None
    winners: tuple[RuleReference, ...] = ()
    losers: tuple[RuleReference, ...] = ()
    default_deny: tuple[RuleReference, ...] = ()
    reason: str = ""
    fix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One flow: protocol and port are the destination's (the type for ICMP)."""

    source: Party
    destination: Party
    protocol: int
    port: int
    families: frozenset[str]

    def subject(self, direction: Direction) -> Party:
        """Whose policy decides in a direction."""
        return self.destination if direction is Direction.INGRESS else self.source

    def peer(self, direction: Direction) -> Party:
        """The other side."""
        return self.source if direction is Direction.INGRESS else self.destination


def judged(policy: SubjectPolicy, direction: Direction, question: Question) -> Judgement:
    """The brute-force judgement of one side's policy on a flow."""
    number, local = _peer(policy, direction, question)
    return judge(
        policy,
        direction,
        number,
        question.protocol,
        question.port,
        local_identities=local,
        named_ports=_ports(direction, question),
    )


def verdict_of(judgement: Judgement) -> Verdict:
    """The one word for a judgement."""
    if judgement.audit:
        return Verdict.AUDIT
    if judgement.action is None:
        return Verdict.ALLOW if judgement.default is Enforcement.DEFAULT_ALLOW else Verdict.DENY
    words = {Action.ALLOW: Verdict.ALLOW, Action.DENY: Verdict.DENY, Action.REDIRECT: Verdict.REDIRECT}
    return words[judgement.action]


def explain(
    policy: SubjectPolicy,
    direction: Direction,
    question: Question,
    *,
    fault: str = "",
    dns_rules: DnsRules | None = None,
) -> DirectionExplanation:
    """Everything to be said about one side's policy and a flow. `fault` is why the policy is not what the
    rules say but the last one that could be computed; `dns_rules` are those behind its redirects.
    """
    judgement = judged(policy, direction, question)
    verdict = verdict_of(judgement)
    winners = _references(judgement.winners, policy)
    losers = tuple(
        RuleReference(policy.origins[number], one.action, why)
        for one, why in judgement.losers
        for number in sorted(one.origins)
        if number in policy.origins
    )
    default_deny = _sorted(
        RuleReference(policy.origins[number], Action.DENY)
        for number in policy.default_deny(direction)
        if number in policy.origins
    )
    key, entry = _entry(policy, direction, question)
    denied = verdict in (Verdict.DENY, Verdict.AUDIT)
    return DirectionExplanation(
        direction=direction,
        verdict=verdict,
        parser=judgement.redirect.parser if judgement.redirect else "",
        auth=judgement.auth,
        key=key,
        entry=entry,
        winners=winners,
        losers=losers,
        default_deny=default_deny,
        reason=_reason(verdict, direction, winners, default_deny)
        + (_names(policy, direction, question, dns_rules) if _to_dns(judgement) and dns_rules else "")
        + (f"; this is the last policy that could be computed: {fault}" if fault else ""),
        fix=_fix(direction, question, judgement) if denied else "",
    )


def narrowed(policy: SubjectPolicy, numbers: Collection[int]) -> SubjectPolicy:
    """The policy as far as it is about some identities: a map of fifty thousand entries for one look-up is
    forty-nine thousand too many.
    """
    contributions = policy.contributions
    if not isinstance(contributions, GroupedContributions):
        return policy
    asked = frozenset(numbers)
    groups = [replace(group, numbers=group.numbers & asked) for group in contributions.groups]
    return replace(policy, contributions=GroupedContributions(groups))


def _peer(
    policy: SubjectPolicy, direction: Direction, question: Question
) -> tuple[int, Mapping[int, LabelSet]]:
    names = OutsideNames(policy.selectors.values())
    number, labels = question.peer(direction).seen_by(names, question.families)
    # A reserved number such as remote-node is known by its number and matched by its labels too.
    local = {number: labels} if identities.is_local(number) or identities.is_reserved(number) else {}
    return number, local


def _ports(direction: Direction, question: Question) -> Mapping[tuple[int, str], int]:
    return question.destination.named_ports if direction is Direction.INGRESS else {}


def _entry(
    policy: SubjectPolicy, direction: Direction, question: Question
) -> tuple[MapKey | None, MapEntry | None]:
    number, local = _peer(policy, direction, question)
    entries = finish(
        narrowed(policy, [number]), local_identities=local, named_ports=_ports(direction, question)
    )
    decision = lookup(entries, direction, number, question.protocol, question.port)
    return decision.key, decision.entry


def _references(contributions: Iterable[Contribution], policy: SubjectPolicy) -> tuple[RuleReference, ...]:
    found = {
        number: RuleReference(policy.origins[number], one.action)
        for one in contributions
        for number in one.origins
        if number in policy.origins
    }
    return _sorted(found.values())


def _sorted(references: Iterable[RuleReference]) -> tuple[RuleReference, ...]:
    return tuple(sorted(references, key=lambda one: (one.origin.kind, str(one.origin.namespace), str(one))))


def _reason(
    verdict: Verdict,
    direction: Direction,
    winners: tuple[RuleReference, ...],
    default_deny: tuple[RuleReference, ...],
) -> str:
    name = direction.name.lower()
    by = ", ".join(map(str, winners[:5]))
    if verdict is Verdict.REDIRECT:
        return f"redirected to a proxy by {by}"
    if verdict is Verdict.ALLOW:
        return f"allowed by {by}" if winners else f"no policy locks {name}: what nothing denies passes"
    tried = " (only tried out: it passes and is reported)" if verdict is Verdict.AUDIT else ""
    if winners:
        return f"denied by {by}{tried}"
    if default_deny:
        locked = ", ".join(map(str, default_deny[:5]))
        return f"no rule allows it, and default deny is on for {name} because of {locked}{tried}"
    return f"no rule allows it, and {name} is locked by the enforcement mode{tried}"


def _to_dns(judgement: Judgement) -> bool:
    return judgement.redirect is not None and judgement.redirect.parser == "dns"


def _names(policy: SubjectPolicy, direction: Direction, question: Question, rules: DnsRules) -> str:
    """Which names may be asked for."""
    number, local = _peer(policy, direction, question)
    found = rules.deciding(number, local.get(number), question.protocol, question.port)
    if any(rule.every_name for rule in found):
        return "; every name may be asked for"
    texts = sorted({name.text for rule in found for name in rule.names})
    more = f" and {len(texts) - _SHOWN_NAMES} more" if len(texts) > _SHOWN_NAMES else ""
    return f"; names that may be asked for: {', '.join(texts[:_SHOWN_NAMES]) or 'none'}{more}"


def _fix(direction: Direction, question: Question, judgement: Judgement) -> str:
    above = [one for one in judgement.winners if tier_of(one.precedence) != Tier.BASELINE]
    if above:
        names = "the rules above" if len(above) > 1 else "the rule above"
        return f"delete or narrow {names}: a deny wins over every allow of its tier and of those below"
    return remedy_for(
        direction, question.subject(direction), question.peer(direction), question.protocol, question.port
    )
