"""Exceptions that nobody expected: counted, logged once per place and kind, and survived."""

from __future__ import annotations

import logging
from typing import Final

from axoneme.lib import log
from services.fqdn.proxy.counters import Counters

MAX_KINDS: Final = 256  # of log lines; what comes after them is only counted

_log = logging.getLogger(__name__)


class Mishaps:
    """A bug that one message meets must not take the lookups of all others with it."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._known: set[tuple[str, str]] = set()

    def note(self, where: str, error: Exception) -> None:
        """Counts an exception; the first of its kind is logged with the trace."""
        self._counters.mishaps += 1
        kind = where, f"{type(error).__name__}: {error}"[: log.CLIP_CHARACTERS]
        if kind in self._known or len(self._known) >= MAX_KINDS:
            return
        self._known.add(kind)
        _log.error("a bug of the DNS proxy", extra={log.TASK: where, log.ERROR: kind[1]}, exc_info=error)
