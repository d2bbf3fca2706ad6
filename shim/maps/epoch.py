"""The epoch: a number that changes after each write to a map whose look-ups the programs remember.

    write ─► new epoch ─► nothing that was found before, or during the write, counts any more (remembered.h)

`WatchedMap` does so by itself, so no writer can forget it. Inner policy maps are written without one: the
generation that rises after a switch does the same, and who writes without a new generation calls `new_epoch`.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping, Sequence
from typing import Final

from axoneme.lib.bpf.maps import BpfMap, KernelMap
from shim.maps import layout
from shim.maps.base import number_key

WATCHED: Final = frozenset((layout.IPCACHE.name, layout.POLICY.name))


def new_epoch(epoch: BpfMap) -> None:
    """Call it after the write, also after one that failed half-way. Raises BpfError.

    A random number, not the next one: of two writers at once neither may bring back a number that was.
    """
    epoch.update(number_key(0), os.urandom(epoch.value_size))


def watch(maps: MutableMapping[str, KernelMap]) -> None:
    """Puts watched maps, of the same descriptors, in the place of those that are to be watched."""
    for name in WATCHED & maps.keys():
        if not isinstance(maps[name], WatchedMap):
            maps[name] = WatchedMap(maps[name].fd, maps[layout.EPOCH.name])


class WatchedMap(KernelMap):
    """A map whose writes begin a new epoch."""

    def __init__(self, fd: int, epoch: BpfMap) -> None:
        super().__init__(fd)
        self._epoch = epoch

    def update(self, key: bytes, value: bytes) -> None:
        try:
            super().update(key, value)
        finally:
            new_epoch(self._epoch)

    def delete(self, key: bytes) -> bool:
        try:
            return super().delete(key)
        finally:
            new_epoch(self._epoch)

    def update_batch(self, entries: Sequence[tuple[bytes, bytes]]) -> None:
        try:
            super().update_batch(entries)
        finally:
            new_epoch(self._epoch)
