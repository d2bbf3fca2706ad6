"""From the contributions to a subject to the minimal entries of its policy map on one node.

    contributions -> expansion (selector references, named ports) -> strongest entry per key -> coverage

Coverage is judged only after the expansion: a broad deny beside a narrower allow would otherwise be lost
for identities that only this node knows. The kernel looks up the longest port block of the identity and
of "any" and takes the stronger; so an entry may be left out exactly when the look-up without it gives the
same effect. Removing a contribution and finishing again shows what it had covered.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias

from axoneme.lib.labels import LabelSet
from axoneme.lib.policy.model import (
    ANY_IDENTITY,
    ANY_PORT,
    Action,
    AnyPeer,
    Contribution,
    Direction,
    Enforcement,
    IdentityPeer,
    MapEntry,
    MapKey,
    NamedPort,
    PortBlock,
    SelectorPeer,
    SubjectPolicy,
    one_port,
)
from axoneme.lib.policy.precedence import DEFAULT_ALLOW
from axoneme.lib.policy.selection import selects

Entries: TypeAlias = dict[MapKey, MapEntry]
Shapes: TypeAlias = frozenset[tuple[int, int]]
Trees: TypeAlias = dict[tuple[Direction, int], dict[PortBlock, MapEntry]]


def finish(
    policy: SubjectPolicy,
    *,
    local_identities: Mapping[int, LabelSet],
    named_ports: Mapping[tuple[int, str], int],
) -> Entries:
    """Return the minimal policy map of a subject on a node.

    `local_identities` are the numbers that selector references may select here; `named_ports` are the ports
    of one endpoint by protocol and name. Raises KeyError for a reference without a definition.
    """
    members = {
        key: tuple(number for number, labels in local_identities.items() if selects(definition, labels))
        for key, definition in policy.selectors.items()
    }
    return _without_covered(_strongest(policy, members, named_ports))


def _strongest(
    policy: SubjectPolicy, members: Mapping[str, Iterable[int]], named_ports: Mapping[tuple[int, str], int]
) -> Entries:
    entries: Entries = {}
    for direction in Direction:
        if policy.enforcement(direction) is Enforcement.DEFAULT_ALLOW:
            entry = MapEntry(action=Action.ALLOW, precedence=DEFAULT_ALLOW)
            entries[MapKey(direction, ANY_IDENTITY, ANY_PORT)] = entry
    for contribution in policy.contributions:
        ports = _ports(contribution.ports, named_ports)
        if ports is None:
            continue
        entry = _entry(contribution)
        for identity in _identities(contribution, members):
            key = MapKey(contribution.direction, identity, ports)
            present = entries.get(key)
            entries[key] = entry if present is None else _merge(present, entry)
    return entries


def _ports(ports: PortBlock | NamedPort, named_ports: Mapping[tuple[int, str], int]) -> PortBlock | None:
    if isinstance(ports, PortBlock):
        return ports
    number = named_ports.get((ports.protocol, ports.name))
    return None if number is None else one_port(ports.protocol, number)


def _identities(contribution: Contribution, members: Mapping[str, Iterable[int]]) -> Iterable[int]:
    peer = contribution.peer
    if isinstance(peer, AnyPeer):
        return (ANY_IDENTITY,)
    if isinstance(peer, IdentityPeer):
        return (peer.number,)
    if isinstance(peer, SelectorPeer):
        return members[peer.key]
    return ()


def _entry(contribution: Contribution) -> MapEntry:
    return MapEntry(
        action=contribution.action,
        precedence=contribution.precedence,
        redirect=contribution.redirect,
        origins=contribution.origins,
        audit=contribution.audit,
    )


def _merge(one: MapEntry, other: MapEntry) -> MapEntry:
    """The stronger of two entries of one key; entries of the same effect unite their origins."""
    if _effect(one) == _effect(other) and one.precedence == other.precedence:
        return MapEntry(
            action=one.action,
            precedence=one.precedence,
            redirect=one.redirect,
            origins=one.origins | other.origins,
            audit=one.audit,
        )
    return max(one, other, key=_strength)


def _effect(entry: MapEntry) -> tuple[object, ...]:
    return (entry.action, entry.redirect, entry.audit)


def _strength(entry: MapEntry) -> tuple[int, bool, tuple[str, ...]]:
    # What is enforced beats what is only reported. The redirect makes the order total: which contribution was
    # seen first must not matter.
    redirect = entry.redirect
    return (
        entry.precedence,
        not entry.audit,
        () if redirect is None else (redirect.parser, redirect.listener),
    )


def _without_covered(entries: Entries) -> Entries:
    trees: Trees = {}
    for key, entry in entries.items():
        trees.setdefault((key.direction, key.identity), {})[key.ports] = entry
    # Few of the 18 widths of a block occur in a policy: only those need a look.
    shapes = frozenset((key.ports.protocol, key.ports.prefix_length) for key in entries)
    return {key: entry for key, entry in entries.items() if not _covered(key, entry, trees, shapes)}


def _covered(key: MapKey, entry: MapEntry, trees: Trees, shapes: Shapes) -> bool:
    """Whether the look-up of any packet that this entry matches gives the same effect without it."""
    own = (entry.precedence, not entry.audit)
    best: tuple[int, bool, int, bool] | None = None
    effect = None
    for identity, block, other in _wider(key, trees, shapes):
        rank = (other.precedence, not other.audit, block.specificity, identity != ANY_IDENTITY)
        if best is None or rank > best:
            best, effect = rank, _effect(other)
    if best is None or best[:2] < own:
        return False
    return best[:2] > own or effect == _effect(entry)


def _wider(key: MapKey, trees: Trees, shapes: Shapes) -> Iterator[tuple[int, PortBlock, MapEntry]]:
    """Entries other than that of `key` that match whatever it matches."""
    for identity in {key.identity, ANY_IDENTITY}:
        tree = trees.get((key.direction, identity), {})
        for block in _wider_blocks(key.ports, shapes):
            other = tree.get(block)
            if other is not None and not (identity == key.identity and block == key.ports):
                yield identity, block, other


@functools.lru_cache(maxsize=4096)
def _wider_blocks(block: PortBlock, shapes: Shapes) -> tuple[PortBlock, ...]:
    return tuple(one for one in (block, *block.ancestors()) if (one.protocol, one.prefix_length) in shapes)
