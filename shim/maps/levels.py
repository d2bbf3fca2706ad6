"""How full maps are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from axoneme.lib.bpf.kinds import MapKind
from axoneme.lib.bpf.maps import BpfMap

_WITHOUT: Final = (MapKind.RINGBUF, MapKind.LRU_HASH, MapKind.SOCKHASH)


def map_levels(maps: Mapping[str, BpfMap]) -> Iterator[tuple[str, int, int]]:
    """Name, entries and room of each map whose fill level means something.

    An LRU makes room by itself; the map of sockets can only be counted one by one.
    """
    for name, bpf_map in maps.items():
        if bpf_map.kind not in _WITHOUT and not bpf_map.kind.indexed:
            yield name, len(bpf_map.items()), bpf_map.max_entries
