"""BpfMap: what the shim knows of a map; KernelMap: a map in the kernel, by file descriptor or pin.

Keys and values are bytes. Lookups, updates and deletes need no capability, only the descriptor; creating a
map does (`create.py`). Errors name the operation, the map and the key. Ring buffers have their own consumer.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from axoneme.lib.bpf.errors import BpfError, map_error
from axoneme.lib.bpf.kinds import MapKind
from axoneme.lib.bpf.library import errno_of, libbpf

_BATCH = 4096  # entries per lookup batch: one call for most maps, 200 KiB of buffers


class BpfMap(Protocol):
    """A BPF map. Values of per-CPU kinds are all CPUs' slots (`split_cpus`); `value_size` is that of one."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> MapKind: ...
    @property
    def key_size(self) -> int: ...
    @property
    def value_size(self) -> int: ...
    @property
    def max_entries(self) -> int: ...
    @property
    def map_id(self) -> int: ...

    def lookup(self, key: bytes) -> bytes | None:
        """The value, None when absent. In an LPM trie: of the longest prefix that covers `key`."""

    def update(self, key: bytes, value: bytes) -> None:
        """Creates or replaces. Raises MapFullError when the map is full."""

    def delete(self, key: bytes) -> bool:
        """Whether there was something to delete; deleting nothing is no error."""

    def items(self) -> list[tuple[bytes, bytes]]:
        """All entries, in no particular order; under concurrent change an entry may be missed."""

    def update_batch(self, entries: Sequence[tuple[bytes, bytes]]) -> None:
        """Updates in order; on an error the entries before it are in the map."""

    def delete_batch(self, keys: Iterable[bytes]) -> int:
        """Number of entries that were there."""

    def set_inner(self, key: bytes, inner: BpfMap) -> None:
        """Map of maps only: switches `key` to `inner` in one step."""

    def inner_id(self, key: bytes) -> int | None:
        """Map of maps only: the kernel's id of the inner map."""

    def close(self) -> None: ...


