"""One direction where the strongest word decides: entries of the tree of every peer and of each identity.

    parts -> strongest entry per block -> without those that a wider or equal block of the identity or of
    every peer covers -> without those that narrower blocks fill

The kernel takes the stronger of the longest block of the identity and the longest of every peer. An entry may
be left out when whatever it matches is decided by another with the same or a higher word; equal words mean
equal effects here (`Census.word_decides`). Coverage is judged only after selector references are expanded: a
broad deny beside a narrower allow would otherwise be lost for identities that only this node knows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Protocol, TypeAlias

from axoneme.lib.policy.blocks import OrderedBlocks, around, filled
from axoneme.lib.policy.model import (
    ANY_PORT,
    Action,
    Enforcement,
    MapEntry,
    Part,
    PortBlock,
)
from axoneme.lib.policy.ports import PORT_BITS
from axoneme.lib.policy.precedence import DEFAULT_ALLOW

Tree: TypeAlias = dict[PortBlock, MapEntry]

_NO_ENTRIES: Final[Mapping[PortBlock, MapEntry]] = {}


class Side(Protocol):
    """One direction of a subject: what every peer gets, and what an identity gets beyond that."""

    every_peer: Tree

    def tree_of(self, parts: Iterable[Part]) -> Tree:
        """The entries of an identity for which these parts hold, ports resolved."""


class WordSide:
    """A direction without passes, audits, authentication and equally strong redirects."""

    def __init__(self, enforcement: Enforcement, parts: Iterable[Part]) -> None:
        """`parts` are those that hold for every peer, ports resolved."""
        self._wide = strongest_by_block(parts)
        if enforcement is Enforcement.DEFAULT_ALLOW:
            entry = MapEntry(action=Action.ALLOW, precedence=DEFAULT_ALLOW)
            self._wide.setdefault(ANY_PORT, entry)
        self._lengths = {block.prefix_length for block in self._wide}
        self._order = OrderedBlocks(self._wide)
        self._word_around: dict[PortBlock, int] = {}
        self.every_peer = self._needed(self._wide, _NO_ENTRIES)

    def tree_of(self, parts: Iterable[Part]) -> Tree:
        """The entries of an identity for which these parts hold, ports resolved."""
        return self._needed(strongest_by_block(parts), self._wide)

    def _needed(self, own: Tree, wide: Mapping[PortBlock, MapEntry]) -> Tree:
        lengths = {block.prefix_length for block in own}
        kept = {
            block: entry
            for block, entry in own.items()
            if not (wide and self._word_of_every_peer(block) >= entry.precedence)
            and not _covered(block, entry, own, lengths)
        }
        hidden = set(self._hidden(kept, wide))
        return {block: entry for block, entry in kept.items() if block not in hidden} if hidden else kept

    def _hidden(
        self, kept: Mapping[PortBlock, MapEntry], wide: Mapping[PortBlock, MapEntry]
    ) -> Iterator[PortBlock]:
        """Blocks on every port of which narrower entries decide."""
        ranges = [one for one in kept if one.protocol != 0 and one.prefix_length < PORT_BITS]
        if not ranges:
            return
        narrower = OrderedBlocks(kept)
        for block in ranges:
            # Narrower ones of the same tree are stronger, or they would be covered.
            inside = narrower.inside(block)
            if wide:
                word = kept[block].precedence
                inside += [one for one in self._order.inside(block) if wide[one].precedence >= word]
            if filled(block, inside):
                yield block

    def _word_of_every_peer(self, block: PortBlock) -> int:
        """The strongest word of every peer that holds for all ports of a block; -1 without one."""
        word = self._word_around.get(block)
        if word is None:
            entries = (self._wide.get(one) for one in around(block, self._lengths))
            word = max((entry.precedence for entry in entries if entry is not None), default=-1)
            self._word_around[block] = word
        return word


def strongest_by_block(parts: Iterable[Part]) -> Tree:
    """The strongest entry of each block; equally strong parts unite their origins."""
    entries: Tree = {}
    for part in parts:
        block = part.ports
        assert isinstance(block, PortBlock)
        present = entries.get(block)
        if present is None or present.precedence < part.precedence:
            entries[block] = _entry(part, part.origins)
        elif present.precedence == part.precedence and not part.origins <= present.origins:
            entries[block] = _entry(part, part.origins | present.origins)
    return entries


def _entry(part: Part, origins: frozenset[int]) -> MapEntry:
    return MapEntry(action=part.action, precedence=part.precedence, redirect=part.redirect, origins=origins)


def _covered(block: PortBlock, entry: MapEntry, own: Mapping[PortBlock, MapEntry], lengths: set[int]) -> bool:
    """Whether a wider entry of the same tree is at least as strong; `lengths` are those of its blocks."""
    others = (own.get(wider) for wider in around(block, lengths)[1:])
    return any(other is not None and other.precedence >= entry.precedence for other in others)
