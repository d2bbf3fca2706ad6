"""Restores what an earlier life of this process learned, and keeps its files small."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Final

from axoneme.lib import log
from services.fqdn.cache import CachedName
from services.fqdn.journal import COMPACT_BYTES, Clocks, DiskJournal, records_of
from services.fqdn.learner import NameLearner

logger = logging.getLogger(__name__)

FAILED_PAUSE_SECONDS: Final = 10.0


def restore(learner: NameLearner, journal: DiskJournal, now: Clocks) -> int:
    """Reads the files into the cache, without what expired; how many names there are then."""
    found: dict[tuple[int, bytes], tuple[CachedName, dict[bytes, int]]] = {}
    for record in journal.restore(now):
        key = record.endpoint_id, record.name
        if not record.addresses:
            found.pop(key, None)
            continue
        known, addresses = found.pop(key) if key in found else (CachedName(record.name), {})
        known.ttl, known.looked_up, known.source = record.ttl, record.looked_up, record.source
        for address in record.addresses:
            addresses[address] = max(addresses.pop(address, 0), record.expiry_ns)
        found[key] = known, addresses
    for (endpoint_id, _), (known, addresses) in found.items():
        live = {address: expiry for address, expiry in addresses.items() if expiry > now.boot_ns}
        if live:
            learner.restore(endpoint_id, known, live)
    return learner.cache.name_count


class Compactor:
    """Decides when the journal is written anew. Its steps may be called from one thread only."""

    def __init__(
        self,
        learner: NameLearner,
        journal: DiskJournal,
        clocks: Callable[[], Clocks],
        *,
        limit: int = COMPACT_BYTES,
    ) -> None:
        self._learner = learner
        self._journal = journal
        self._clocks = clocks
        self._limit = limit
        self._snapshot_bytes = 0
        self.failed = False

    def due(self) -> bool:
        """Whether the journal is broken, or has outgrown what there is to say."""
        return (
            self.failed
            or self._journal.broken
            or self._journal.written_bytes > max(self._limit, 2 * self._snapshot_bytes)
        )

    def compact(self) -> bool:
        """Writes a snapshot. Not for the hot loop: it locks slice by slice and waits for the disk."""
        try:
            with self._learner.lock:
                now = self._clocks()
                number = self._journal.begin(now)
            self._journal.compact(number, now, self._records())
        except OSError as error:
            if not self.failed:
                logger.warning("names not kept on disk", extra={log.ERROR: log.clip(error)})
            self.failed = True
            return False
        self.failed = False
        return True

    def _records(self) -> Iterator[bytes]:
        self._snapshot_bytes = 0
        for keys in self._learner.slices():
            with self._learner.lock:
                part = [raw for key in keys for raw in self._records_of(*key)]
            self._snapshot_bytes += sum(map(len, part))
            yield from part

    def _records_of(self, endpoint_id: int, name: bytes) -> Iterator[bytes]:
        known = self._learner.cache.name(endpoint_id, name)
        if known is not None:
            groups: dict[int, list[bytes]] = {}
            for address, expiry in known.addresses.items():
                groups.setdefault(expiry, []).append(address)
            yield from records_of(endpoint_id, known, ((at, tuple(some)) for at, some in groups.items()))
