"""Which of many names and patterns a name matches: a few look-ups, however many there are.

    a.b.x.com   whole name            → names           exact
                after the first label → `*.b.x.com`     one label
                after each label      → `**.x.com`      one or more labels
                after each label      → `a*.b*.x.com`   leftovers of the tail `x.com`, by their literals

Names are in wire form and lower case (`wire.Question.name`), so whatever bytes a label has, no match cuts it.
Stars stand for letters, digits, `-` and `_` only, and labels are never empty. The rule is that of
`axoneme.lib.dnsnames`, the twin, for texts as the policy service writes them (`canonical_pattern`).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Final, NamedTuple

from axoneme.lib.dns.leftovers import Leftovers
from axoneme.lib.dns.names import MAX_LABEL, labels_of
from axoneme.lib.dns.pattern import Kind, PatternParts, parts_of
from axoneme.lib.policy.model import FqdnDefinition

_NOTHING: Final[frozenset[str]] = frozenset()
# Labels with their lengths, each of plain characters.
_LABEL: Final = b"|".join(re.escape(bytes((n,))) + b"[-a-z0-9_]{%d}" % n for n in range(1, MAX_LABEL + 1))
_are_plain = re.compile(b"(?:%s)*+\0?" % _LABEL).fullmatch
_PLAIN: Final = b"-_0123456789abcdefghijklmnopqrstuvwxyz"


class IndexParts(NamedTuple):
    """The index as a compiler for the kernel needs it: three exact-match sets, and what they cannot say.

    Names in wire form; of `one_label` and `any_labels` what follows the labels that the stars stand for.
    `every` says that there is a pattern for every name.
    """

    exact: frozenset[bytes]
    one_label: frozenset[bytes]
    any_labels: frozenset[bytes]
    leftovers: frozenset[FqdnDefinition]
    every: bool


class _Tail:
    """Patterns that end in the same labels: `**.tail`, and leftovers by the number of their other labels."""

    __slots__ = ("any_labels", "below", "exactly")

    def __init__(self) -> None:
        self.any_labels: set[str] = set()
        self.exactly: dict[int, Leftovers] = {}
        self.below: dict[int, Leftovers] = {}

    def matches(self, before: bytes) -> bool:
        """Whether `matching` would find anything."""
        first = before[0] + 1
        if first != len(before):
            if self.any_labels:
                return is_plain(before)
            return self._has_several() and bool(self.matching(before))
        one = self.exactly.get(1)
        if one is not None and one.matches(before[1:]):
            return True
        return bool(self.any_labels) and not before[1:].translate(None, _PLAIN)

    def _has_several(self) -> bool:
        """Whether a pattern is about more than one label before the tail."""
        return bool(self.below) or len(self.exactly) > (1 in self.exactly)

    def matching(self, before: bytes) -> list[str]:
        """Selectors for labels before the tail (wire form without final zero, at least one)."""
        size = len(before)
        if before[0] + 1 == size:
            one = self.exactly.get(1)
            found = one.matching(before[1:]) if one else []
            return found if before[1:].translate(None, _PLAIN) else [*self.any_labels, *found]
        return self._matching_several(labels_of(before + b"\x00")) if is_plain(before) else []

    def _matching_several(self, labels: list[bytes]) -> list[str]:
        found = list(self.any_labels)
        leftovers = self.exactly.get(len(labels))
        if leftovers is not None:
            found += leftovers.matching(b".".join(labels))
        for count, below in self.below.items():
            if count < len(labels):
                found += below.matching(b".".join(labels[-count:]))
        return found


def is_plain(labels: bytes) -> bool:
    """Whether labels in wire form, with or without the final zero, are of letters, digits, `-` and `_`."""
    at, size = 0, len(labels)
    # What is left are the lengths, unless there is more or a length looks like a plain character.
    for length in labels.translate(None, _PLAIN):
        if at >= size or labels[at] != length:
            return _are_plain(labels) is not None
        at += length + 1
    return at == size or _are_plain(labels) is not None


class NameIndex:
    """Names and patterns; immutable."""

    __slots__ = ("_every", "_exact", "_leftovers", "_one_label", "_tails")

    def __init__(self, definitions: Iterable[FqdnDefinition] = ()) -> None:
        """A text that no name can have (an empty label, one of 64 bytes) matches nothing."""
        exact: defaultdict[bytes, set[str]] = defaultdict(set)
        one_label: defaultdict[bytes, set[str]] = defaultdict(set)
        self._every: set[str] = set()
        self._tails: dict[bytes, _Tail] = {}
        self._leftovers: set[FqdnDefinition] = set()
        for one in set(definitions):
            parts = parts_of(one)
            if parts is None:
                continue
            if parts.kind is Kind.EXACT:
                exact[parts.tail].add(one.text)
            elif parts.kind is Kind.ONE_LABEL:
                one_label[parts.tail].add(one.text)
            elif parts.kind is Kind.EVERY:
                self._every.add(one.text)
            else:
                self._add_to_tail(one, parts)
        # Without a default: a look-up must not add.
        self._exact = {name: frozenset(texts) for name, texts in exact.items()}
        self._one_label = {tail: frozenset(texts) for tail, texts in one_label.items()}

    def _add_to_tail(self, one: FqdnDefinition, parts: PatternParts) -> None:
        tail = self._tails.setdefault(parts.tail, _Tail())
        if parts.kind is Kind.ANY_LABELS:
            tail.any_labels.add(one.text)
            return
        group = tail.below if parts.below else tail.exactly
        group.setdefault(len(parts.wild), Leftovers()).add(one.text, parts.wild)
        self._leftovers.add(one)

    @property
    def parts(self) -> IndexParts:
        """What a compiler needs."""
        return IndexParts(
            exact=frozenset(self._exact),
            one_label=frozenset(self._one_label),
            any_labels=frozenset(tail for tail, one in self._tails.items() if one.any_labels),
            leftovers=frozenset(self._leftovers),
            every=bool(self._every),
        )

    def matches(self, name: bytes) -> bool:
        """Whether anything matches a name."""
        if name in self._exact:
            return True
        if self._every:
            # What any other pattern matches, this one does too.
            return is_plain(name)
        at = name[0] + 1
        rest = name[at:]
        if rest in self._one_label and not name[1:at].translate(None, _PLAIN):
            return True
        if not self._tails:
            return False
        tails, tail = self._tails, rest
        while tail:
            if tail in tails and tails[tail].matches(name[: -len(tail)]):
                return True
            tail = tail[tail[0] + 1 :]
        return False

    def matching(self, name: bytes) -> frozenset[str]:
        """The texts of all that match a name."""
        found = self._exact.get(name, _NOTHING)
        if self._every and is_plain(name):
            found |= self._every
        at = name[0] + 1
        tail = name[at:]
        one_label = self._one_label.get(tail)
        if one_label is not None and not name[1:at].translate(None, _PLAIN):
            found = found | one_label if found else one_label
        tails = self._tails
        while tail and tails:
            if tail in tails and (more := tails[tail].matching(name[: -len(tail)])):
                found = found.union(more)
            tail = tail[tail[0] + 1 :]
        return found
