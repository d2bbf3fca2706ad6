"""Identities that only this node knows, matched against the selectors that policies refer to.

    prefixes that policies name ─┐                          ┌─► labels: mapstates are finished with them
    DNS selectors × prefix ──────┴─► number of local scope ─┴─► prefix → number: the ipcache, after the maps

An address outside every cluster has the number of the longest prefix that a policy of this node names, and
of the world of its family (never 2, since the node is dual stack) where none does. A number lives longer
than its prefix is wanted, so that no packet ever meets a number that its policy map does not know:

    FRESH ──every map knows it──► in the ipcache ──unwanted and out of the ipcache──► RETIRED ──no map──► free

`revision` grows with each change of the table; who finishes maps says up to which revision all maps are.
Numbers go round their whole range, so a free one is not used again soon. Nothing here does I/O.
"""

from __future__ import annotations

import functools
import ipaddress
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from axoneme.lib import identities
from axoneme.lib.labels import LabelSet
from axoneme.lib.policy.locallabels import WORLDS, local_labels

_NUMBERS: Final = range(identities.LOCAL_SCOPE, identities.LOCAL_SCOPE << 1)
_MAPPED: Final = ipaddress.IPv6Network("::ffff:0:0/96")
_MAX_ENDED: Final = 16_384


class LocalKey(NamedTuple):
    """What a local identity stands for: a prefix, and DNS selectors that its addresses were learned for."""

    prefix: str
    names: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Entry:
    number: int
    labels: LabelSet
    since: int  # revision from which on maps know the number, or, retired, do not
    retired: bool = False