class _MapInfo(ctypes.Structure):
    """The head of `struct bpf_map_info` (linux/bpf.h)."""

    _fields_ = (
        ("kind", ctypes.c_uint32),
        ("map_id", ctypes.c_uint32),
        ("key_size", ctypes.c_uint32),
        ("value_size", ctypes.c_uint32),
        ("max_entries", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
        ("name", ctypes.c_char * 16),
    )


def possible_cpus() -> int:
    """Number of slots in a per-CPU value."""
    return int(libbpf().libbpf_num_possible_cpus())


def split_cpus(value: bytes, value_size: int) -> list[bytes]:
    """The slots of a per-CPU value, each cut to `value_size`."""
    stride = (value_size + 7) // 8 * 8
    return [value[start : start + value_size] for start in range(0, len(value), stride)]


class KernelMap:
    """A map of the kernel; owns its file descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        info = _MapInfo()
        size = ctypes.c_uint32(ctypes.sizeof(info))
        result = libbpf().bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(size))
        if result:
            raise BpfError(errno_of(result), "inspect", f"map fd {fd}")
        self.name: str = info.name.decode()
        self.kind = MapKind(info.kind)
        self.key_size: int = info.key_size
        self.value_size: int = info.value_size
        self.max_entries: int = info.max_entries
        self.map_id: int = info.map_id
        self.flags: int = info.map_flags
        self._value_bytes = self.value_size
        if self.kind.per_cpu:
            self._value_bytes = (self.value_size + 7) // 8 * 8 * possible_cpus()

    @classmethod
    def open(cls, path: Path | str) -> KernelMap:
        """The map pinned at `path`."""
        fd = libbpf().bpf_obj_get(os.fsencode(path))
        if fd < 0:
            raise BpfError(errno_of(fd), "open", str(path))
        return cls(fd)

    @classmethod
    def by_id(cls, map_id: int) -> KernelMap:
        """The map with the kernel's id `map_id`; needs CAP_SYS_ADMIN."""
        fd = libbpf().bpf_map_get_fd_by_id(map_id)
        if fd < 0:
            raise BpfError(errno_of(fd), "open", f"map id {map_id}")
        return cls(fd)

    @property
    def fd(self) -> int:
        return self._fd

    def fileno(self) -> int:
        """The descriptor, so that a ring buffer can be waited for."""
        return self._fd

    def lookup(self, key: bytes) -> bytes | None:
        self._check("lookup", key)
        value = ctypes.create_string_buffer(self._value_bytes)
        result = libbpf().bpf_map_lookup_elem(self._fd, key, value)
        if result and (code := errno_of(result)) != errno.ENOENT:
            raise map_error(code, "lookup", self.name, key)
        return None if result else value.raw

    def update(self, key: bytes, value: bytes) -> None:
        self._check("update", key, value)
        result = libbpf().bpf_map_update_elem(self._fd, key, value, 0)
        if result:
            raise map_error(errno_of(result), "update", self.name, key)

    def delete(self, key: bytes) -> bool:
        self._check("delete", key)
        result = libbpf().bpf_map_delete_elem(self._fd, key)
        if result and (code := errno_of(result)) != errno.ENOENT:
            raise map_error(code, "delete", self.name, key)
        return not result

    def items(self) -> list[tuple[bytes, bytes]]:
        if self.kind in (MapKind.HASH_OF_MAPS, MapKind.SOCKHASH) or self.kind.per_cpu:
            return self._walk()
        # The cursor is as long as a key in tries and arrays, four bytes in hashes: the larger fits both.
        cursor_in = ctypes.create_string_buffer(max(self.key_size, 8))
        cursor_out = ctypes.create_string_buffer(max(self.key_size, 8))
        found: list[tuple[bytes, bytes]] = []
        first, done = True, False
        size = min(_BATCH, max(self.max_entries, 64))
        while not done:
            keys = ctypes.create_string_buffer(self.key_size * size)
            values = ctypes.create_string_buffer(self.value_size * size)
            count = ctypes.c_uint32(size)
            result = libbpf().bpf_map_lookup_batch(
                self._fd, None if first else cursor_in, cursor_out, keys, values, ctypes.byref(count), None
            )
            code = errno_of(result) if result else 0
            if code == errno.ENOSPC and count.value == 0:
                size *= 2  # one bucket holds more than the buffer
                continue
            if code and code != errno.ENOENT:
                raise map_error(code, "list", self.name)
            found.extend(self._pairs(keys.raw, values.raw, count.value))
            ctypes.memmove(cursor_in, cursor_out, len(cursor_in))
            first, done = False, code == errno.ENOENT
        return found

    def update_batch(self, entries: Sequence[tuple[bytes, bytes]]) -> None:
        for key, value in entries:
            self._check("update", key, value)
        if not entries:
            return
        count = ctypes.c_uint32(len(entries))
        keys, values = b"".join(k for k, _ in entries), b"".join(v for _, v in entries)
        result = libbpf().bpf_map_update_batch(self._fd, keys, values, ctypes.byref(count), None)
        if result:
            done = min(count.value, len(entries) - 1)
            raise map_error(errno_of(result), "update batch", self.name, entries[done][0])

    def delete_batch(self, keys: Iterable[bytes]) -> int:
        return sum([self.delete(key) for key in keys])

    def set_inner(self, key: bytes, inner: BpfMap) -> None:
        if self.kind is not MapKind.HASH_OF_MAPS or not isinstance(inner, KernelMap):
            raise map_error(errno.EINVAL, "update", self.name, key)
        self.update(key, struct.pack("=I", inner.fd))

    def inner_id(self, key: bytes) -> int | None:
        value = self.lookup(key)
        return None if value is None else int(struct.unpack("=I", value)[0])

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _check(self, operation: str, key: bytes, value: bytes | None = None) -> None:
        """The kernel reads as many bytes as the map says: shorter ones would leak this process's memory."""
        if len(key) != self.key_size or (value is not None and len(value) != self._value_bytes):
            raise map_error(errno.EINVAL, operation, self.name, key)

    def _pairs(self, keys: bytes, values: bytes, count: int) -> Iterable[tuple[bytes, bytes]]:
        wide, long = self.key_size, self.value_size
        return ((keys[i * wide : (i + 1) * wide], values[i * long : (i + 1) * long]) for i in range(count))

    def _walk(self) -> list[tuple[bytes, bytes]]:
        found: list[tuple[bytes, bytes]] = []
        previous: bytes | None = None
        following = ctypes.create_string_buffer(self.key_size)
        for _ in range(self.max_entries):  # concurrent deletes may restart the walk: stay bounded
            result = libbpf().bpf_map_get_next_key(self._fd, previous, following)
            if result:
                if (code := errno_of(result)) != errno.ENOENT:
                    raise map_error(code, "list", self.name)
                break
            previous = following.raw
            if (value := self.lookup(previous)) is not None:
                found.append((previous, value))
        return found
