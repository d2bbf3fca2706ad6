"""The flow store of a node: a ring of the newest records, one array per column.

The event pump appends, queries read; both run in one thread. Records have sequence numbers counted from 0, so
`seen` is also the next number; the slot is the number modulo the capacity. Columns make a filter touch only
the bytes it needs. The store knows nothing of names, filters of the API or time zones: a `Selection` holds
the conditions that numbers can decide, everything else is decided on the decoded flow.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

from shim.flows.record import EVENT_DTYPE, FLAG_REPLY, FLAG_REPLY_KNOWN, Records

_COLUMNS: Final = [name for name in EVENT_DTYPE.names or () if not name.startswith("pad")]
DROPPED: Final = 2
"""The verdict, as records and flows have it."""
_APPEND_BLOCK: Final = 2_048
"""Records copied at a time: small enough that a block stays in the processor's cache for all its columns."""
Mask = npt.NDArray[np.bool_]
Column = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A prefix over 16-byte addresses: `address & mask == base`, as two big-endian words."""

    base: tuple[int, int]
    mask: tuple[int, int]

    @classmethod
    def of(cls, packed: bytes, prefix_length: int) -> Network:
        """A prefix of a mapped address; `prefix_length` counts the 128 bits."""
        value = int.from_bytes(packed, "big")
        mask = ((1 << prefix_length) - 1) << (128 - prefix_length)
        low = (1 << 64) - 1
        return cls(base=((value & mask) >> 64, value & mask & low), mask=(mask >> 64, mask & low))


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Conditions on a record, all of which must hold; an empty set of values is no condition."""

    nothing: bool = False
    """Whether no record of the store can satisfy the filter."""
    since_ns: int | None = None
    until_ns: int | None = None
    values: tuple[tuple[str, frozenset[int]], ...] = ()
    """Column and the numbers it may have."""
    networks: tuple[tuple[str, tuple[Network, ...]], ...] = ()
    """`source_ip` or `destination_ip` and the prefixes, one of which must contain it."""
    tcp_flags: tuple[int, ...] = ()
    """Sets of TCP flag bits, one of which must be set whole; selects only TCP."""
    event_types: tuple[tuple[int, int | None], ...] = ()
    """(event type, sub type or None for any), one of which must hold."""
    replies: frozenset[bool] = frozenset()
    """Whether the packet is a reply; where that is not known, a dropped one counts as none."""
    families: frozenset[int] = frozenset()
    """Versions of the source address, 4 or 6."""


EVERYTHING: Final = Selection()
_IPV4: Final = Network.of(b"\0" * 10 + b"\xff\xff" + b"\0" * 4, 96)


