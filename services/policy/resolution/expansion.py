"""What a bound entry adds to its subjects, given the identities that its selectors select now.

    BoundEntry + numbers + port names ──> groups, shared by every subject of the rule

Plain parts hold for all peers of the entry in one group. A named port of egress holds for each identity under
the number that the name means there, so its peers are split by that number (R-36). Pure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from axoneme.lib.policy.groups import Group
from axoneme.lib.policy.model import (
    CidrDefinition,
    NamedPort,
    Part,
    Peer,
    PortBlock,
    SelectorDefinition,
    one_port,
)
from services.policy.resolution.bind import BoundEntry
from services.policy.resolution.namedports import NamedPorts, PortName


def names_of(entry: BoundEntry) -> set[PortName]:
    """The port names that an entry of egress uses."""
    return {
        (part.ports.protocol, part.ports.name) for part in entry.named if isinstance(part.ports, NamedPort)
    }


def groups_of(entry: BoundEntry, numbers: frozenset[int], names: NamedPorts) -> tuple[Group, ...]:
    """The contributions of an entry, without any two alike; `numbers` are all its cluster-wide peers."""
    groups = []
    fixed = entry.fixed
    if entry.plain and (fixed or numbers):
        groups.append(Group(entry.plain, fixed, numbers))
    for part, holders in _by_part(entry, numbers, names).items():
        groups.append(Group((part,), (), frozenset(holders)))
    return tuple(groups)


def _by_part(entry: BoundEntry, numbers: frozenset[int], names: NamedPorts) -> Mapping[Part, set[int]]:
    found: defaultdict[Part, set[int]] = defaultdict(set)
    for part in entry.named:
        for block, holders in holders_by_port(entry, part, numbers, names).items():
            found[replace(part, ports=block)] |= holders
    # A name that means a port which the entry also names by number adds nothing for the same peers.
    return {part: holders for part, holders in found.items() if entry.anyone or part not in entry.plain}


def _holders(
    entry: BoundEntry, numbers: frozenset[int], ports: Mapping[int, int]
) -> Iterable[tuple[int, int]]:
    if entry.anyone:
        return ports.items()
    if len(ports) < len(numbers):
        return ((number, port) for number, port in ports.items() if number in numbers)
    return ((number, ports[number]) for number in numbers if number in ports)


def holders_by_port(
    entry: BoundEntry, part: Part, numbers: frozenset[int], names: NamedPorts
) -> dict[PortBlock, set[int]]:
    """Whom a named part of egress is about, by what its name means there."""
    found: dict[PortBlock, set[int]] = {}
    if isinstance(part.ports, NamedPort):
        protocol = part.ports.protocol
        for number, port in _holders(entry, numbers, names.numbers((protocol, part.ports.name))):
            found.setdefault(one_port(protocol, port), set()).add(number)
    return found


def weight_of(definition: SelectorDefinition | None) -> int:
    """For how many identities of a node a definition counts at least: one for each prefix that it names."""
    if isinstance(definition, CidrDefinition):
        return len(definition.include) + len(definition.exclude)
    return 1


def same_groups(before: Sequence[Group], after: Sequence[Group]) -> bool:
    """Whether two lists of groups hold the same, told without expanding them."""
    if sum(map(len, before)) != sum(map(len, after)):
        return False
    alike = len(before) == len(after) and all(map(_alike, before, after))
    return alike or _peers_by_part(before) == _peers_by_part(after)


def _alike(one: Group, other: Group) -> bool:
    if one is other:
        return True
    return one.numbers == other.numbers and one.fixed == other.fixed and one.parts == other.parts


def _peers_by_part(groups: Iterable[Group]) -> dict[Part, tuple[frozenset[Peer], frozenset[int]]]:
    found: dict[Part, tuple[frozenset[Peer], frozenset[int]]] = {}
    for group in groups:
        fixed = frozenset(group.fixed)
        for part in group.parts:
            known = found.get(part)
            found[part] = (known[0] | fixed, known[1] | group.numbers) if known else (fixed, group.numbers)
    return found
