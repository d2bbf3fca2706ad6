"""One map of the kernel and what this process knows to be in it, so that equal entries cause no write."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from axoneme.lib.bpf.errors import BpfError
from axoneme.lib.bpf.maps import BpfMap
from shim.maps.base import number_key
from shim.reconciler import WriteFault
from shim.tables import MapTable


class MirroredMap:
    """A map that nobody else writes. `content` has what was found at start and what was written since."""

    def __init__(self, bpf_map: BpfMap) -> None:
        self.name = bpf_map.name
        self.map = bpf_map
        self.content: dict[bytes, bytes] = {}
        self._table = MapTable(bpf_map)

    def load(self) -> None:
        """Reads what the kernel holds."""
        self.content = dict(self._table.items())

    def put(self, wanted: Mapping[bytes, bytes]) -> Mapping[bytes, WriteFault]:
        """Writes what is not there yet and returns what failed, which is as it was."""
        content = self.content
        pairs = [(key, value) for key, value in wanted.items() if content.get(key) != value]
        faults = self._table.upsert(pairs) if pairs else {}
        content.update((key, value) for key, value in pairs if key not in faults)
        return faults

    def drop(self, keys: Iterable[bytes]) -> None:
        """Removes keys. One that cannot be removed is unknown from now on, and the audit tries again."""
        known = [key for key in keys if self.content.pop(key, None) is not None]
        self._table.remove(known)

    def switch(self, key: bytes, inner: BpfMap) -> WriteFault | None:
        """Map of maps: gives a key another map in one step."""
        try:
            self.map.set_inner(key, inner)
        except BpfError as error:
            return WriteFault(str(error), full=type(error) is not BpfError)
        self.content[key] = number_key(inner.map_id)
        return None

    def audit(self, *, prune: bool, writable: bool = True) -> tuple[list[bytes], list[bytes]]:
        """Compares with the kernel and writes what is missing or changed; returns those keys, and unknown
        ones.

        Unknown ones are removed by the caller, when `prune` lets them show; nothing is written without
        `writable`.
        """
        actual = dict(self._table.items())
        wrong = [key for key, value in self.content.items() if actual.get(key) != value]
        if writable and wrong:
            self._table.upsert([(key, self.content[key]) for key in wrong])
        return wrong, [key for key in actual if key not in self.content] if prune else []

    def remove_unknown(self, keys: Iterable[bytes]) -> None:
        """Removes keys that are not in `content`."""
        self._table.remove(list(keys))