class FlowStore:
    """The newest `capacity` records; older ones are overwritten."""

    layer7: ClassVar[str] = ""
    """Protocol of layer 7 that all records have."""

    def __init__(self, capacity: int) -> None:
        """Take a capacity that is a power of two; memory is claimed at once (about 94 bytes a record)."""
        if capacity < 1 or capacity & (capacity - 1):
            raise ValueError(f"capacity {capacity} is not a power of two")
        self.capacity = capacity
        self.seen = 0
        """Records appended since the start."""
        self.lost = 0
        """Events that never reached the store, as counted by the datapath."""
        self._arrays = {name: np.zeros(capacity, dtype=EVENT_DTYPE[name]) for name in _COLUMNS}
        ips = ("source_ip", "destination_ip")
        self._words = {name: self._arrays[name].view("<u8").reshape(capacity, 2) for name in ips}
        self._floor = 0

    def __len__(self) -> int:
        """Records held."""
        return self.seen - self.oldest

    @property
    def oldest(self) -> int:
        """Sequence number of the oldest record held (equal to `seen` when empty)."""
        return max(self.seen - self.capacity, self._floor)

    @property
    def memory_bytes(self) -> int:
        """Bytes of the columns."""
        return sum(array.nbytes for array in self._arrays.values())

    def append(self, records: Records) -> None:
        """Append records in order; the oldest give way."""
        done = max(0, len(records) - self.capacity)
        self.seen += done
        while done < len(records):
            slot = self.seen & (self.capacity - 1)
            size = min(len(records) - done, self.capacity - slot, _APPEND_BLOCK)
            block = records[done : done + size]
            for name, array in self._arrays.items():
                array[slot : slot + size] = block[name]
            self.seen += size
            done += size

    def count_lost(self, events: int) -> None:
        """Count events that the datapath could not write."""
        self.lost += events

    def rows(self, numbers: npt.NDArray[np.int64]) -> Records:
        """Copies of the records with these sequence numbers, which must still be held."""
        slots = numbers & (self.capacity - 1)
        rows = np.zeros(len(numbers), dtype=EVENT_DTYPE)
        for name, array in self._arrays.items():
            rows[name] = array[slots]
        return rows

    def column(self, name: str, numbers: npt.NDArray[np.int64]) -> Column:
        """One field of the records with these ascending sequence numbers, which must still be held."""
        column: Column = self._arrays[name][self._slots(numbers)]
        return column

    def words(self, name: str, numbers: npt.NDArray[np.int64]) -> Column:
        """`source_ip` or `destination_ip` of such records as rows of two words, as they lie in memory."""
        words: Column = self._words[name][self._slots(numbers)]
        return words

    def events(self, numbers: npt.NDArray[np.int64]) -> Iterable[Any]:
        """What a decoder takes for each of these records, which must still be held; copied by the call."""
        return self.rows(numbers)

    def select(self, selection: Selection, first: int, last: int) -> npt.NDArray[np.int64]:
        """Sequence numbers in [first, last) that satisfy the selection, ascending; gone ones are left out."""
        first, last = max(first, self.oldest), min(last, self.seen)
        if selection == EVERYTHING:
            return np.arange(first, max(first, last), dtype=np.int64)
        windows = () if selection.nothing else self._windows(first, last)
        parts = [base + np.flatnonzero(self._mask(selection, window)) for base, window in windows]
        return np.concatenate(parts).astype(np.int64) if parts else np.empty(0, dtype=np.int64)

    def times(self, first: int, last: int) -> tuple[int, int] | None:
        """Smallest and largest time of the records in [first, last) that are held."""
        first, last = max(first, self.oldest), min(last, self.seen)
        spans = [self._arrays["time_ns"][window] for _, window in self._windows(first, last)]
        if not spans:
            return None
        return min(int(s.min()) for s in spans), max(int(s.max()) for s in spans)

    def identities(self, selection: Selection) -> list[int]:
        """Distinct identities at either end of the records that satisfy the selection."""
        found: set[int] = set()
        for _, window in self._windows(self.oldest, self.seen):
            mask = self._mask(selection, window)
            for name in ("source_identity", "destination_identity"):
                found.update(np.unique(self._arrays[name][window][mask]).tolist())
        return sorted(found)

    def _slots(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64] | slice:
        """Where records are; one stretch of slots (no copy) when ascending numbers are without gaps."""
        if len(numbers) and numbers[-1] - numbers[0] + 1 == len(numbers):
            start = int(numbers[0]) & (self.capacity - 1)
            if start + len(numbers) <= self.capacity:
                return slice(start, start + len(numbers))
        return numbers & (self.capacity - 1)

    def _windows(self, first: int, last: int) -> Iterable[tuple[int, slice]]:
        """The range as at most two stretches of slots, each with its first sequence number."""
        if first >= last:
            return
        start, size = first & (self.capacity - 1), last - first
        head = min(size, self.capacity - start)
        yield first, slice(start, start + head)
        if head < size:
            yield first + head, slice(0, size - head)

    def _mask(self, selection: Selection, window: slice) -> Mask:
        mask = np.ones(window.stop - window.start, dtype=np.bool_)
        time_ns = self._arrays["time_ns"][window]
        if selection.since_ns is not None:
            mask &= time_ns >= np.uint64(max(0, selection.since_ns))
        if selection.until_ns is not None:
            mask &= time_ns <= np.uint64(max(0, selection.until_ns))
        for name, numbers in selection.values:
            mask &= _one_of(self._arrays[name][window], numbers)
        for name, networks in selection.networks:
            mask &= _inside(self._words[name][window], networks)
        if selection.event_types:
            mask &= self._event_types(selection, window)
        if selection.tcp_flags:
            mask &= self._tcp_flags(selection, window)
        if selection.replies:
            mask &= self._replies(selection, window)
        if selection.families:
            mask &= self._families(selection, window)
        return mask

    def _families(self, selection: Selection, window: slice) -> Mask:
        ipv4 = _inside(self._words["source_ip"][window], (_IPV4,))
        mask = np.zeros(window.stop - window.start, dtype=np.bool_)
        if 4 in selection.families:
            mask |= ipv4
        if 6 in selection.families:
            mask |= ~ipv4
        return mask

    def _replies(self, selection: Selection, window: slice) -> Mask:
        flags = self._arrays["flags"][window]
        known, reply = (flags & FLAG_REPLY_KNOWN) != 0, (flags & FLAG_REPLY) != 0
        mask = np.zeros(window.stop - window.start, dtype=np.bool_)
        if True in selection.replies:
            mask |= known & reply
        if False in selection.replies:
            mask |= known & ~reply
            mask |= ~known & (self._arrays["verdict"][window] == DROPPED)
        return mask

    def _event_types(self, selection: Selection, window: slice) -> Mask:
        mask = np.zeros(window.stop - window.start, dtype=np.bool_)
        for event_type, sub_type in selection.event_types:
            part = self._arrays["event_type"][window] == event_type
            if sub_type is not None:
                part &= self._arrays["sub_type"][window] == sub_type
            mask |= part
        return mask

    def _tcp_flags(self, selection: Selection, window: slice) -> Mask:
        flags = self._arrays["tcp_flags"][window]
        mask = np.zeros(window.stop - window.start, dtype=np.bool_)
        for wanted in selection.tcp_flags:
            mask |= (flags & np.uint8(wanted)) == wanted
        mask &= self._arrays["protocol"][window] == 6
        return mask


