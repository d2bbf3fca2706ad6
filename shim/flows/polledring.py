"""The portable consumer of the BPF ring buffer: libbpf walks it record by record, on every processor.

`ring.py` copies many records at once, but writes the consumer position with a plain store, which is enough
only on processors with total store order. libbpf has the barriers; a call back into Python for each record
makes it several times slower. `open_ring` chooses by trying, never by configuration.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable
from typing import Any, Final, Protocol

import numpy as np

from axoneme.lib import log
from axoneme.lib.bpf.errors import BpfError
from axoneme.lib.bpf.library import libbpf
from shim.flows.record import EVENT_BYTES, EVENT_DTYPE, Records, records_from_bytes
from shim.flows.ring import MAX_RECORDS_PER_READ, RingReader

logger = logging.getLogger(__name__)

_SAMPLE: Final = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_ENOUGH: Final = -1


class Ring(Protocol):
    """What both readers offer."""

    unknown_records: int

    def read(self, max_records: int = MAX_RECORDS_PER_READ) -> Records:
        """The records that are there, perhaps none."""

    def fileno(self) -> int:
        """A descriptor that becomes readable when records arrive."""

    def close(self) -> None:
        """Gives back what was mapped; the map's descriptor stays open."""


class PolledRing:
    """Reads events through libbpf; one reader per ring."""

    def __init__(self, fd: int) -> None:
        """Takes the map's descriptor, which stays the caller's. Raises BpfError for a map of another kind."""
        self._library: Any = libbpf()
        self._taken: list[bytes] = []
        self._limit = 0
        self.unknown_records = 0
        """Records of another size, skipped: a sign of a datapath of another version."""
        self._callback = _SAMPLE(self._sample)  # libbpf keeps the pointer: it lives as long as the ring
        self._ring = self._library.ring_buffer__new(fd, self._callback, None, None)
        if not self._ring:
            raise BpfError(ctypes.get_errno(), "map", f"ring buffer of descriptor {fd}")
        self._fd = fd

    def fileno(self) -> int:
        """The map's descriptor; epoll reports it readable when records arrive."""
        return self._fd

    def read(self, max_records: int = MAX_RECORDS_PER_READ) -> Records:
        """Takes what is committed, at most `max_records`."""
        self._limit = max_records
        result = self._library.ring_buffer__consume(self._ring)
        taken, self._taken = self._taken, []
        if result < 0 and len(taken) < max_records:
            raise BpfError(-result, "read", f"ring buffer of descriptor {self._fd}")
        return records_from_bytes(b"".join(taken)) if taken else np.empty(0, EVENT_DTYPE)

    def close(self) -> None:
        """Unmaps; the descriptor stays open."""
        if self._ring:
            self._library.ring_buffer__free(self._ring)
            self._ring = None

    def _sample(self, _context: int, data: int, size: int) -> int:
        """One record; a negative answer ends the walk behind it."""
        if size == EVENT_BYTES:
            self._taken.append(ctypes.string_at(data, EVENT_BYTES))
        else:
            self.unknown_records += 1
        return _ENOUGH if len(self._taken) >= self._limit else 0


def open_ring(fd: int, *, bulk: Callable[[int], Ring] = RingReader.from_fd) -> Ring:
    """The bulk reader where this machine can have it, else the portable one."""
    try:
        return bulk(fd)
    except (OSError, ValueError) as error:
        logger.warning("events are read one by one", extra={log.ERROR: log.clip(error)})
        return PolledRing(fd)
