"""MemoryMap: a BPF map without a kernel, for unit tests and the simulated datapath.

It keeps the kernel's observable rules (sizes, E2BIG when full, longest prefix match, LRU eviction, fixed
arrays); tests/contract/test_bpf_maps.py holds it to them.
"""

from __future__ import annotations

import errno
import itertools
import struct
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from axoneme.lib.bpf.errors import map_error
from axoneme.lib.bpf.kinds import MapKind, MapSpec

if TYPE_CHECKING:
    from axoneme.lib.bpf.maps import BpfMap

_PREFIX_LENGTH = struct.Struct("=I")
_map_ids = itertools.count(1)


class MemoryMap:
    """A map of one process. Values of per-CPU kinds are `cpus` slots, as the kernel hands them out."""

    def __init__(self, spec: MapSpec, *, cpus: int = 2) -> None:
        self.spec = spec
        self.map_id = next(_map_ids)
        self.closed = False
        self._slots = cpus if spec.kind.per_cpu else 1
        self._entries: dict[bytes, bytes] = {}
        self._inner: dict[bytes, BpfMap] = {}
        if spec.kind.indexed:
            empty = bytes(self._value_bytes())
            self._entries = {struct.pack("=I", index): empty for index in range(spec.max_entries)}

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def kind(self) -> MapKind:
        return self.spec.kind

    @property
    def key_size(self) -> int:
        return self.spec.key_size

    @property
    def value_size(self) -> int:
        return self.spec.value_size

    @property
    def max_entries(self) -> int:
        return self.spec.max_entries

    def lookup(self, key: bytes) -> bytes | None:
        self._check_key("lookup", key)
        if self.kind is MapKind.LPM_TRIE:
            found = self._longest(key)
            return None if found is None else self._entries[found]
        if self.kind is MapKind.LRU_HASH and key in self._entries:
            self._entries[key] = self._entries.pop(key)
        return self._entries.get(key)

    def update(self, key: bytes, value: bytes) -> None:
        self._check_key("update", key)
        if len(value) != self._value_bytes():
            raise map_error(errno.EINVAL, "update", self.name, key)
        stored = self._stored(key)
        if stored not in self._entries and len(self._entries) >= self.max_entries:
            self._make_room(key)
        self._entries[stored] = bytes(value)

    def delete(self, key: bytes) -> bool:
        self._check_key("delete", key)
        if self.kind.indexed:
            raise map_error(errno.EINVAL, "delete", self.name, key)
        stored = self._stored(key)
        self._inner.pop(stored, None)
        return self._entries.pop(stored, None) is not None

    def items(self) -> list[tuple[bytes, bytes]]:
        return list(self._entries.items())

    def update_batch(self, entries: Sequence[tuple[bytes, bytes]]) -> None:
        for key, value in entries:
            self.update(key, value)

    def delete_batch(self, keys: Iterable[bytes]) -> int:
        return sum([self.delete(key) for key in keys])

    def set_inner(self, key: bytes, inner: BpfMap) -> None:
        if self.kind is not MapKind.HASH_OF_MAPS:
            raise map_error(errno.EINVAL, "update", self.name, key)
        self.update(key, struct.pack("=I", inner.map_id))
        self._inner[key] = inner

    def inner_id(self, key: bytes) -> int | None:
        value = self.lookup(key)
        return None if value is None else int(struct.unpack("=I", value)[0])

    def inner(self, key: bytes) -> BpfMap | None:
        """The inner map itself: only the fake can hand it out."""
        return self._inner.get(key)

    def close(self) -> None:
        self.closed = True

    def _value_bytes(self) -> int:
        size = self.spec.value_size
        return size if not self.spec.kind.per_cpu else (size + 7) // 8 * 8 * self._slots

    def _check_key(self, operation: str, key: bytes) -> None:
        if len(key) != self.key_size:
            raise map_error(errno.EINVAL, operation, self.name, key)
        if self.kind is MapKind.LPM_TRIE and _prefix_length(key) > (self.key_size - 4) * 8:
            raise map_error(errno.EINVAL, operation, self.name, key)

    def _stored(self, key: bytes) -> bytes:
        """The key under which an equal one is stored: for a trie, bits past the prefix don't count."""
        return _masked(key, _prefix_length(key)) if self.kind is MapKind.LPM_TRIE else bytes(key)

    def _make_room(self, key: bytes) -> None:
        if self.kind is MapKind.LRU_HASH:
            self._entries.pop(next(iter(self._entries)))
            return
        full = errno.ENOSPC if self.kind is MapKind.LPM_TRIE else errno.E2BIG
        raise map_error(full, "update", self.name, key)

    def _longest(self, key: bytes) -> bytes | None:
        for length in range(_prefix_length(key), -1, -1):
            candidate = _masked(key, length)
            if candidate in self._entries:
                return candidate
        return None


def _prefix_length(key: bytes) -> int:
    return int(_PREFIX_LENGTH.unpack_from(key)[0])


def _masked(key: bytes, length: int) -> bytes:
    width = (len(key) - 4) * 8
    bits = int.from_bytes(key[4:], "big") >> (width - length) << (width - length)
    return _PREFIX_LENGTH.pack(length) + bits.to_bytes(len(key) - 4, "big")
