"""What the distinct ends of a node's flows are called, at each time, shared by all queries.

The names of an end follow from few numbers: identity, address, endpoint and, where a name changed hands, the
time. Addresses that nobody here ever named are all alike, so there are few distinct ends however many
addresses the flows have. Each is looked up once and gets a number; equal names have equal numbers, so a query
judges each distinct name once, whatever the number of ends and records.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from shim.flows.addresses import KnownAddresses
from shim.flows.context import Address, FlowContext, WorkloadInfo
from shim.flows.endnames import EndNames, end_names
from shim.flows.keytable import KeyTable, Words

MAX_ENDS: Final = 65_536
MAX_PLAIN: Final = 1 << 16
"""Identities of the cluster are below this; those of single nodes are not."""
_VARIES: Final = -1
_UNKNOWN: Final = -2
_IDENTITY_SHIFT: Final = np.uint64(32)
Numbers = npt.NDArray[np.int32]
Times = npt.NDArray[np.uint64]


class Namer(Protocol):
    """What a decoder offers."""

    addresses: KnownAddresses

    @property
    def context(self) -> FlowContext:
        """What names the numbers."""

    def workload(
        self, address: Address | None, endpoint_id: int, time_ns: int, *, spoofed: bool = False
    ) -> WorkloadInfo | None:
        """Who is behind one end."""

    def labels(self, identity: int, workload: WorkloadInfo | None, time_ns: int) -> tuple[str, ...]:
        """Labels of one end."""


class _Varying(NamedTuple):
    """`names[i]` holds from `times[i - 1]` on, the first one before all times."""

    times: Times
    names: Numbers


class EndDirectory:
    """Numbers of names by end, learned on the way.

    An end is a pair of words: identity and number of the address; endpoint, and whether it sent a spoofed
    source (bit 16).
    """

    def __init__(self, namer: Namer) -> None:
        self._namer = namer
        self._revision: int | None = None
        self.generation = 0
        """Grows whenever all numbers were forgotten."""
        self._forget()

    def _forget(self) -> None:
        self.generation += 1
        self._table = KeyTable()
        self._name_of: Numbers = np.zeros(0, dtype=np.int32)
        self._varying: dict[int, _Varying] = {}
        self._plain: Numbers = np.full(MAX_PLAIN, _UNKNOWN, dtype=np.int32)
        self._plain_varies = False
        self._numbers: dict[EndNames, int] = {}
        self.names: list[EndNames] = []
        """Distinct names by number."""

    def refresh(self) -> None:
        """Follows what is known of addresses, endpoints and labels."""
        addresses = self._namer.addresses
        addresses.refresh()
        if self._revision != addresses.revision or len(self._table) > MAX_ENDS:
            self._revision = addresses.revision
            self._forget()

    def of_strangers(self, identities: npt.NDArray[np.uint32]) -> Numbers | None:
        """The names of ends whose address nobody had and whose endpoint says nothing, one by identity.

        None where identities are too large for a table, or names change with time: then `numbers` decides.
        """
        if self._plain_varies or int(identities.max(initial=0)) >= len(self._plain):
            return None
        numbers = self._plain.take(identities, mode="clip")
        if (numbers == _UNKNOWN).any():
            fresh = np.unique(identities[numbers == _UNKNOWN]).astype(np.uint64)
            found = self.numbers(fresh << _IDENTITY_SHIFT, np.zeros_like(fresh), _any_time)
            self._plain[fresh.astype(np.int64)] = found
            if self._plain_varies:
                return None
            numbers = self._plain.take(identities, mode="clip")
        return numbers

    def numbers(
        self, first: Words, second: Words, times: Callable[[npt.NDArray[np.int64]], Times]
    ) -> Numbers:
        """The number of each record's names; `times` gives the times of the records at some positions."""
        keys = self._known(first, second)
        numbers = self._name_of.take(keys, mode="clip")
        if self._varying and len(changing := np.flatnonzero(numbers == _VARIES)):
            numbers[changing] = self._names_then(keys[changing], times(changing))
        return numbers

    def _known(self, first: Words, second: Words) -> Numbers:
        """The number of each record's end; new ones are looked up on the way."""
        keys = self._table.find(first, second)
        missing = np.flatnonzero(keys < 0)
        while len(missing):
            _, some = np.unique(first[missing], return_index=True)
            some = missing[some]
            self._learn(first[some], second[some])
            keys[missing] = self._table.find(first[missing], second[missing])
            missing = missing[keys[missing] < 0]
        return keys

    def _learn(self, first: Words, second: Words) -> None:
        start = len(self._table)
        self._table.add(first, second)
        pairs = zip(first.tolist(), second.tolist(), strict=True)
        fresh = [self._look_up(start + index, *pair) for index, pair in enumerate(pairs)]
        self._name_of = np.concatenate([self._name_of, np.array(fresh, dtype=np.int32)])

    def _look_up(self, key: int, first: int, second: int) -> int:
        """Number of an end's names, or _VARIES where they change with time."""
        identity, address = first >> 32, self._namer.addresses.address(first & 0xFFFF_FFFF)
        endpoint_id, spoofed = second & 0xFFFF, bool(second >> 16)
        times = sorted(set(self._namer.context.change_times(identity, address, endpoint_id, 0)))
        found = []
        for time_ns in (0, *times):
            workload = self._namer.workload(address, endpoint_id, time_ns, spoofed=spoofed)
            names = end_names(self._namer.labels(identity, workload, time_ns), workload)
            found.append(self._number(names))
        if found.count(found[0]) == len(found):
            return found[0]
        self._plain_varies = self._plain_varies or not (address is not None or second)
        self._varying[key] = _Varying(np.array(times, dtype=np.uint64), np.array(found, dtype=np.int32))
        return _VARIES

    def _number(self, names: EndNames) -> int:
        number = self._numbers.setdefault(names, len(self.names))
        if number == len(self.names):
            self.names.append(names)
        return number

    def _names_then(self, keys: Numbers, times: Times) -> Numbers:
        """Numbers for records of ends whose names change."""
        order = np.argsort(keys, kind="stable")
        found, starts = np.unique(keys[order], return_index=True)
        numbers = np.zeros(len(keys), dtype=np.int32)
        for key, rows in zip(found.tolist(), np.split(order, starts[1:]), strict=True):
            varying = self._varying[key]
            numbers[rows] = varying.names[np.searchsorted(varying.times, times[rows], side="right")]
        return numbers


def _any_time(positions: npt.NDArray[np.int64]) -> Times:
    return np.zeros(len(positions), dtype=np.uint64)
