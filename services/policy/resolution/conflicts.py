"""Rules that contradict each other in what they ask of one connection (R-48), whatever their order.

Entries are compared where they say the same thing about the same flows: equal direction, tier, priority,
ports and peer. There two parsers that cannot be merged, two explicit authentication modes, two TLS contexts
or two listeners of one priority are a conflict, unless an entry denies the same flows anyway (R-45). Pure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from axoneme.lib.policy.model import Action, Direction, NamedPort, Origin, PortBlock
from services.policy.resolution.bind import BoundEntry, Claim

Place: TypeAlias = tuple[Direction, int, int, PortBlock | NamedPort, str]
"""Direction, tier, priority, ports and peer."""
_MERGEABLE: Final = frozenset({"http", "tls"})


@dataclass(frozen=True, slots=True, order=True)
class Conflict:
    """Two rules (or two port elements of one) that cannot both hold; `reason` says in what they differ."""

    first: Origin
    second: Origin
    reason: str

    def __str__(self) -> str:
        return f"{_rule_text(self.first)} and {_rule_text(self.second)} {self.reason}"


def _rule_text(origin: Origin) -> str:
    name = f"{origin.namespace}/{origin.name}" if origin.namespace else origin.name
    return f"{origin.rule} of {origin.kind} {name}"


def places(entry: BoundEntry, ports: Iterable[PortBlock | NamedPort]) -> Iterator[Place]:
    """Where an entry speaks about some of its ports."""
    for text in entry.peer_texts:
        for one in ports:
            yield (entry.direction, entry.tier, entry.priority, one, text)


def conflicts_among(entries: Iterable[BoundEntry]) -> list[Conflict]:
    """Every conflict among entries that hold for one subject, in a fixed order."""
    present = list(entries)
    claims: defaultdict[Place, list[tuple[Origin, Claim]]] = defaultdict(list)
    for entry in present:
        for claim in entry.claims:
            for place in places(entry, (claim.ports,)):
                claims[place].append((entry.origin, claim))
    contested = {place: found for place, found in claims.items() if len(found) > 1}
    if not contested:
        return []
    denied = {place for entry in present if entry.action is Action.DENY for place in _denied(entry)}
    found = {
        conflict for place in contested if place not in denied for conflict in _compare(contested[place])
    }
    return sorted(found)


def _denied(entry: BoundEntry) -> Iterator[Place]:
    parts = (*entry.plain, *entry.named)
    return places(entry, [part.ports for part in parts if not part.audit])


def _compare(claims: list[tuple[Origin, Claim]]) -> Iterator[Conflict]:
    for number, (first, one) in enumerate(claims):
        for second, other in claims[number + 1 :]:
            for differs, reason in _CHECKS:
                if differs(one, other):
                    low, high = sorted((first, second), key=_place_of_rule)
                    yield Conflict(low, high, reason)


def _place_of_rule(origin: Origin) -> tuple[str, str, str, str]:
    return (origin.kind, origin.namespace, origin.name, origin.rule)


def _parsers(one: Claim, other: Claim) -> bool:
    named = {one.parser, other.parser} - {""}
    return len(named) > 1 and not named <= _MERGEABLE


def _modes(one: Claim, other: Claim) -> bool:
    return None not in (one.auth, other.auth) and one.auth is not other.auth


def _tls(one: Claim, other: Claim) -> bool:
    pairs = ((one.terminating, other.terminating), (one.originating, other.originating))
    return any(None not in pair and pair[0] != pair[1] for pair in pairs)


def _listeners(one: Claim, other: Claim) -> bool:
    both = bool(one.listener and other.listener)
    return both and one.listener != other.listener and one.priority == other.priority


_CHECKS: Final[tuple[tuple[Callable[[Claim, Claim], bool], str], ...]] = (
    (_parsers, "redirect the same connections to different parsers; give both the same kind of rules"),
    (_modes, "ask for different authentication modes of the same connections; write one mode in both"),
    (_tls, "use different TLS secrets for the same connections; name the same secret in both"),
    (_listeners, "redirect the same connections to two listeners of one priority; set their priorities"),
)
