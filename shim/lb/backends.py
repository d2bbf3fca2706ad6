"""Backends in the kernel: their numbers, which owners have each, and which may not go yet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping

from shim.lb import records
from shim.lb.lbmaps import number_of
from shim.lb.mirror import MirroredMap
from shim.lb.model import Target
from shim.lb.numbers import Numbers
from shim.maps.base import number_key
from shim.maps.lb import BACKEND_LOCAL, BACKEND_TERMINATING


class Backends:
    """A backend has one number, whoever has it, until nobody has it and no set on its way out needs it."""

    def __init__(self, mirrored: MirroredMap) -> None:
        self.numbers: dict[Target, int] = {}
        self.last = Numbers()
        self._map = mirrored
        self._numbered: set[int] = set()
        self._refs: dict[Target, dict[str, int]] = {}  # flags by owner
        self._waiting: Counter[Target] = Counter()  # of sets on their way out
        self._found: set[int] = set()  # what sets of an earlier life may need

    def load(self, last: int) -> None:
        """Takes over what an earlier life left in the map, and the number that it gave last."""
        for key, raw in self._map.content.items():
            number = number_of(key)
            self.numbers.setdefault(records.target_from_value(raw), number)
            self._numbered.add(number)
            self._found.add(number)
        self.last.resume(last, max(self._numbered, default=0))

    def number(self, targets: Iterable[Target]) -> None:
        """Gives numbers to those that have none."""
        for target in targets:
            if target not in self.numbers:
                number = self.numbers[target] = self.last.take(self._numbered)
                self._numbered.add(number)

    def key(self, target: Target) -> bytes:
        """Key of a backend that has a number."""
        return number_key(self.numbers[target])

    def keys(self, targets: Iterable[Target]) -> frozenset[bytes]:
        """Keys of backends that have numbers."""
        return frozenset(map(self.key, targets))

    def value(self, target: Target) -> bytes:
        """Terminating when all owners say so, local when one does."""
        flags = list(self._refs[target].values())
        everyone = BACKEND_TERMINATING if all(one & BACKEND_TERMINATING for one in flags) else 0
        return records.backend_value(target, everyone | max(one & BACKEND_LOCAL for one in flags))

    # --- who has which

    def refer(self, owner: str, target: Target, flags: int) -> None:
        """An owner has a backend, with flags of its own; the entry is the caller's to write."""
        self._refs.setdefault(target, {})[owner] = flags

    def undo(self, owner: str, targets: Collection[Target], before: Mapping[Target, int]) -> None:
        """An owner has of these what it had before; entries that nobody needs go, the others are put back."""
        for target in targets:
            refs = self._refs.get(target, {})
            if target in before:
                refs[owner] = before[target]
            else:
                refs.pop(owner, None)
        self._drop(target for target in targets if target not in before)
        self._map.put({self.key(one): self.value(one) for one in targets if one in before})

    def leave(self, owner: str, targets: Collection[Target]) -> None:
        """An owner has these no more; they wait for `let_go`. Flags of those that others keep may change."""
        kept: dict[bytes, bytes] = {}
        for target in targets:
            self._refs[target].pop(owner, None)
            if self._refs[target]:
                kept[self.key(target)] = self.value(target)
        self._map.put(kept)
        self._waiting.update(targets)

    def let_go(self, targets: Iterable[Target]) -> None:
        """The wait of these is over."""
        targets = tuple(targets)
        for target in targets:
            self._waiting[target] -= 1
            if not self._waiting[target]:
                del self._waiting[target]
        self._drop(targets)

    def keep_used(self, in_slots: set[int]) -> bool:
        """Removes backends of an earlier life that nobody has and no slot names; whether there were any."""
        self._found = in_slots
        needed = set(map(number_key, in_slots)) | {number_key(number) for number in self._in_use()}
        gone = [key for key in self._map.content if key not in needed]
        self._map.drop(gone)
        self.numbers = {one: number for one, number in self.numbers.items() if number_key(number) in needed}
        self._numbered = {number_of(key) for key in self._map.content}
        return bool(gone)

    def _drop(self, targets: Iterable[Target]) -> None:
        """Removes backends that no owner has and no set on its way out needs."""
        for target in targets:
            if self._refs.get(target) or self._waiting[target] or target not in self.numbers:
                continue
            self._refs.pop(target, None)
            if self.numbers[target] in self._found:
                continue
            number = self.numbers.pop(target)
            self._numbered.discard(number)
            self._map.drop([number_key(number)])

    def _in_use(self) -> Iterator[int]:
        for target, number in self.numbers.items():
            if self._refs.get(target) or self._waiting[target]:
                yield number
