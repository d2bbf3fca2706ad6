"""Which way a direction of a subject is finished: by words alone, or region by region."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from axoneme.lib.policy.flat import FlatSide
from axoneme.lib.policy.grouping import Census
from axoneme.lib.policy.model import Direction, Part, SubjectPolicy
from axoneme.lib.policy.region import Defaults
from axoneme.lib.policy.tree import Side, WordSide


@dataclass(frozen=True, slots=True)
class Way:
    """How a direction is finished; the trees of equal ways and equal parts are equal."""

    defaults: Defaults
    by_word: bool


def way_of(policy: SubjectPolicy, direction: Direction, census: Census) -> Way:
    """The way of one direction of a policy; `census` has counted all parts of the policy."""
    enforced, audited = policy.enforcement(direction), policy.audited_enforcement(direction)
    return Way(
        Defaults(enforced=enforced, audited=audited),
        enforced is audited and census.word_decides(direction),
    )


def side_of(way: Way, parts: Iterable[Part]) -> Side:
    """One direction; `parts` are those of it that hold for every peer, ports resolved."""
    return WordSide(way.defaults.enforced, parts) if way.by_word else FlatSide(way.defaults, parts)
