"""What the rules of a subject say about DNS queries: for the proxy, which sees what the mapstate redirects.

    entries that matter (once per set of rules) ─> reaches (names × ports × peers now) ─> DnsRules

A query that is redirected is let through by the union of all allow entries of the level that decides, and an
entry without DNS rules accepts every name (R-47). So the entries with DNS rules count, and of the others
those of the same level that cover a port of theirs, for servers that are redirected at all. Where no rule
locks egress, nothing is refused (R-41); what is only tried out lets nothing through. DNS rules stand in
policies of one level only, so that a Pass above them never changes which of their levels decides. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from axoneme.lib.policy.dnsrules import DnsRule, DnsRules
from axoneme.lib.policy.model import (
    Action,
    AnyPeer,
    Direction,
    FqdnDefinition,
    IdentityPeer,
    NamedPort,
    Part,
    Peer,
    PortBlock,
    SelectorDefinition,
    SelectorPeer,
)
from axoneme.lib.policycodec.dnsrules import digest_of
from services.policy.resolution.bind import BoundEntry
from services.policy.resolution.expansion import holders_by_port
from services.policy.resolution.namedports import NamedPorts

WIDE: Final = 256
"""So many servers of one rule are not listed one by one when the rule is about all that are redirected."""
_DNS: Final = "dns"
_TRANSPORTS: Final = (6, 17)
_LEVEL_SHIFT: Final = 8

_Cell: TypeAlias = tuple[PortBlock, int]
"""Ports with DNS rules, and the level of those rules."""


class Reach(NamedTuple):
    """What one part of an entry allows now. `names` None: every name; `dns`: its queries go to the proxy."""

    ports: PortBlock
    level: int
    dns: bool
    names: frozenset[FqdnDefinition] | None
    fixed: tuple[Peer, ...]
    numbers: frozenset[int]


@dataclass(frozen=True, slots=True)
class _Servers:
    """All whom the DNS rules of a cell are about."""

    fixed: frozenset[Peer]
    numbers: frozenset[int]

    @property
    def anyone(self) -> bool:
        return AnyPeer() in self.fixed

    def inside(self, reach: Reach) -> bool:
        """Whether a reach is about all of them."""
        return not self.anyone and self.fixed.issubset(reach.fixed) and self.numbers <= reach.numbers

    def of(self, reach: Reach) -> Iterator[Peer]:
        """Those whom a reach is about. References stay, for whom they have in common with others is known on
        a node alone; where all servers have numbers there is no such server.
        """
        yield from (one for one in reach.fixed if self.fixed or isinstance(one, AnyPeer))
        for number in reach.numbers if self.anyone else reach.numbers & self.numbers:
            yield IdentityPeer(number)


def entries_about_dns(entries: Iterable[BoundEntry]) -> tuple[BoundEntry, ...]:
    """Those of a subject's entries that count for DNS queries; none without DNS rules."""
    allows = [one for one in entries if any(map(_counts, (*one.plain, *one.named)))]
    asked = [(part, one) for one in allows for part, _ in one.lookups if _is_dns(part)]
    if not asked:
        return ()
    named = any(isinstance(part.ports, NamedPort) for part, _ in asked)
    blocks = {part.ports for part, _ in asked if isinstance(part.ports, PortBlock)}
    with_rules = {one.origin.origin_id for _, one in asked}
    return tuple(
        one
        for one in allows
        if named or one.named or one.origin.origin_id in with_rules or _covers_any(one.plain, blocks)
    )


def _counts(part: Part) -> bool:
    allows = part.action in (Action.ALLOW, Action.REDIRECT) and not part.audit
    return allows and part.direction is Direction.EGRESS


def _is_dns(part: Part) -> bool:
    return part.redirect is not None and part.redirect.parser == _DNS


