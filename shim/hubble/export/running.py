"""The exports of a node: the fixed one, and those of a list that may change while the node runs.

A list is applied as a whole: exports that stay as they are go on without a gap, changed ones begin anew, and
one wrong entry leaves everything as it was. What is wrong is said in words, in the log and to metrics.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from axoneme.lib import log
from axoneme.lib.errors import AxonemeError
from axoneme.lib.tasks import TaskScope
from shim.hubble.export.exporter import Ask, Exporter
from shim.hubble.export.settings import ExportSettings
from shim.hubble.export.wanted import MAX_BYTES, parse_exports

logger = logging.getLogger(__name__)

WATCH_SECONDS: Final = 5.0
HASH_BYTES: Final = 6
"""As many as a float holds exactly."""


@dataclass(slots=True)
class Changes:
    """What was done to the list of exports."""

    operations: Counter[str] = field(default_factory=Counter)
    config_hash: int = 0
    applied_seconds: float = 0.0
    """Time since 1970."""
    problem: str = ""


@dataclass(slots=True)
class Totals:
    """Events of all exports of a name, also of those that ended."""

    written: int = 0
    lost: int = 0


class Exports:
    """Everything that is exported."""

    def __init__(
        self,
        ask: Ask,
        *,
        node_name: str,
        directory: Path,
        fixed: ExportSettings | None = None,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._ask, self._node_name, self._directory = ask, node_name, directory
        self._fixed, self._clock_ns = fixed, clock_ns
        self.changes = Changes()
        self._running: dict[str, tuple[Exporter, asyncio.Task[None]]] = {}
        self._ended: dict[str, Totals] = {}
        self._content: bytes | None = None

    @property
    def exporters(self) -> dict[str, Exporter]:
        """Exports by name."""
        return {name: exporter for name, (exporter, _) in self._running.items()}

    def is_up(self, name: str) -> bool:
        """Whether an export writes what comes."""
        exporter, task = self._running[name]
        return exporter.active and not task.done()

    def totals(self) -> dict[str, Totals]:
        """Counts by export."""
        totals = {name: Totals(one.written, one.lost) for name, one in self._ended.items()}
        for name, exporter in self.exporters.items():
            if exporter.writer is not None:
                total = totals.setdefault(name, Totals())
                total.written += exporter.writer.written
                total.lost += exporter.writer.lost
        return totals

    def start(self, scope: TaskScope) -> None:
        """Start the fixed export. Raises InvalidArgument or Unsupported for what the observer refuses."""
        if self._fixed is not None:
            self._begin(scope, self._exporter(self._fixed))

    async def watch(
        self, scope: TaskScope, path: Path, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        """Follow the list in a file until cancelled."""
        while True:
            await self.look(scope, path)
            await sleep(WATCH_SECONDS)

    async def look(self, scope: TaskScope, path: Path) -> None:
        """Apply the list when it changed."""
        try:
            content = await asyncio.to_thread(_read, path)
            if content == self._content:
                return
            self._content = content
            await self.apply(scope, content)
            self._tell("")
        except OSError as error:
            self._content = None
            self._tell(f"{path}: {error.strerror}")
        except AxonemeError as error:
            self._tell(f"{path}: {error}; the exports stay as they were")

    async def apply(self, scope: TaskScope, content: bytes) -> None:
        """Make the exports what a list says. Raises InvalidArgument or Unsupported and changes nothing."""
        fixed = [self._fixed] if self._fixed is not None else []
        wanted = {one.name: one for one in parse_exports(content, self._directory, fixed)}
        present = {name: one for name, one in self.exporters.items() if one.settings is not self._fixed}
        changed = [
            self._exporter(one)
            for name, one in wanted.items()
            if name not in present or present[name].settings != one
        ]
        for name in present:
            if name not in wanted or any(one.settings.name == name for one in changed):
                await self._end(name)
        for one in changed:
            self._begin(scope, one)
        operations = self.changes.operations
        operations["remove"] += len(present.keys() - wanted.keys())
        operations["add"] += len(wanted.keys() - present.keys())
        operations["update"] += sum(one.settings.name in present for one in changed)
        self.changes.config_hash = int.from_bytes(hashlib.sha256(content).digest()[:HASH_BYTES], "big")
        self.changes.applied_seconds = self._clock_ns() / 1e9

    def _exporter(self, settings: ExportSettings) -> Exporter:
        return Exporter(settings, self._ask, node_name=self._node_name, clock_ns=self._clock_ns)

    def _begin(self, scope: TaskScope, exporter: Exporter) -> None:
        name = exporter.settings.name
        task = scope.start(f"export {name}", exporter.run(), critical=False)
        self._running[name] = exporter, task

    async def _end(self, name: str) -> None:
        exporter, task = self._running.pop(name)
        task.cancel()
        await asyncio.wait([task])
        if exporter.writer is not None:
            total = self._ended.setdefault(name, Totals())
            total.written += exporter.writer.written
            total.lost += exporter.writer.lost

    def _tell(self, problem: str) -> None:
        if problem != self.changes.problem:
            self.changes.problem = problem
            level = logging.WARNING if problem else logging.INFO
            logger.log(level, "list of flow exports", extra={log.ERROR: log.clip(problem or "applied")})


def _read(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(MAX_BYTES + 1)
