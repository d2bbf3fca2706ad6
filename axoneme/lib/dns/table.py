"""The table of identities of names, which the shim writes and the DNS proxy reads.

    {"version": 1, "revision": 7,
     "selectors": [{"text": "*.x.com", "pattern": true}, …],     DNS selectors of the policies in force
     "prefixes": ["10.0.0.0/8", …],                              prefixes that these policies name
     "identities": [[16777300, "0.0.0.0/0", ["*.x.com"]], …]}    number, prefix, selectors

An identity is in it while every policy map in force knows its number. Those without selectors are of a prefix
alone. One codec for both ends.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final, Literal

import msgspec

from axoneme.lib import identities
from axoneme.lib.dns.index import NameIndex
from axoneme.lib.dns.prefixes import EVERY, PrefixFinder
from axoneme.lib.errors import InvalidArgument
from axoneme.lib.labels import LabelSet
from axoneme.lib.policy.locallabels import WORLDS, local_labels
from axoneme.lib.policy.model import FqdnDefinition

_NUMBERS: Final = range(identities.LOCAL_SCOPE, identities.LOCAL_SCOPE << 1)


class _Selector(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    text: str
    pattern: bool


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: Literal[1]
    revision: int
    selectors: list[_Selector]
    prefixes: list[str]
    identities: list[tuple[int, str, list[str]]]


class SetTable:
    """One revision of the table; immutable."""

    def __init__(
        self,
        revision: int = 0,
        selectors: Iterable[FqdnDefinition] = (),
        prefixes: Iterable[str] = (),
        rows: Iterable[tuple[int, str, Iterable[str]]] = (),
    ) -> None:
        """`rows`: number, prefix, texts of selectors; the prefix is one of `prefixes` or a /0.

        Raises InvalidArgument for what contradicts itself.
        """
        self.revision = revision
        self.selectors = frozenset(selectors)
        self.prefixes = frozenset(prefixes)
        self.index = NameIndex(self.selectors)
        self._identities = tuple((number, prefix, frozenset(names)) for number, prefix, names in rows)
        self._number = {(prefix, names): number for number, prefix, names in self._identities}
        self._by_prefix: dict[str, list[tuple[frozenset[str], int]]] = {}
        try:
            self._finder = PrefixFinder(self.prefixes)
            self._labels = {number: local_labels(prefix, names) for number, prefix, names in self._identities}
        except ValueError as error:
            raise InvalidArgument(f"the table of names has a prefix that is none: {error}") from error
        self._check()
        for number, prefix, names in self._identities:
            self._by_prefix.setdefault(prefix, []).append((names, number))

    @classmethod
    def load(cls, data: bytes) -> SetTable:
        """Reads what `dump` wrote. Raises InvalidArgument for anything else."""
        try:
            file = msgspec.json.decode(data, type=_File)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidArgument(f"the table of names is no file of version 1: {error}") from error
        selectors = [FqdnDefinition(one.text, pattern=one.pattern) for one in file.selectors]
        return cls(file.revision, selectors, file.prefixes, file.identities)

    def dump(self) -> bytes:
        """The file; equal tables are equal bytes."""
        texts = sorted((one.text, one.pattern) for one in self.selectors)
        selectors = [_Selector(text, pattern) for text, pattern in texts]
        rows = sorted((number, prefix, sorted(names)) for number, prefix, names in self._identities)
        return msgspec.json.encode(_File(1, self.revision, selectors, sorted(self.prefixes), rows))

    def prefix_of(self, address: bytes) -> str:
        """The longest prefix that policies name around an address of 4 or 16 bytes, else the /0."""
        return self._finder.find(address)

    def number_of(self, prefix: str, names: frozenset[str]) -> int | None:
        """The number of an address inside a prefix, learned for names that these selectors match."""
        return self._number.get((prefix, names))

    def nearest(self, prefix: str, names: frozenset[str]) -> int | None:
        """The number of the largest known part of a set of selectors, at the same prefix; never of more.

        Of parts of one size the one with the lowest number. None when nothing but the prefix is known.
        """
        parts = [(len(known), -number) for known, number in self._by_prefix.get(prefix, ()) if known <= names]
        size, number = max(parts, default=(0, 0))
        return -number if size else None

    def labels_of(self, number: int) -> LabelSet | None:
        """What selectors see of a number; also of the two worlds."""
        if number in WORLDS.values():
            return identities.RESERVED[number][1]
        return self._labels.get(number)

    def numbers(self) -> frozenset[int]:
        """Every number of the table."""
        return frozenset(self._labels)

    def _check(self) -> None:
        if len(self._labels) != len(self._identities) or len(self._number) != len(self._identities):
            raise InvalidArgument("the table of names has a number or a set twice")
        known = self.prefixes.union(EVERY.values())
        if self.revision < 0 or any(str(ipaddress.ip_network(one)) != one for one in self.prefixes):
            raise InvalidArgument(
                "the table of names has a negative revision or a prefix not in canonical form"
            )
        texts = {one.text for one in self.selectors}
        for number, prefix, names in self._identities:
            if number not in _NUMBERS or prefix not in known or not names <= texts:
                raise InvalidArgument(
                    f"the table of names has an identity ({number}, {prefix!r}) outside the local numbers, "
                    "or of a prefix or selector that it does not name"
                )