def _one_of(column: Column, numbers: frozenset[int]) -> Mask:
    """Whether each value is one of few numbers; numbers that the column cannot hold match nothing."""
    limit = int(np.iinfo(column.dtype).max)
    mask = np.zeros(len(column), dtype=np.bool_)
    fitting = [number for number in numbers if 0 <= number <= limit]
    if len(fitting) > 8:
        return np.isin(column, np.array(fitting, dtype=column.dtype))
    for number in fitting:
        mask |= column == column.dtype.type(number)
    return mask


def _inside(words: Column, networks: tuple[Network, ...]) -> Mask:
    """Whether each address lies in one of the prefixes; a word that the mask ignores is not read."""
    mask = np.zeros(len(words), dtype=np.bool_)
    for network in networks:
        part = np.ones(len(words), dtype=np.bool_)
        for index in (1, 0):  # the low word tells IPv4 addresses apart, so it decides first
            wanted, bits = network.base[index], network.mask[index]
            if bits:
                part &= _word_is(words[:, index], wanted, bits)
        mask |= part
    return mask


def _word_is(word: Column, wanted: int, bits: int) -> Mask:
    """Compare big-endian words by their bytes as they lie in memory, without swapping each of them."""
    native_wanted = np.uint64(int.from_bytes(wanted.to_bytes(8, "big"), "little"))
    if bits == (1 << 64) - 1:
        return np.equal(word, native_wanted)
    native_bits = np.uint64(int.from_bytes(bits.to_bytes(8, "big"), "little"))
    masked: Mask = np.equal(word & native_bits, native_wanted)
    return masked
