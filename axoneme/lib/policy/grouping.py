"""The contributions of a subject as groups, whichever way they are held, and what two policies differ in.

    GroupedContributions ──────────────────┐
                                           ├─> groups: parts, and for whom they hold
    frozenset of contributions ─> by part ─┘

Everything after this works on groups, so that many identities with equal rules cost little. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet

from axoneme.lib.policy.groups import Group, GroupedContributions
from axoneme.lib.policy.model import (
    Action,
    Contribution,
    Direction,
    IdentityPeer,
    NamedPort,
    Part,
    Peer,
    PortBlock,
    Redirect,
    SelectorPeer,
    one_port,
)


def groups_of(contributions: AbstractSet[Contribution]) -> tuple[Group, ...]:
    """Groups that together make up the set; none of them is empty."""
    if isinstance(contributions, GroupedContributions):
        return tuple(group for group in contributions.groups if len(group))
    return _by_part(contributions)


def changed_groups(
    old: AbstractSet[Contribution], new: AbstractSet[Contribution]
) -> tuple[tuple[Group, ...], tuple[Group, ...]]:
    """Groups that went and groups that came; a group that is the same object in both is in neither."""
    if isinstance(old, GroupedContributions) and isinstance(new, GroupedContributions):
        before, after = dict.fromkeys(groups_of(old)), dict.fromkeys(groups_of(new))
        return tuple(g for g in before if g not in after), tuple(g for g in after if g not in before)
    if isinstance(old, GroupedContributions) or isinstance(new, GroupedContributions):
        # A group of several parts and groups of one part each are not told apart piece by piece.
        return groups_of(old), groups_of(new)
    return _by_part(old - new), _by_part(new - old)


def resolved(parts: Iterable[Part], named_ports: Mapping[tuple[int, str], int]) -> tuple[Part, ...]:
    """The parts with names of ports replaced by numbers; a name that nothing defines matches nothing."""
    return tuple(_numbered(parts, named_ports))


def selector_keys(groups: Iterable[Group]) -> Counter[str]:
    """How often each selector is referred to."""
    return Counter(peer.key for group in groups for peer in group.fixed if isinstance(peer, SelectorPeer))


def _numbered(parts: Iterable[Part], named_ports: Mapping[tuple[int, str], int]) -> Iterator[Part]:
    for part in parts:
        if not isinstance(part.ports, NamedPort):
            yield part
            continue
        number = named_ports.get((part.ports.protocol, part.ports.name))
        if number is not None:
            yield _part(part, one_port(part.ports.protocol, number))


def _part(one: Part, ports: PortBlock | NamedPort) -> Part:
    return Part(
        direction=one.direction,
        ports=ports,
        action=one.action,
        redirect=one.redirect,
        precedence=one.precedence,
        origins=one.origins,
        audit=one.audit,
        auth=one.auth,
    )


def _by_part(contributions: Iterable[Contribution]) -> tuple[Group, ...]:
    """One group for each part that contributions share."""
    peers_by_part: dict[Part, tuple[set[Peer], set[int]]] = {}
    # Contributions of one rule mostly share the very objects; comparing those is much cheaper than values.
    known: dict[tuple[int, ...], tuple[set[Peer], set[int]]] = {}
    for one in contributions:
        same = (
            one.precedence,
            id(one.ports),
            id(one.origins),
            id(one.redirect),
            id(one.direction),
            id(one.action),
            id(one.auth),
            one.audit,
        )
        peers = known.get(same)
        if peers is None:
            peers = known[same] = peers_by_part.setdefault(_part(one, one.ports), (set(), set()))
        fixed, numbers = peers
        if isinstance(one.peer, IdentityPeer):
            numbers.add(one.peer.number)
        else:
            fixed.add(one.peer)
    return tuple(
        Group((part,), tuple(fixed), frozenset(numbers)) for part, (fixed, numbers) in peers_by_part.items()
    )


class Census:
    """What the parts of a policy say altogether: whether in a direction the word alone decides.

    It does not where a part passes, is only tried out or states an authentication, or where two redirects
    with different targets are equally strong.
    """

    def __init__(self) -> None:
        self._special: Counter[Direction] = Counter()
        self._redirects: dict[Direction, Counter[tuple[int, Redirect]]] = {d: Counter() for d in Direction}

    def add(self, parts: Iterable[Part], count: int = 1) -> None:
        """Count parts in, or out with a count of -1."""
        for part in parts:
            if part.audit or part.auth is not None or part.action is Action.PASS:
                self._special[part.direction] += count
            if part.redirect is not None:
                redirects = self._redirects[part.direction]
                redirects[part.precedence, part.redirect] += count
                if not redirects[part.precedence, part.redirect]:
                    del redirects[part.precedence, part.redirect]

    def word_decides(self, direction: Direction) -> bool:
        """Whether equal words mean equal effects, and the highest word wins."""
        redirects = self._redirects[direction]
        return not self._special[direction] and len({word for word, _ in redirects}) == len(redirects)
