"""Kinds and specifications of BPF maps, by the numbers of `enum bpf_map_type` (linux/bpf.h)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

NO_PREALLOC = 1  # BPF_F_NO_PREALLOC; LPM tries must have it
INNER_MAP = 1 << 12  # BPF_F_INNER_MAP: an inner array may have another size than the template


class MapKind(IntEnum):
    """Map types that Axoneme uses."""

    HASH = 1
    ARRAY = 2
    PERCPU_HASH = 5
    PERCPU_ARRAY = 6
    LRU_HASH = 9
    LPM_TRIE = 11
    HASH_OF_MAPS = 13
    SOCKHASH = 18
    RINGBUF = 27

    @property
    def per_cpu(self) -> bool:
        """Whether a value is one slot per possible CPU, each padded to 8 bytes."""
        return self in (MapKind.PERCPU_HASH, MapKind.PERCPU_ARRAY)

    @property
    def indexed(self) -> bool:
        """Whether the key is an index below `max_entries` and every entry always exists."""
        return self in (MapKind.ARRAY, MapKind.PERCPU_ARRAY)


@dataclass(frozen=True, slots=True, kw_only=True)
class MapSpec:
    """What a map is made of; sizes in bytes. A ring buffer has no key; its size is `max_entries`."""

    name: str
    kind: MapKind
    key_size: int
    value_size: int
    max_entries: int
    flags: int = 0
    inner: MapSpec | None = None
