"""The node's identities of names, as the shim leaves them in a file: an immutable value, swapped whole.

    {"version":1,"revision":7,"selectors":[{"text":"*.x.com","pattern":true}],"prefixes":["10.0.0.0/8"],
     "identities":[[16777217,"0.0.0.0/0",["*.x.com"]],[16777218,"10.0.0.0/8",[]]]}

Every policy map in force knows every number in it. An address gets the number of (longest named prefix around
it, all selectors that match its names); where there is none, that of the largest known subset of them, never
one of more selectors and never one of a wider prefix.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from axoneme.lib import identities
from axoneme.lib.dns.index import NameIndex
from axoneme.lib.dns.prefixes import PrefixFinder
from axoneme.lib.labels import LabelSet
from axoneme.lib.policy.locallabels import local_labels
from axoneme.lib.policy.model import FqdnDefinition

VERSION: Final = 1
Key = tuple[str, frozenset[str]]


class IdentityTable:
    """One revision. Empty sets of names are numbers of prefixes alone: only their labels are of use here."""

    def __init__(
        self,
        revision: int = 0,
        selectors: Iterable[FqdnDefinition] = (),
        prefixes: Collection[str] = (),
        identities_: Mapping[int, Key] | None = None,
    ) -> None:
        self.revision = revision
        self.selectors = tuple(sorted(set(selectors), key=lambda one: (one.text, one.pattern)))
        self.keys = dict(identities_ or {})
        self._index = NameIndex(self.selectors)
        self._prefixes = PrefixFinder(prefixes)
        self._numbers = {key: number for number, key in self.keys.items() if key[1]}
        self._labels = {number: local_labels(*key) for number, key in self.keys.items()}
        self._sets: dict[frozenset[str], frozenset[str]] = {}
        self._subsets: dict[Key, int] = {}

    @classmethod
    def read(cls, path: Path) -> IdentityTable:
        """The table in a file; an empty one when there is no file. Raises OSError, ValueError."""
        try:
            return cls.parse(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return cls()

    @classmethod
    def parse(cls, content: Any) -> IdentityTable:
        """Raises ValueError for another form."""
        try:
            if content["version"] != VERSION:
                raise ValueError(f"version {content['version']} is not known")
            selectors = [
                FqdnDefinition(str(one["text"]), bool(one["pattern"])) for one in content["selectors"]
            ]
            keys = {
                int(number): (str(ipaddress.ip_network(prefix)), frozenset(map(str, names)))
                for number, prefix, names in content["identities"]
            }
            return cls(int(content["revision"]), selectors, content["prefixes"], keys)
        except (KeyError, TypeError, IndexError) as error:
            raise ValueError(f"not a table of identities: {error!r}") from error

    def matching(self, name: bytes) -> frozenset[str]:
        """Texts of the selectors that match a name in wire form; equal sets are one object."""
        found = self._index.matching(name)
        return self._sets.setdefault(found, found)

    def prefix_of(self, address: bytes) -> str:
        """The longest named prefix around an address of 4 or 16 bytes, else /0 of its family."""
        return self._prefixes.find(address)

    def number_of(self, prefix: str, names: frozenset[str]) -> int | None:
        """The number of exactly this set."""
        return self._numbers.get((prefix, names))

    def best_number_of(self, prefix: str, names: frozenset[str]) -> int:
        """The number of the largest known subset with this prefix; 0 when there is none."""
        key = (prefix, names)
        if key not in self._subsets:
            known = [one for one in self._numbers if one[0] == prefix and one[1] <= names]
            best = min(known, key=lambda one: (-len(one[1]), sorted(one[1])), default=None)
            if len(self._subsets) >= 4_096:
                self._subsets.clear()
            self._subsets[key] = self._numbers[best] if best is not None else 0
        return self._subsets[key]

    def holds(self, number: int) -> bool:
        """Whether a number may stand in the kernel under this table."""
        key = self.keys.get(number)
        return key is not None and bool(key[1])

    def labels_of(self, number: int) -> LabelSet | None:
        """Labels of a local or reserved identity; None for numbers of the cluster, which have none here."""
        reserved = identities.RESERVED.get(number)
        return reserved[1] if reserved else self._labels.get(number)

    def numbers_with(self, text: str) -> list[int]:
        """Numbers that carry the label of a selector, in order."""
        return sorted(number for (_, names), number in self._numbers.items() if text in names)
