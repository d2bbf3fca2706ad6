"""Bound entries in use and their groups, made once for however many subjects.

    selector changed ─> peer sets that use it ─┐
    port name changed ─────────────────────────┴─> stale entries ──refresh──> entries whose groups differ

Entries are counted by `hold` and `release`; entries with equal peers share one set of numbers. The selectors
of held entries are kept in the cache. Single-threaded; nothing is expanded into contributions here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, TypeAlias, TypeVar

from axoneme.lib.policy.groups import Group
from services.policy.resolution.bind import BoundEntry
from services.policy.resolution.dnscompile import Reach, reaches_of
from services.policy.resolution.expansion import groups_of, names_of, same_groups
from services.policy.resolution.namedports import NamedPorts, PortName
from services.policy.resolution.selectorcache import SelectorCache

# The selectors and the fixed numbers whose union a set of peers is.
_PeerName: TypeAlias = tuple[frozenset[int], frozenset[int]]
_NONE: Final[frozenset[int]] = frozenset()
Key = TypeVar("Key")
Value = TypeVar("Value")


class SharedEntries:
    """The groups of all bound entries in use."""

    def __init__(self, cache: SelectorCache[int], names: NamedPorts) -> None:
        self._cache = cache
        self._port_names = names
        self._next = 0
        self._number_of: dict[BoundEntry, int] = {}
        self._entries: dict[int, BoundEntry] = {}
        self._uses: dict[int, int] = {}
        self._groups: dict[int, tuple[Group, ...]] = {}
        self._peers_of: dict[int, _PeerName] = {}
        self._by_peers: dict[_PeerName, set[int]] = {}
        self._numbers: dict[_PeerName, frozenset[int]] = {}
        self._peers_by_selector: dict[int, set[_PeerName]] = {}
        self._by_port_name: dict[PortName, set[int]] = {}
        self._stale_peers: set[_PeerName] = set()
        self._stale: set[int] = set()

    def hold(self, entry: BoundEntry) -> int:
        """Start to follow an entry, or count one more use. Returns its number."""
        number = self._number_of.get(entry)
        if number is not None:
            self._uses[number] += 1
            return number
        number = self._number_of[entry] = self._next
        self._next += 1
        self._entries[number] = entry
        self._uses[number] = 1
        self._groups[number] = ()
        selectors = frozenset(self._cache.keep(one) for one in {*entry.endpoints, *entry.selectors})
        self._follow_peers(number, (selectors, entry.numbers))
        for name in names_of(entry):
            self._by_port_name.setdefault(name, set()).add(number)
        self._stale.add(number)
        return number

    def release(self, number: int) -> None:
        """Count one use less."""
        self._uses[number] -= 1
        if self._uses[number]:
            return
        entry = self._entries.pop(number)
        del self._number_of[entry], self._uses[number], self._groups[number]
        for name in names_of(entry):
            _discard(self._by_port_name, name, number)
        self._stale.discard(number)
        self._leave_peers(number)

    def groups(self, number: int) -> tuple[Group, ...]:
        """The groups of a held entry as of the last refresh."""
        return self._groups[number]

    def reaches(self, number: int) -> Iterator[Reach]:
        """What a held entry allows, as of the last refresh."""
        return reaches_of(self._entries[number], self._numbers[self._peers_of[number]], self._port_names)

    def selectors(self, number: int) -> frozenset[int]:
        """The selectors of a held entry."""
        return self._peers_of[number][0]

    def on_selectors(self, selectors: Iterable[int]) -> None:
        """Note that selectors have other members."""
        for selector in selectors:
            self._stale_peers |= self._peers_by_selector.get(selector, frozenset())

    def on_port_names(self, names: Iterable[PortName]) -> None:
        """Note that port names mean something else for an identity."""
        for name in names:
            self._stale |= self._by_port_name.get(name, _NONE)

    def naming(self, identity: int) -> set[int]:
        """The entries that have an identity among their peers, be it for a port name only."""
        selecting = (one for one in self._peers_by_selector if self._cache.selects(one, identity))
        peers = {name for one in selecting for name in self._peers_by_selector[one]}
        peers |= {name for name in self._by_peers if identity in name[1]}
        found = {number for name in peers for number in self._by_peers[name]}
        for port_name in self._port_names.names_of(identity):
            found |= self._by_port_name.get(port_name, _NONE)
        return found

    def refresh(self) -> set[int]:
        """Bring all groups up to date. Returns the entries whose groups hold something else now."""
        for peers in self._stale_peers & self._by_peers.keys():
            numbers = self._union(peers)
            if numbers != self._numbers[peers]:
                self._numbers[peers] = numbers
                self._stale |= self._by_peers[peers]
        self._stale_peers.clear()
        changed = {number for number in self._stale if self._renew(number)}
        self._stale.clear()
        return changed

    def copy(self, cache: SelectorCache[int], names: NamedPorts) -> SharedEntries:
        """Entries of its own with the same numbers and groups, over copies of the cache and the names."""
        twin = SharedEntries(cache, names)
        twin._next = self._next
        twin._number_of, twin._entries = self._number_of.copy(), self._entries.copy()
        twin._uses, twin._groups = self._uses.copy(), self._groups.copy()
        twin._peers_of, twin._numbers = self._peers_of.copy(), self._numbers.copy()
        twin._by_peers = {peers: entries.copy() for peers, entries in self._by_peers.items()}
        twin._peers_by_selector = {one: peers.copy() for one, peers in self._peers_by_selector.items()}
        twin._by_port_name = {name: entries.copy() for name, entries in self._by_port_name.items()}
        twin._stale_peers, twin._stale = self._stale_peers.copy(), self._stale.copy()
        return twin

    def _renew(self, number: int) -> bool:
        entry = self._entries[number]
        groups = groups_of(entry, self._numbers[self._peers_of[number]], self._port_names)
        # Names for DNS queries may differ where a port name means a port that the entry names by number too.
        alike = same_groups(self._groups[number], groups)
        if alike and not (entry.named and entry.lookups):
            return False
        self._groups[number] = groups
        return True

    def _union(self, peers: _PeerName) -> frozenset[int]:
        selectors, numbers = peers
        if len(selectors) == 1 and not numbers:
            return self._cache.members(*selectors)
        # The largest first: it is copied as a whole, the others number by number.
        return _NONE.union(*sorted(map(self._cache.view, selectors), key=len, reverse=True), numbers)

    def _follow_peers(self, number: int, peers: _PeerName) -> None:
        self._peers_of[number] = peers
        entries = self._by_peers.setdefault(peers, set())
        if not entries:
            self._numbers[peers] = self._union(peers)
            for selector in peers[0]:
                self._peers_by_selector.setdefault(selector, set()).add(peers)
        entries.add(number)

    def _leave_peers(self, number: int) -> None:
        peers = self._peers_of.pop(number)
        entries = self._by_peers[peers]
        entries.discard(number)
        if not entries:
            del self._by_peers[peers], self._numbers[peers]
            self._stale_peers.discard(peers)
            for selector in peers[0]:
                _discard(self._peers_by_selector, selector, peers)
        # Each entry has counted its own use of each selector.
        for selector in peers[0]:
            self._cache.drop(selector)


def _discard(index: dict[Key, set[Value]], key: Key, value: Value) -> None:
    index[key].discard(value)
    if not index[key]:
        del index[key]
