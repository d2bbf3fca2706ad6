"""A map from pairs of 64-bit words to small numbers that looks up whole columns at once.

Open addressing in numpy arrays: a look-up costs a handful of passes over the columns, whatever they hold.
Keys are compared in full, so two that share a hash stay apart. `take` with `clip` is numpy's fastest gather;
what it makes of the -1 of a free slot is masked. Nothing here knows what the words mean.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.int32]
_FREE: Final = -1
_MIN_BITS: Final = 6
_SPARE: Final = 16
"""Slots per key: chains stay short."""
_MIX: Final = tuple(np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F))


class KeyTable:
    """Numbers keys in the order in which they were added, from 0."""

    def __init__(self) -> None:
        self._count = 0
        self._first: Words = np.zeros(1, dtype=np.uint64)
        self._second: Words = np.zeros(1, dtype=np.uint64)
        self._bits = _MIN_BITS
        self._slots: Numbers = np.full(1 << self._bits, _FREE, dtype=np.int32)

    def __len__(self) -> int:
        return self._count

    def find(self, first: Words, second: Words) -> Numbers:
        """The number of each key, -1 where it is not known."""
        slots = self._hash(first, second)
        numbers = np.take(self._slots, slots, mode="clip")
        rest = np.flatnonzero(self._other(numbers, first, second))
        while len(rest):
            slots[rest] = (slots[rest] + 1) & (len(self._slots) - 1)
            numbers[rest] = self._slots[slots[rest]]
            rest = rest[self._other(numbers[rest], first[rest], second[rest])]
        return numbers

    def add(self, first: Words, second: Words) -> None:
        """Adds keys that are distinct and not known yet."""
        start = self._count
        self._count += len(first)
        self._first = _appended(self._first, start, first)
        self._second = _appended(self._second, start, second)
        if self._count * _SPARE > len(self._slots):
            self._bits = max(_MIN_BITS, (self._count * _SPARE - 1).bit_length())
            self._slots = np.full(1 << self._bits, _FREE, dtype=np.int32)
            start = 0
        self._place(np.arange(start, self._count, dtype=np.int32))

    def _place(self, pending: Numbers) -> None:
        slots = self._hash(self._first[pending], self._second[pending])
        while len(pending):
            free = self._slots[slots] == _FREE
            self._slots[slots[free]] = pending[free]  # of several for one slot, the last stays
            left = self._slots[slots] != pending
            pending, slots = pending[left], (slots[left] + 1) & (len(self._slots) - 1)

    def _other(self, numbers: Numbers, first: Words, second: Words) -> npt.NDArray[np.bool_]:
        """Whether a slot holds another key than the wanted one."""
        other: npt.NDArray[np.bool_] = self._first.take(numbers, mode="clip") != first
        other |= self._second.take(numbers, mode="clip") != second
        other &= numbers != _FREE
        return other

    def _hash(self, first: Words, second: Words) -> npt.NDArray[Any]:
        mixed = second * _MIX[0]
        mixed += first
        mixed *= _MIX[1]
        mixed >>= np.uint64(64 - self._bits)
        return mixed.view(np.int64)  # the high bits of a product depend on all bits of the key


def _appended(held: Words, count: int, more: Words) -> Words:
    """The first `count` words of an array and more, in an array that grows by doubling."""
    needed = count + len(more)
    if needed > len(held):
        grown = np.zeros(max(needed, 2 * len(held)), dtype=np.uint64)
        grown[:count] = held[:count]
        held = grown
    held[count:needed] = more
    return held
