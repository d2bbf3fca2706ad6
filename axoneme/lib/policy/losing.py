"""Why a rule that matches a packet does not decide on it, in words. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from axoneme.lib.policy.model import Action, Contribution, Redirect
from axoneme.lib.policy.precedence import Tier, priority_of, tier_of


@dataclass(frozen=True, slots=True)
class Winner:
    """The level and the effect that decide."""

    tier: int
    priority: int
    action: Action
    redirect: Redirect | None

    def behind(self, one: Contribution) -> bool:
        """Whether a matching contribution is of this level and effect."""
        return (
            tier_of(one.precedence) == self.tier
            and priority_of(one.precedence) == self.priority
            and one.action is self.action
            and one.redirect == self.redirect
        )


def why_it_lost(one: Contribution, winner: Winner | None, *, audit: bool) -> str:
    """The reason; `winner` is None where the default of the direction decides."""
    if one.audit and not audit:
        return "only tried out (audit)"
    if winner is None:
        return _without_winner(one)
    tier = tier_of(one.precedence)
    if tier < winner.tier:
        return _passed(one)
    if tier > winner.tier:
        return f"its tier ({_name(tier)}) is not asked: the tier {_name(winner.tier)} decides"
    if priority_of(one.precedence) > winner.priority:
        return "a rule of a stronger priority in its tier decides"
    return _same_level(one, winner)


def _without_winner(one: Contribution) -> str:
    if one.action is Action.PASS:
        return "it leaves the decision to the next tier, where no rule matches"
    return "a stronger rule of its tier leaves the decision to the next tier, where no rule matches"


def _passed(one: Contribution) -> str:
    if one.action is Action.PASS:
        return "it leaves the decision to the next tier"
    return "a stronger rule of its tier leaves the decision to the next tier"


def _same_level(one: Contribution, winner: Winner) -> str:
    if winner.action is Action.DENY:
        return "a deny wins over it"
    if winner.action is Action.ALLOW:
        return "an allow of the same level wins over it"
    if one.redirect is None or winner.redirect is None:
        return "a stronger rule of the same level redirects"
    if one.redirect.priority == winner.redirect.priority:
        return "an equally strong redirect is more specific"
    return "a redirect of a stronger priority wins over it"


def _name(tier: int) -> str:
    return Tier(tier).name.lower() if tier in {known.value for known in Tier} else str(tier)
