"""The pinned maps of a node: taken as they are, or replaced by ones of another size or schema.

    take: a pinned map of the wanted definition is used; any other stays where it is, as `old`
    the objects are loaded, and make the maps that nobody gave them
    fill: contents of the old maps go to the new ones, again and again until little is left
    (every program is replaced)
    finish: what was written in between follows, and the pins change over

Until `finish` the old maps and their pins are whole, so that a fault on the way leaves the node as it was.
Maps whose definition did not change between two schemas are the same map under both, with nothing to copy.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from axoneme.lib import log
from axoneme.lib.bpf.create import create_map
from axoneme.lib.bpf.errors import BpfError, MapFullError
from axoneme.lib.bpf.kinds import MapKind, MapSpec
from axoneme.lib.bpf.library import errno_of, libbpf
from axoneme.lib.bpf.maps import KernelMap
from axoneme.lib.errors import FailedPrecondition
from shim.maps.sockets import OPTIONAL, PAIRS
from shim.socketpairs import leave_for_good

logger = logging.getLogger(__name__)

Convert = Callable[[bytes, bytes], tuple[bytes, bytes] | None]
"""Key and value of an older schema → those of this one; None: the entry is not taken over."""

ENOUGH_COPIED, MAX_ROUNDS = 64, 5
_NOT_COPIED = (MapKind.RINGBUF, MapKind.SOCKHASH)


class MapSet:
    """The maps of one load."""

    def __init__(self, pins: Path, *, older: Path | None, converters: Mapping[str, Convert]) -> None:
        self.used: dict[str, KernelMap] = {}
        self._pins, self._older, self._converters = pins, older, converters
        self._old: dict[str, KernelMap] = {}
        self._unpinned: set[str] = set()

    def take(self, specs: Iterable[MapSpec]) -> None:
        """Opens what is pinned and fits; remembers what does not as old."""
        for wanted in specs:
            if wanted.name in self.used or wanted.name in self._old:
                continue
            found = self._open(self._pins / wanted.name)
            if found is None and self._older is not None:
                found = self._open(self._older / wanted.name)
                self._unpinned.add(wanted.name)
            if found is None:
                self._unpinned.add(wanted.name)
            elif _fits(wanted, found):
                self.used[wanted.name] = found
            else:
                self._old[wanted.name] = found
                self._unpinned.add(wanted.name)

    def add(self, name: str, made: KernelMap) -> None:
        """A map that an object made, since it was not among those used."""
        if name in self.used:
            made.close()
        else:
            self.used[name] = made

    def make_missing(self, specs: Iterable[MapSpec]) -> None:
        """Makes those maps that no loaded object has: their pins must be there all the same."""
        for spec in specs:
            if spec.name in self.used:
                continue
            try:
                self.used[spec.name] = create_map(spec)
            except BpfError as error:
                if spec.name not in OPTIONAL:
                    raise
                logger.warning("map not made", extra={log.MAP: spec.name, log.ERROR: log.clip(error)})

    def fill(self) -> None:
        """Copies until a round finds little that is new. Raises FailedPrecondition when it does not fit."""
        for name, old in self._old.items():
            for _ in range(MAX_ROUNDS):
                if self._copy(name, old) < ENOUGH_COPIED:
                    break

    def finish(self) -> None:
        """The last round, then the pins; from here on the old maps are nobody's."""
        if self._old:
            self._leave_to_stack()
        for name, old in self._old.items():
            copied = self._copy(name, old)
            logger.info("map replaced", extra={log.MAP: name, log.COUNT: copied})
        self._pins.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in sorted(self._unpinned & self.used.keys()):
            _pin(self.used[name], self._pins / name)

    def close(self) -> None:
        """Closes descriptors; programs and pins hold the maps."""
        for held in (*self.used.values(), *self._old.values()):
            held.close()

    def ids(self) -> dict[str, int]:
        """Name → the kernel's number of each map."""
        return {name: held.map_id for name, held in self.used.items()}

    def _leave_to_stack(self) -> None:
        """Sockets that pass data directly keep the program that they began with, and so the old maps: there
        they would never see a new policy."""
        for held in (self._old.get(PAIRS.name), self.used.get(PAIRS.name)):
            if held is not None:
                leave_for_good(held)

    def _open(self, path: Path) -> KernelMap | None:
        return KernelMap.open(path) if path.exists() else None

    def _copy(self, name: str, old: KernelMap) -> int:
        """Number of entries that the new map did not have yet."""
        new, convert = self.used.get(name), self._converters.get(name)
        if new is None or old.kind in _NOT_COPIED or old.kind is not new.kind:
            return 0
        if convert is None and (old.key_size, old.value_size) != (new.key_size, new.value_size):
            logger.warning("map starts empty: nothing converts it", extra={log.MAP: name})
            return 0
        if old.kind is MapKind.HASH_OF_MAPS:
            return _copy_inner(old, new)
        present = set() if new.kind.indexed else {key for key, _ in new.items()}
        pairs = [pair for pair in _converted(old.items(), convert) if pair[0] not in present]
        try:
            _write(new, pairs)
        except MapFullError as error:
            raise FailedPrecondition(
                f"{name} holds more than {new.max_entries} entries; enlarge it in map_sizes",
                reason="MAP_FULL",
            ) from error
        return 0 if new.kind.indexed else len(pairs)


def _fits(wanted: MapSpec, found: KernelMap) -> bool:
    actual = (found.kind, found.key_size, found.value_size, found.max_entries, found.flags)
    return actual == (wanted.kind, wanted.key_size, wanted.value_size, wanted.max_entries, wanted.flags)


def _converted(
    pairs: Iterable[tuple[bytes, bytes]], convert: Convert | None
) -> Iterable[tuple[bytes, bytes]]:
    if convert is None:
        return pairs
    return [made for key, value in pairs if (made := convert(key, value)) is not None]


def _write(new: KernelMap, pairs: list[tuple[bytes, bytes]]) -> None:
    if not new.kind.per_cpu:
        new.update_batch(pairs)
        return
    for key, value in pairs:
        new.update(key, value)


def _copy_inner(old: KernelMap, new: KernelMap) -> int:
    """The inner maps themselves are taken over; one that went meanwhile is left out."""
    copied = 0
    for key in [key for key, _ in old.items()]:
        inner_id = old.inner_id(key)
        if inner_id is None or new.inner_id(key) == inner_id:
            continue
        try:
            inner = KernelMap.by_id(inner_id)
        except BpfError:
            continue
        try:
            new.set_inner(key, inner)
        finally:
            inner.close()
        copied += 1
    return copied


def _pin(held: KernelMap, path: Path) -> None:
    """In place of what is pinned there. bpffs does not rename over an existing file before Linux 6.x."""
    scratch = path.with_name(f"{path.name}_new")
    scratch.unlink(missing_ok=True)
    result = libbpf().bpf_obj_pin(held.fd, os.fsencode(scratch))
    if result:
        raise BpfError(errno_of(result), "pin", str(path))
    path.unlink(missing_ok=True)
    scratch.rename(path)
