"""The last changes, for watchers that resume. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from axoneme.lib.errors import RevisionCompacted
from services.clustermesh.model import ServiceKey

KEPT: Final = 10_000


class ChangeLog:
    """Which services changed at which revision of the store, the last 10,000 of them."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._floor = 0
        self._entries: deque[tuple[int, ServiceKey]] = deque()

    def reset(self, revision: int) -> None:
        """Forgets everything up to a revision."""
        self._entries.clear()
        self._floor = revision

    def add(self, revision: int, keys: Iterable[ServiceKey]) -> None:
        """Notes changes."""
        self._entries.extend((revision, key) for key in keys)
        while len(self._entries) > self._kept:
            self._floor = self._entries.popleft()[0]

    def since(self, revision: int) -> set[ServiceKey]:
        """Services that changed after a revision. Raises RevisionCompacted when that is too long ago."""
        if revision < self._floor:
            raise RevisionCompacted(f"changes since revision {revision} are not kept; watch again from 0")
        found: set[ServiceKey] = set()
        for at, key in reversed(self._entries):
            if at <= revision:
                break
            found.add(key)
        return found
