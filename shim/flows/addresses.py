"""The addresses that have names, as numbers for whole columns at once.

Most addresses of flows may belong to nobody that this node ever heard of; told apart here, they need no
further look. Knows nothing of who has an address.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from shim.flows.context import Address, FlowContext, address_of
from shim.flows.keytable import KeyTable

Mask = npt.NDArray[np.bool_]


class KnownAddresses:
    """The addresses that have names, numbered from 1; shared by the queries of a node."""

    def __init__(self, context: FlowContext) -> None:
        self._context = context
        self._table = KeyTable()
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
        words = np.frombuffer(b"".join(known), dtype=np.uint64).reshape(-1, 2)
        self._table = KeyTable()
        self._table.add(words[:, 0], words[:, 1])

    def numbers(self, words: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
        """Number of each address (rows of two words), 0 for those without a name."""
        return self._table.find(words[:, 0], words[:, 1]) + np.int32(1)

    def is_local(self, numbers: npt.NDArray[np.int32]) -> Mask:
        """Whether an endpoint of this node has or had the address."""
        return self._local.take(numbers, mode="clip")

    def address(self, number: int) -> Address | None:
        """The address of a number; None for 0."""
        return address_of(self._packed[number]) if number else None
