"""Which sets of DNS selectors names can have, so that a node has an identity for each before it is needed.

A name has the set of all selectors that match it: that of an exact name is known; those of other names are
patterns that go together, each with every pattern that includes it. Whether two patterns go together is
decided exactly, label by label; three that go together in pairs are taken to do so at once, which may give a
set too many but never one too few.
"""

from __future__ import annotations

import functools
import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from operator import and_

from axoneme.lib.dns.compat import compatible, includes
from axoneme.lib.dns.index import NameIndex
from axoneme.lib.dns.pattern import Kind, parts_of
from axoneme.lib.dns.prefixes import PrefixFinder
from axoneme.lib.dns.table import SetTable
from axoneme.lib.policy.model import FqdnDefinition

__all__ = ["PrefixFinder", "SetTable", "possible_sets"]


def possible_sets(selectors: Iterable[FqdnDefinition], limit: int) -> frozenset[frozenset[str]]:
    """The sets, never the empty one: of exact names first, then of ever more patterns, at most `limit`."""
    known = sorted(set(selectors), key=lambda one: (one.text, one.pattern))
    found: dict[frozenset[str], None] = {}
    for texts in _sets(known):
        if len(found) >= limit:
            break
        if texts:
            found[texts] = None
    return frozenset(found)


def _sets(known: list[FqdnDefinition]) -> Iterator[frozenset[str]]:
    index, patterns = NameIndex(known), []
    for one in known:
        parts = parts_of(one)
        if parts is None:
            continue
        if parts.kind is Kind.EXACT:
            yield index.matching(parts.tail)
        else:
            patterns.append(one)
    for members in _Cliques(patterns).by_size():
        yield frozenset(patterns[number].text for number in _bits(members))


class _Cliques:
    """Sets of patterns as bits of a number; bit i is pattern i."""

    def __init__(self, patterns: list[FqdnDefinition]) -> None:
        count = len(patterns)
        self._together = [1 << number for number in range(count)]
        self._implied = list(self._together)
        for one, other in _near(patterns):
            first, second = patterns[one], patterns[other]
            if compatible(first, second):
                self._together[one] |= 1 << other
                self._together[other] |= 1 << one
                self._implied[one] |= includes(second, first) << other
                self._implied[other] |= includes(first, second) << one

    def by_size(self) -> Iterator[int]:
        """Every set, those made of fewer patterns first; there may be very many."""
        queue = deque(dict.fromkeys(self._implied))
        yield from queue
        seen = set(queue)
        while queue:
            members = queue.popleft()
            for number in _bits(self._common(members) & ~members):
                # Whatever includes a pattern goes together with all that the pattern does.
                more = members | self._implied[number]
                if more not in seen:
                    seen.add(more)
                    queue.append(more)
                    yield more

    def _common(self, members: int) -> int:
        """Patterns that go together with each member."""
        return functools.reduce(and_, (self._together[number] for number in _bits(members)))


def _near(patterns: list[FqdnDefinition]) -> Iterator[tuple[int, int]]:
    """Pairs that could go together: the tail of one ends in the tail of the other."""
    by_tail: dict[bytes, list[int]] = {}
    for number, pattern in enumerate(patterns):
        by_tail.setdefault(_tail(pattern), []).append(number)
    for tail, numbers in by_tail.items():
        yield from itertools.combinations(numbers, 2)
        shorter = tail
        while length := shorter[0]:
            shorter = shorter[length + 1 :]
            yield from itertools.product(numbers, by_tail.get(shorter, ()))


def _tail(pattern: FqdnDefinition) -> bytes:
    parts = parts_of(pattern)
    assert parts is not None
    return parts.tail


def _bits(number: int) -> Iterator[int]:
    while number:
        lowest = number & -number
        yield lowest.bit_length() - 1
        number ^= lowest
