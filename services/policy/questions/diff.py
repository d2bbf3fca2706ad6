"""Which verdicts differ between two states of the policies: by subject, peer, direction and ports.

    policy before ─ finish ─> map ─┐
                                   ├─> per tree: blocks of ports with another verdict
    policy after  ─ finish ─> map ─┘

Both are finished with the same representatives of what only nodes have numbers for: one for each prefix and
each DNS selector that either policy names, the world of each family, external API servers, and nodes. A block
is judged by a port that no narrower block holds, so that ranges are compared exactly. Pure.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from axoneme.lib import identities
from axoneme.lib.labels import FQDN, RESERVED, Label, LabelSet
from axoneme.lib.policy.finish import finish
from axoneme.lib.policy.lookup import lookup
from axoneme.lib.policy.model import (
    ANY_IDENTITY,
    ANY_PORT,
    Action,
    CidrDefinition,
    Direction,
    FqdnDefinition,
    MapEntry,
    MapKey,
    PortBlock,
    SelectorDefinition,
    SubjectPolicy,
)
from axoneme.lib.policy.outside import BOTH_FAMILIES, named_prefixes, outside_labels, world_label

Entries: TypeAlias = Mapping[MapKey, MapEntry]
Tree: TypeAlias = dict[PortBlock, MapEntry]
Shown: TypeAlias = tuple[object, ...]
_API_SERVER: Final = Label(RESERVED, "kube-apiserver", "")
_NEVER_ON_THE_WIRE: Final = 0
"""Protocol number whose packets match entries for every protocol only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A peer of a change: `number` 0 is every peer that no rule names."""

    number: int
    labels: LabelSet
    prefix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictChange:
    """One difference: for all packets of a direction and a peer in `ports` but in none of `without`, which
    are listed by themselves or do not change.
    """

    direction: Direction
    peer: Peer
    ports: PortBlock
    without: tuple[PortBlock, ...] = ()
    before: MapEntry | None
    after: MapEntry | None


def representatives(
    definitions: Iterable[SelectorDefinition],
    families: frozenset[str] = BOTH_FAMILIES,
    nodes: Iterable[LabelSet] = (),
) -> dict[int, Peer]:
    """One node-local identity for everything that the definitions can tell apart, save combinations of a
    prefix with names. `nodes` are the labels of nodes that have numbers of their own.
    """
    known = tuple(definitions)
    peers = [Peer(number=0, labels=LabelSet((world_label(v, families),))) for v in _versions(families)]
    for prefix in sorted(named_prefixes(known)):
        network = ipaddress.ip_network(prefix)
        if network.prefixlen and f"ipv{network.version}" in families:
            only = (CidrDefinition(include=(prefix,)),)
            labels = outside_labels(str(network.network_address), only, families=families)
            peers.append(Peer(number=0, labels=labels, prefix=prefix))
    extra = [Label(FQDN, text, "") for text in {one.text for one in known if isinstance(one, FqdnDefinition)}]
    for label in (*sorted(extra), _API_SERVER):
        for version in _versions(families):
            found = sorted((world_label(version, families), label), key=lambda one: one.key)
            peers.append(Peer(number=0, labels=LabelSet(tuple(found))))
    peers += [Peer(number=0, labels=labels) for labels in nodes]
    first = identities.LOCAL_SCOPE
    return {
        first + index: Peer(number=first + index, labels=one.labels, prefix=one.prefix)
        for index, one in enumerate(peers)
    }


def _versions(families: frozenset[str]) -> tuple[int, ...]:
    return tuple(version for version in (4, 6) if f"ipv{version}" in families)


def changes_of(
    before: SubjectPolicy,
    after: SubjectPolicy,
    labels: Mapping[int, LabelSet],
    *,
    families: frozenset[str] = BOTH_FAMILIES,
    nodes: Iterable[LabelSet] = (),
    named_ports: Mapping[tuple[int, str], int] | None = None,
) -> Iterator[VerdictChange]:
    """Every verdict that differs; `labels` are those of cluster identities, for display."""
    local = representatives((*before.selectors.values(), *after.selectors.values()), families, nodes)
    local_labels = {number: peer.labels for number, peer in local.items()}
    old, new = (
        finish(policy, local_identities=local_labels, named_ports=named_ports or {})
        for policy in (before, after)
    )
    others = Peer(number=ANY_IDENTITY, labels=LabelSet(()))
    for direction in Direction:
        comparison = _Comparison(direction, old, new)
        for number in comparison.numbers():
            peer = others if number == ANY_IDENTITY else local.get(number)
            named = peer or Peer(number=number, labels=_labels_of(number, labels))
            for ports, without, was, now in comparison.of_tree(number):
                yield VerdictChange(
                    direction=direction, peer=named, ports=ports, without=without, before=was, after=now
                )


def _labels_of(number: int, labels: Mapping[int, LabelSet]) -> LabelSet:
    reserved = identities.RESERVED.get(number)
    return reserved[1] if reserved else labels.get(number, LabelSet(()))


_Found: TypeAlias = list[tuple[PortBlock, tuple[PortBlock, ...], MapEntry | None, MapEntry | None]]
_Pair: TypeAlias = tuple[MapEntry | None, MapEntry | None]


class _Comparison:
    """Two maps in one direction. Identities with the same trees share one comparison."""

    def __init__(self, direction: Direction, old: Entries, new: Entries) -> None:
        self._direction = direction
        self._old, self._new = old, new
        self._old_trees, self._new_trees = _trees(direction, old), _trees(direction, new)
        self._common = self._blocks_of(ANY_IDENTITY) | {ANY_PORT}
        self._known: dict[tuple[frozenset[tuple[PortBlock, MapEntry]], ...], _Found] = {}

    def numbers(self) -> list[int]:
        """The trees that may differ: all when those for every peer differ."""
        every = {ANY_IDENTITY, *self._old_trees, *self._new_trees}
        if self._differs(ANY_IDENTITY):
            return sorted(every)
        return sorted(number for number in every if self._differs(number))

    def of_tree(self, number: int) -> _Found:
        """Blocks with another verdict, without what is inside them and has not the same change."""
        trees = tuple(frozenset(each.get(number, {}).items()) for each in (self._old_trees, self._new_trees))
        key = (frozenset(), frozenset()) if number == ANY_IDENTITY else trees
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = _regions(self._judged(number))
        return found

    def _differs(self, number: int) -> bool:
        return self._old_trees.get(number) != self._new_trees.get(number)

    def _blocks_of(self, number: int) -> frozenset[PortBlock]:
        return frozenset((*self._old_trees.get(number, ()), *self._new_trees.get(number, ())))

    def _judged(self, number: int) -> dict[PortBlock, _Pair]:
        """What happens in each block outside all narrower ones; blocks that those fill are left out."""
        blocks = self._common | self._blocks_of(number)
        found: dict[PortBlock, _Pair] = {}
        for block, packet in packets_of(blocks):
            was = lookup(self._old, self._direction, number, *packet).entry
            now = lookup(self._new, self._direction, number, *packet).entry
            found[block] = (was, now)
        return found


def _trees(direction: Direction, entries: Entries) -> dict[int, Tree]:
    found: dict[int, Tree] = {}
    for key, entry in entries.items():
        if key.direction is direction:
            found.setdefault(key.identity, {})[key.ports] = entry
    return found


def _regions(judged: Mapping[PortBlock, _Pair]) -> _Found:
    """Blocks of equal change put together: a block counts as part of the one around it when both change in
    the same way.
    """
    root: dict[PortBlock, PortBlock] = {}
    without: dict[PortBlock, list[PortBlock]] = {}
    for block in sorted(judged, key=lambda one: (one.specificity, one)):
        around = next((one for one in block.ancestors() if one in judged), None)
        if around is not None and _change(judged[around]) == _change(judged[block]):
            root[block] = root[around]
            continue
        root[block] = block
        without[block] = []
        if around is not None:
            without[root[around]].append(block)
    return [
        (block, tuple(sorted(inside)), *judged[block])
        for block, inside in sorted(without.items())
        if _change(judged[block]) is not None
    ]


def _change(pair: _Pair) -> tuple[Shown, Shown] | None:
    was, now = _shown(pair[0]), _shown(pair[1])
    return None if was == now else (was, now)


def _shown(entry: MapEntry | None) -> Shown:
    if entry is None or (entry.action is Action.DENY and not entry.audit):
        return (Action.DENY,)
    return (entry.action, entry.audit, entry.redirect, entry.auth)


def packets_of(blocks: Iterable[PortBlock]) -> Iterator[tuple[PortBlock, tuple[int, int]]]:
    """Each block with protocol and port of a packet whose narrowest block it is; none for blocks that
    narrower ones fill.
    """
    inside: dict[PortBlock, list[PortBlock]] = {block: [] for block in blocks}
    for block in inside:
        around = next((one for one in block.ancestors() if one in inside), None)
        if around is not None:
            inside[around].append(block)
    for block, children in inside.items():
        packet = _packet(block, children)
        if packet is not None:
            yield block, packet


def _packet(block: PortBlock, children: list[PortBlock]) -> tuple[int, int] | None:
    if block.protocol == 0:
        return (_NEVER_ON_THE_WIRE, 0)
    port = block.port
    for one in sorted(children):
        if one.port > port:
            break
        port = _end(one)
    return (block.protocol, port) if port < _end(block) else None


def _end(block: PortBlock) -> int:
    return block.port + (1 << (16 - block.prefix_length))
