"""Maglev tables (Eisenbud et al., NSDI 2016, §3.4): which backend has which element.

Every backend has its own order of all elements, made of two hashes of its name: `offset`, then steps of
`skip`. Backends take turns; each turn takes the first free element of one's order. The outcome depends on
the set of names alone, so every node that knows the same backends has the same table.

The paper's loop tries one element after the other, and late in a table nearly every try finds one taken. So:

    first 5/6 of the elements   as in the paper
    then                        32 tries at once: a slice of the order out of a row of copies of the table
    last √size                  the other way round: which of the few free elements comes first in the order

The outcome is the paper's, and a table takes about as long for 10 backends as for 1000
(docs/adr/0020-maglev.md has figures, and why a table is not derived from the one before).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import mmh3

from axoneme.lib.errors import InvalidArgument

SIZES: Final = (251, 509, 1021, 2039, 4093, 8191, 16_381, 32_749, 65_521, 131_071)
"""Sizes that a table may have: the largest primes below powers of two."""

_SEED: Final = 0x61786F6E  # "axon"; another value makes other tables, so it never changes
_FREE: Final = -1
_TRIES: Final = 32


def table(names: Sequence[str], size: int) -> list[int]:
    """The index of a backend in `names` for each of `size` elements.

    `names` come sorted and without doubles, so that all nodes have one order of turns. Raises
    InvalidArgument for another size, or for none or more names than elements.
    """
    if size not in SIZES:
        raise InvalidArgument.of_field("maglev_table_size", f"{size} is none of {SIZES}")
    if not 0 < len(names) <= size:
        raise InvalidArgument(f"a Maglev table of {size} elements cannot hold {len(names)} backends")
    if len(names) == 1:
        return [0] * size
    late, tail = size // 6, int(size**0.5)
    filling = _Filling(names, size)
    filling.take_first_free(size - late)
    filling.take_first_free_by_slices(late - tail)
    filling.take_best_of_free()
    return filling.elements


@lru_cache(maxsize=1 << 16)
def order(name: str, size: int) -> tuple[int, int]:
    """Offset and skip of a backend: 0 ≤ offset < size, 1 ≤ skip < size."""
    low, high = mmh3.hash64(name.encode(), _SEED, signed=False)
    return low % size, high % (size - 1) + 1


class _Filling:
    """A table while it is filled, and whose turn it is."""

    def __init__(self, names: Sequence[str], size: int) -> None:
        self.elements = [_FREE] * size
        self._size = size
        self._orders = [order(name, size) for name in names]
        self._places = [offset for offset, _ in self._orders]  # all before them in their order are taken
        self._turn = 0

    def take_first_free(self, turns: int) -> None:
        """Gives so many elements away as in the paper, beginning with the first backend."""
        elements, places, size, count = self.elements, self._places, self._size, len(self._orders)
        skips, taken = [skip for _, skip in self._orders], [False] * size
        for begun in range(0, turns, count):
            for index in range(min(count, turns - begun)):
                place = places[index]
                if taken[place]:  # the innermost loop of the shim: nothing but tries
                    skip = skips[index]
                    place += skip
                    if place >= size:
                        place -= size
                    while taken[place]:
                        place += skip
                        if place >= size:
                            place -= size
                    places[index] = place
                elements[place] = index
                taken[place] = True
        self._turn = turns % count

    def take_first_free_by_slices(self, turns: int) -> None:
        """The same where most elements are taken."""
        places, orders, size = self._places, self._orders, self._size
        copies = bytearray(index != _FREE for index in self.elements) * (_TRIES + 1)
        everywhere = b"\1" * (_TRIES + 1)
        for _ in range(turns):
            place, skip = places[self._turn], orders[self._turn][1]
            reach = _TRIES * skip
            while (found := copies[place : place + reach : skip].find(0)) < 0:
                place = (place + reach) % size
            place = places[self._turn] = (place + found * skip) % size
            copies[place::size] = everywhere
            self._take(place)

    def take_best_of_free(self) -> None:
        """Gives the rest away: `skip` has an inverse, since sizes are prime."""
        size = self._size
        free = {place for place, index in enumerate(self.elements) if index == _FREE}
        inverses: dict[int, int] = {}
        while free:
            offset, skip = self._orders[self._turn]
            inverse = inverses.get(skip) or inverses.setdefault(skip, pow(skip, -1, size))
            tries = {(place - offset) * inverse % size: place for place in free}
            place = tries[min(tries)]
            free.discard(place)
            self._take(place)

    def _take(self, place: int) -> None:
        self.elements[place] = self._turn
        self._turn = (self._turn + 1) % len(self._orders)
