"""Consumer of the BPF ring buffer: records leave the kernel by one bulk copy per read.

The kernel shares three regions through the map's descriptor: the consumer position (one page, written here),
the producer position (one page) and the data, mapped twice in a row so that no record ever wraps. Mapping
needs no capability, only an open descriptor. Each record has an 8-byte header whose first word is its length,
with a bit for "still being written" (stop there) and one for "discarded" (skip it). This module never waits:
`fileno()` becomes readable when records arrive.

The consumer position is written with one aligned 8-byte store after the copy. That is a release on x86, which
keeps stores behind earlier loads; other processors would need a barrier here, hence the check at opening.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from shim.flows.record import EVENT_BYTES, EVENT_DTYPE, Records

BUSY: Final = 1 << 31
DISCARD: Final = 1 << 30
HEADER_BYTES: Final = 8
STRIDE: Final = (HEADER_BYTES + EVENT_BYTES + 7) & ~7
MAX_RECORDS_PER_READ: Final = 65_536

_SLOT: Final = np.dtype(
    {
        "names": ["length", "event"],
        "formats": ["<u4", EVENT_DTYPE],
        "offsets": [0, HEADER_BYTES],
        "itemsize": STRIDE,
    }
)
Region = mmap.mmap | bytearray
"""Shared memory of a map, or an imitation of it in tests."""
_TOTAL_STORE_ORDER: Final = ("x86_64", "AMD64", "i686")


class RingReader:
    """Reads events from a ring of `size_bytes`; one reader per ring."""

    def __init__(self, consumer_page: Region, shared: Region, size_bytes: int, fd: int) -> None:
        """Take the consumer page, and one buffer holding the producer page and the data twice."""
        self._buffers = (consumer_page, shared)
        self._consumer = ctypes.c_uint64.from_buffer(consumer_page)
        page_bytes = len(shared) - 2 * size_bytes
        self._producer = np.frombuffer(shared, dtype=np.uint64, count=1)
        self._data = np.frombuffer(shared, dtype=np.uint8, offset=page_bytes)
        self._size_bytes = size_bytes
        self._fd = fd
        self.unknown_records = 0
        """Records of another size, skipped: a sign of a datapath of another version."""

    @classmethod
    def from_fd(cls, fd: int) -> RingReader:
        """Map the ring buffer behind a descriptor, which stays the caller's and must stay open."""
        if platform.machine() not in _TOTAL_STORE_ORDER:
            raise OSError(f"no ring reader for {platform.machine()}: it needs total store order")
        size_bytes = _ring_bytes(fd)
        page_bytes = mmap.PAGESIZE
        consumer = mmap.mmap(fd, page_bytes, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=0)
        length = page_bytes + 2 * size_bytes
        shared = mmap.mmap(fd, length, mmap.MAP_SHARED, mmap.PROT_READ, offset=page_bytes)
        return cls(consumer, shared, size_bytes, fd)

    def fileno(self) -> int:
        """The map's descriptor; epoll reports it readable when records arrive."""
        return self._fd

    @property
    def size_bytes(self) -> int:
        """Size of the data area."""
        return self._size_bytes

    def pending_bytes(self) -> int:
        """Bytes between consumer and producer."""
        return int(self._producer[0]) - self._consumer.value

    def read(self, max_records: int = MAX_RECORDS_PER_READ) -> Records:
        """Copy out what is committed, at most `max_records`, and give the space back to the kernel."""
        position, end = self._consumer.value, int(self._producer[0])
        slots = self._slots(position, min((end - position) // STRIDE, max_records))
        lengths = slots["length"].copy()  # one look: what is committed now is committed for good
        foreign = (lengths & np.uint32(~DISCARD & 0xFFFFFFFF)) != EVENT_BYTES
        count = int(foreign.argmax()) if foreign.any() else len(slots)
        keep = lengths[:count] == EVENT_BYTES
        events = slots["event"][:count]
        records = events.copy() if keep.all() else events[keep]
        position += count * STRIDE
        if position < end and count < max_records:
            singles, position = self._read_one_by_one(position, end, max_records - count)
            records = np.concatenate([records, *singles])
        self._consumer.value = position
        return records

    def _slots(self, position: int, count: int) -> Records:
        offset = position & (self._size_bytes - 1)
        return self._data[offset : offset + count * STRIDE].view(_SLOT)

    def _read_one_by_one(self, position: int, end: int, limit: int) -> tuple[Sequence[Records], int]:
        """Walk record by record: taken only after one that the bulk copy could not place."""
        records: list[Records] = []
        while position < end and len(records) < limit:
            offset = position & (self._size_bytes - 1)
            header = int(self._data[offset : offset + 4].view("<u4")[0])
            if header & BUSY:
                break
            length = header & ~DISCARD
            if length == EVENT_BYTES and not header & DISCARD:
                start = offset + HEADER_BYTES
                records.append(self._data[start : start + EVENT_BYTES].copy().view(EVENT_DTYPE))
            elif not header & DISCARD:
                self.unknown_records += 1
            position += (HEADER_BYTES + length + 7) & ~7
        return records, position

    def close(self) -> None:
        """Unmap; the descriptor stays open."""
        buffers, self._buffers = self._buffers, (bytearray(), bytearray())
        del self._consumer, self._producer, self._data
        for buffer in buffers:
            if isinstance(buffer, mmap.mmap):
                buffer.close()


def _ring_bytes(fd: int) -> int:
    """Size of the data area, from the map's own description."""
    for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines():
        if line.startswith("max_entries:"):
            return int(line.split()[1])
    raise OSError(f"descriptor {fd} is not a BPF map")
