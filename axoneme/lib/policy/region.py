"""What happens to the packets of one region: ports and a peer for which the same parts match throughout.

    matching parts ─┬─ without audited ones ─> enforced outcome ─┐
                    └─ all ──────────────────> audited outcome  ─┴─> outcome

Per tier the strongest level decides; a pass leaves the decision to the next tier. What the enforced policies
deny or redirect stays so; what they allow and all policies together would deny passes and is reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from axoneme.lib.policy.model import (
    Action,
    AuthMode,
    Enforcement,
    Part,
    Redirect,
)
from axoneme.lib.policy.precedence import tier_of


class Match(NamedTuple):
    """A part that matches a region. The higher rank is the more specific one: longer ports first, then a
    part for the identity before one for every peer.
    """

    rank: int
    part: Part


class Outcome(NamedTuple):
    """What decides in a region; a default has no origins and its own word."""

    action: Action
    word: int
    redirect: Redirect | None = None
    audit: bool = False
    auth: AuthMode | None = None
    origins: frozenset[int] = frozenset()

    def same(self, other: Outcome) -> bool:
        """Whether both do the same because of rules of the same strength."""
        return self[:5] == other[:5]

    @property
    def default(self) -> bool:
        """Whether no rule decides."""
        return self.word < 0


ALLOWED: Final = Outcome(Action.ALLOW, -1)
DENIED: Final = Outcome(Action.DENY, -2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What happens to what no rule matches: as enforced, and if the audited policies were in force too."""

    enforced: Enforcement
    audited: Enforcement

    def outcome(self, matches: Sequence[Match]) -> Outcome:
        """The outcome of a region."""
        real = [one for one in matches if not one.part.audit]
        enforced = _decided(real, self.enforced)
        nothing_tried = len(real) == len(matches) and self.enforced is self.audited
        if enforced.action is not Action.ALLOW or nothing_tried:
            return enforced
        audited = _decided(matches, self.audited)
        if audited.action is Action.DENY:
            return audited._replace(audit=True)
        return enforced


def _decided(matches: Iterable[Match], default: Enforcement) -> Outcome:
    ordered = sorted(matches, key=lambda one: (one.part.precedence, one.rank), reverse=True)
    passed = -1
    for _, part in ordered:
        tier = tier_of(part.precedence)
        if tier == passed:
            continue
        if part.action is not Action.PASS:
            return _won(part.precedence, ordered)
        passed = tier
    return ALLOWED if default is Enforcement.DEFAULT_ALLOW else DENIED


def _won(word: int, matches: Sequence[Match]) -> Outcome:
    """The outcome when this word decides; among equal words the most specific part says where to."""
    strongest = [one for one in matches if one.part.precedence == word]
    rank = max(one.rank for one in strongest)
    nearest = [one.part for one in strongest if one.rank == rank]
    redirect = max((part.redirect for part in nearest if part.redirect is not None), default=None)
    winners = [one for one in strongest if one.part.redirect == redirect]
    return Outcome(
        action=nearest[0].action,
        word=word,
        redirect=redirect,
        auth=_auth(matches, rank, [part for part in nearest if part.redirect == redirect]),
        origins=frozenset().union(*(one.part.origins for one in winners)),
    )


def _auth(matches: Sequence[Match], rank: int, nearest: Sequence[Part]) -> AuthMode | None:
    """The mode that the deciding parts state, else the strictest one of less specific parts."""
    if nearest[0].action is Action.DENY:
        return None
    own = [part.auth for part in nearest if part.auth is not None]
    wider = [one.part.auth for one in matches if one.rank < rank and one.part.auth is not None]
    return max(own or wider, default=None)
