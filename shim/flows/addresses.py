"""The addresses that have names, as numbers for whole columns at once.

Most addresses of flows may belong to nobody that this node ever heard of; told apart here, they need no
further look. Knows nothing of who has an address.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from shim.flows.context import Address, FlowContext, address_of
from shim.flows.keytable import KeyTable

Mask = npt.NDArray[np.bool_]
_HASH_BITS: Final = 16
_MIX: Final = np.uint64(0x9E3779B97F4A7C15)


class AddressTable:
    """Numbers addresses from 1 in the order given; 0 stands for all others.

    Most addresses that are asked for are none of them, so a small table of hashes sorts those out first.
    """

    def __init__(self, packed: Sequence[bytes]) -> None:
        words = np.frombuffer(b"".join(packed), dtype=np.uint64).reshape(-1, 2)
        self._table = KeyTable()
        self._table.add(words[:, 0], words[:, 1])
        self._maybe = np.zeros(1 << _HASH_BITS, dtype=np.bool_)
        self._maybe[_hash(words)] = True

    def numbers(self, words: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
        """Number of each address (rows of two words)."""
        found = np.zeros(len(words), dtype=np.int32)
        rows = np.flatnonzero(self._maybe.take(_hash(words), mode="clip"))
        if len(rows) == len(words):
            return self._table.find(words[:, 0], words[:, 1]) + np.int32(1)
        if len(rows):
            found[rows] = self._table.find(words[rows, 0], words[rows, 1]) + np.int32(1)
        return found


def _hash(words: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """By the low word, which tells addresses of one network apart."""
    mixed = words[:, 1] * _MIX
    mixed >>= np.uint64(64 - _HASH_BITS)
    hashed: npt.NDArray[np.int64] = mixed.view(np.int64)
    return hashed


class KnownAddresses:
    """The addresses that have names, numbered from 1; shared by the queries of a node."""

    def __init__(self, context: FlowContext) -> None:
        self._context = context
        self._table = AddressTable(())
        self._local = np.zeros(1, dtype=np.bool_)
        self._packed: list[bytes] = [b""]
        self.revision: int | None = None

    def refresh(self) -> None:
        """Follows the context; a new `revision` says that any name may have changed."""
        if self.revision == self._context.revision:
            return
        self.revision = self._context.revision
        known = self._context.known_addresses()
        self._packed = [b"", *known]
        self._local = np.array([False, *known.values()], dtype=np.bool_)
        self._table = AddressTable(list(known))

    def numbers(self, words: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
        """Number of each address (rows of two words), 0 for those without a name."""
        return self._table.numbers(words)

    def is_local(self, numbers: npt.NDArray[np.int32]) -> Mask:
        """Whether an endpoint of this node has or had the address."""
        return self._local.take(numbers, mode="clip")

    def address(self, number: int) -> Address | None:
        """The address of a number; None for 0."""
        return address_of(self._packed[number]) if number else None


class NamedAddresses:
    """The addresses for which some endpoint learned a DNS name, numbered from 1; shared by the queries."""

    def __init__(self, context: FlowContext) -> None:
        self._context = context
        self._table = AddressTable(())
        self.packed: list[bytes] = [b""]
        """By number; 0 stands for all addresses without a name."""
        self.revision: int | None = None

    def refresh(self) -> None:
        """Follows the context; a new `revision` says that any name may have changed."""
        if self.revision == self._context.names_revision:
            return
        self.revision = self._context.names_revision
        named = list(self._context.named_addresses())
        self.packed = [b"", *named]
        self._table = AddressTable(named)

    def numbers(self, words: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
        """Number of each address (rows of two words), 0 for those without a name."""
        return self._table.numbers(words)