class LocalIdentities:
    """Number → labels of every identity that a selector reference is matched against."""

    def __init__(self, first: int = _NUMBERS.start) -> None:
        self.revision = 0
        self._labels: dict[int, LabelSet] = {n: identities.RESERVED[n][1] for n in WORLDS.values()}
        self._entries: dict[LocalKey, _Entry] = {}
        self._used: set[int] = set()
        self._ended: OrderedDict[int, LabelSet] = OrderedDict()
        self._wanted_prefixes: set[LocalKey] = set()
        self._wanted_names: set[LocalKey] = set()
        self._next = first

    def labels(self) -> Mapping[int, LabelSet]:
        """Those that maps have to know, read-only."""
        return MappingProxyType(self._labels)

    def labels_of(self, number: int) -> LabelSet | None:
        """Labels of one number, if it is or was local."""
        return self._labels.get(number) or self._ended.get(number)

    def number_of(self, prefix: str, names: Collection[str] = ()) -> int | None:
        """The number of a prefix and DNS selectors, if they are wanted; of /0 alone that of the world."""
        entry = self._entries.get(LocalKey(prefix, frozenset(names)))
        if entry is not None:
            return None if entry.retired else entry.number
        network = ipaddress.ip_network(prefix)
        return WORLDS[network.version] if not names and not network.prefixlen else None

    def wanted_prefixes(self) -> frozenset[str]:
        """Prefixes that are told apart, or will be."""
        return frozenset(key.prefix for key in self._wanted_prefixes)

    def numbers(self) -> dict[LocalKey, int]:
        """All that maps have to know but the worlds."""
        return {key: one.number for key, one in self._entries.items() if not one.retired}

    def wanted_names(self) -> frozenset[LocalKey]:
        """Sets of DNS selectors that have a number, or will have."""
        return frozenset(self._wanted_names)

    # --- what is wanted

    def want_prefixes(self, prefixes: Collection[str]) -> None:
        """Makes these all that policies name; each new one gets a number."""
        self._wanted_prefixes = {LocalKey(prefix) for prefix in prefixes if has_own_number(prefix)}
        self._admit(self._wanted_prefixes)

    def want_names(self, keys: Collection[LocalKey]) -> None:
        """Makes these all sets of DNS selectors, each with the longest named prefix of its addresses.

        Whoever learns addresses takes those of a set away before it leaves the set out here.
        """
        self._wanted_names = set(keys)
        self._admit(self._wanted_names)

    def _admit(self, wanted: Collection[LocalKey]) -> None:
        """All that come together are of one revision; one that comes back gets its old number."""
        entries = self._entries
        fresh = [key for key in wanted if key not in entries or entries[key].retired]
        if not fresh:
            return
        self.revision += 1
        for key in sorted(fresh, key=_order):
            known = self._entries.get(key)
            number = known.number if known else self._next_free()
            entry = _Entry(
                number, known.labels if known else local_labels(key.prefix, key.names), self.revision
            )
            self._entries[key] = entry
            self._labels[number] = entry.labels
            self._used.add(number)

    # --- what the ipcache may hold

    def publishable(self, covered: int) -> dict[str, int]:
        """Prefix → number of all that are wanted and known to every map, which are all at `covered`."""
        found = {}
        for key in self._wanted_prefixes:
            entry = self._entries[key]
            if not entry.retired and entry.since <= covered:
                found[key.prefix] = entry.number
        return found

    def known_number(self, key: LocalKey, covered: int) -> int | None:
        """The number of a wanted key, if every map, all at `covered`, knows it."""
        entry = self._entries.get(key)
        return entry.number if entry and not entry.retired and entry.since <= covered else None

    def retire(self, held: Callable[[str, int], bool]) -> None:
        """Takes what nobody wants out of the table, unless the ipcache still holds it."""
        wanted = self._wanted_prefixes | self._wanted_names
        going = [
            (key, entry)
            for key, entry in self._entries.items()
            if key not in wanted and not entry.retired and (key.names or not held(key.prefix, entry.number))
        ]
        self.revision += bool(going)
        for _, entry in going:
            entry.retired, entry.since = True, self.revision
            self._end(entry.number, self._labels.pop(entry.number))

    def free(self, covered: int) -> None:
        """Gives back numbers that no map knows any more."""
        for key, entry in [(key, one) for key, one in self._entries.items() if one.retired]:
            if entry.since <= covered:
                del self._entries[key]
                self._used.discard(entry.number)

    # --- restart

    def dump(self) -> dict[str, Any]:
        """Form for the state file."""
        rows = [[one.number, key.prefix, sorted(key.names)] for key, one in self._entries.items()]
        return {"next": self._next, "identities": sorted(rows)}

    def load(
        self,
        dumped: Mapping[str, Any],
        held: Callable[[str, int], bool],
        listed: Collection[int] = (),
    ) -> None:
        """Takes over what `dump` wrote.

        What the ipcache holds is known to every map there is, and so are the numbers of names in `listed`,
        those that the DNS proxy was told.
        """
        self._next = int(dumped.get("next", self._next))
        self.revision = 1
        for number, prefix, names in dumped.get("identities", ()):
            key = LocalKey(prefix, frozenset(names))
            known = number in listed if key.names else held(prefix, number)
            since = 0 if known else self.revision
            self._entries[key] = _Entry(number, local_labels(prefix, names), since)
            self._labels[number] = self._entries[key].labels
            self._used.add(number)
        self._wanted_prefixes = {key for key in self._entries if not key.names}
        self._wanted_names = {key for key in self._entries if key.names}

    def _end(self, number: int, labels: LabelSet) -> None:
        """Flows of the past still carry the number."""
        self._ended[number] = labels
        while len(self._ended) > _MAX_ENDED:
            self._ended.popitem(last=False)

    def _next_free(self) -> int:
        while self._next in self._used:
            self._advance()
        number = self._next
        self._advance()
        self._ended.pop(number, None)
        return number

    def _advance(self) -> None:
        self._next = self._next + 1 if self._next + 1 in _NUMBERS else _NUMBERS.start


@functools.lru_cache(maxsize=65_536)
def has_own_number(prefix: str) -> bool:
    """Whether a prefix gets one: not /0, which is a world, nor IPv4-mapped IPv6, which maps read as IPv4."""
    network = ipaddress.ip_network(prefix)
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        return False
    return network.prefixlen > 0


def _order(key: LocalKey) -> tuple[str, list[str]]:
    return (key.prefix, sorted(key.names))