def _covers_any(parts: Iterable[Part], blocks: Collection[PortBlock]) -> bool:
    plain = (part.ports for part in parts if isinstance(part.ports, PortBlock))
    return any(ports.covers(block) for ports in plain for block in blocks)


def reaches_of(entry: BoundEntry, numbers: frozenset[int], port_names: NamedPorts) -> Iterator[Reach]:
    """What an entry allows, `numbers` being all its cluster-wide peers now."""
    names = dict(entry.lookups)
    for part in entry.plain:
        if isinstance(part.ports, PortBlock) and (entry.fixed or numbers):
            yield from _reach(part, part.ports, names, entry.fixed, numbers)
    for part in entry.named:
        for block, holders in holders_by_port(entry, part, numbers, port_names).items():
            yield from _reach(part, block, names, (), frozenset(holders))


def _reach(
    part: Part,
    ports: PortBlock,
    names: Mapping[Part, frozenset[FqdnDefinition] | None],
    fixed: tuple[Peer, ...],
    numbers: frozenset[int],
) -> Iterator[Reach]:
    """The reach of a part; none for a redirect whose parser lets no DNS query through."""
    if _counts(part) and (part.action is Action.ALLOW or part in names):
        level = part.precedence >> _LEVEL_SHIFT
        yield Reach(ports, level, _is_dns(part), names.get(part), fixed, numbers)


def rules_of(
    reaches: Iterable[Reach], selectors: Mapping[str, SelectorDefinition], *, locked: bool
) -> DnsRules | None:
    """The rules of a subject whose entries have these reaches; None if nothing of it goes to the proxy.

    `locked`: a rule switches default deny on for egress.
    """
    every = list(reaches)
    cells = _cells(every)
    if not cells:
        return None
    wide = len({level for _, level in cells}) == 1  # else "every server" would reach over the levels
    found: dict[tuple[Peer, _Cell], frozenset[FqdnDefinition] | None] = {}
    for cell, servers in cells.items() if locked else ():
        for reach in every:
            if reach.level == cell[1] and reach.ports.covers(cell[0]):
                for peer in _peers(reach, servers, wide=wide):
                    _add(found, (peer, cell), reach.names)
    if not locked:
        found = {(AnyPeer(), cell): None for cell in cells}
    rules = frozenset(_rule(peer, cell, names) for (peer, cell), names in found.items())
    keys = {rule.peer.key for rule in rules if isinstance(rule.peer, SelectorPeer)}
    known = {key: selectors[key] for key in sorted(keys)}
    return DnsRules(rules=rules, selectors=known, digest=digest_of(rules))


def _cells(reaches: Iterable[Reach]) -> dict[_Cell, _Servers]:
    found: dict[_Cell, _Servers] = {}
    for reach in reaches:
        if reach.dns and reach.ports.protocol in _TRANSPORTS:
            known = found.get((reach.ports, reach.level), _Servers(frozenset(), frozenset()))
            servers = _Servers(known.fixed.union(reach.fixed), known.numbers | reach.numbers)
            found[reach.ports, reach.level] = servers
    return found


def _peers(reach: Reach, servers: _Servers, *, wide: bool) -> Iterable[Peer]:
    if wide and len(servers.numbers) > WIDE and servers.inside(reach):
        return (AnyPeer(),)
    return servers.of(reach)


def _add(
    found: dict[tuple[Peer, _Cell], frozenset[FqdnDefinition] | None],
    place: tuple[Peer, _Cell],
    names: frozenset[FqdnDefinition] | None,
) -> None:
    present = found.get(place, frozenset())
    found[place] = None if present is None or names is None else present | names


def _rule(peer: Peer, cell: _Cell, names: frozenset[FqdnDefinition] | None) -> DnsRule:
    block, level = cell
    return DnsRule(
        peer=peer,
        protocol=block.protocol,
        port=block.port,
        prefix_length=block.prefix_length,
        level=level,
        every_name=names is None,
        names=names or frozenset(),
    )
