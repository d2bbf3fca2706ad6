"""One direction where words alone do not decide: passes, audited policies, authentication, equal redirects.

Each region (a block without its narrower blocks) is judged as a whole, and the trees are written so that the
longest block tells the outcome: the tree of an identity has a higher word than that of every peer, so it
repeats what holds for every peer inside its own blocks where that differs, and undoes a wider entry of its
own with a deny where the default is to drop.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from axoneme.lib.policy.blocks import around, filled_blocks
from axoneme.lib.policy.model import ANY_PORT, Action, MapEntry, Part, PortBlock
from axoneme.lib.policy.precedence import DEFAULT_ALLOW, Tier, precedence
from axoneme.lib.policy.region import DENIED, Defaults, Match, Outcome
from axoneme.lib.policy.tree import Tree

PartsByBlock: TypeAlias = dict[PortBlock, list[Part]]


class FlatSide:
    """A direction that is judged region by region."""

    def __init__(self, defaults: Defaults, parts: Iterable[Part]) -> None:
        """`parts` are those that hold for every peer, ports resolved."""
        self._defaults = defaults
        self._wide = _by_block(parts)
        self._lengths = _lengths({*self._wide, ANY_PORT})
        self._matches: dict[PortBlock, list[Match]] = {}
        self._outcomes: dict[PortBlock, Outcome] = {}
        self.every_peer = self._every_peer()

    def tree_of(self, parts: Iterable[Part]) -> Tree:
        """The entries of an identity for which these parts hold, ports resolved."""
        own = _by_block(parts)
        lengths = _lengths(own)
        inside = (one for one in self._wide if any(block in own for block in around(one, lengths)))
        blocks = {*own, *inside}
        everywhere = _lengths(blocks)
        kept: dict[PortBlock, Outcome] = {}
        for block in _regions(blocks):
            matches = self._matches_of_every_peer(block)
            for one in around(block, lengths):
                if one in own:
                    matches = [*matches, *(Match(2 * one.specificity + 1, part) for part in own[one])]
            outcome = self._defaults.outcome(matches)
            if not outcome.same(_nearest(block, kept, everywhere) or self._outcome_of_every_peer(block)):
                kept[block] = outcome
        return {block: _entry(outcome, of_identity=True) for block, outcome in kept.items()}

    def _every_peer(self) -> Tree:
        kept: dict[PortBlock, Outcome] = {}
        for block in _regions({*self._wide, ANY_PORT}):
            outcome = self._outcome_of_every_peer(block)
            if not outcome.same(_nearest(block, kept, self._lengths) or DENIED):
                kept[block] = outcome
        return {block: _entry(outcome, of_identity=False) for block, outcome in kept.items()}

    def _outcome_of_every_peer(self, block: PortBlock) -> Outcome:
        """The outcome for packets of a block, but of no narrower block of a part, whoever the peer is."""
        outcome = self._outcomes.get(block)
        if outcome is None:
            outcome = self._outcomes[block] = self._defaults.outcome(self._matches_of_every_peer(block))
        return outcome

    def _matches_of_every_peer(self, block: PortBlock) -> list[Match]:
        matches = self._matches.get(block)
        if matches is None:
            matches = self._matches[block] = [
                Match(2 * one.specificity, part)
                for one in around(block, self._lengths)
                for part in self._wide.get(one, ())
            ]
        return matches


def _by_block(parts: Iterable[Part]) -> PartsByBlock:
    found: PartsByBlock = {}
    for part in parts:
        assert isinstance(part.ports, PortBlock)
        found.setdefault(part.ports, []).append(part)
    return found


def _lengths(blocks: Iterable[PortBlock]) -> frozenset[int]:
    return frozenset(block.prefix_length for block in blocks)


def _regions(blocks: set[PortBlock]) -> list[PortBlock]:
    """Blocks of which something is left when narrower ones are taken out, the widest first."""
    without = filled_blocks(blocks)
    return sorted((one for one in blocks if one not in without), key=lambda one: one.specificity)


def _nearest(
    block: PortBlock, outcomes: Mapping[PortBlock, Outcome], lengths: frozenset[int]
) -> Outcome | None:
    """The outcome of the narrowest block around one that has one."""
    return next((outcomes[one] for one in around(block, lengths) if one in outcomes), None)


def _entry(outcome: Outcome, *, of_identity: bool) -> MapEntry:
    return MapEntry(
        action=outcome.action,
        precedence=_word(outcome, of_identity=of_identity),
        redirect=outcome.redirect,
        origins=outcome.origins,
        audit=outcome.audit,
        auth=outcome.auth,
    )


def _word(outcome: Outcome, *, of_identity: bool) -> int:
    """Any word of an identity is above any of every peer; the rules' own words were judged already."""
    if outcome.default and outcome.action is Action.ALLOW and not of_identity:
        return DEFAULT_ALLOW
    redirect = outcome.redirect
    return precedence(
        tier=Tier.NORMAL if of_identity else Tier.LAST,
        action=outcome.action,
        redirect_priority=126 if redirect is None else redirect.priority,
    )
