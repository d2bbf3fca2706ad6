"""Files of blocks in one directory: the newest is appended to, the oldest goes when there are too many bytes.

Every life of the process begins a file of its own, so a tail that a crash cut off hides nothing behind it.
Calls block: they belong in a thread.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from shim.flows.spill.blocks import Block, decoded

SEGMENTS: Final = 8
"""Files that the bytes allowed are spread over; so much of them goes at a time."""
_PREFIX, _SUFFIX = "flows-", ".seg"


class Segments:
    """The files of one node."""

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self._directory, self._max_bytes = directory, max_bytes
        self._path: Path | None = None

    def read(self) -> Iterator[Block]:
        """The blocks of all files, oldest first; what cannot be read is left out."""
        for path in self._paths():
            try:
                data = path.read_bytes()
            except OSError:
                continue
            yield from decoded(data)

    def append(self, data: bytes) -> None:
        """Write a block and make room. Raises OSError."""
        if self._path is None or self._size(self._path) + len(data) > self._max_bytes // SEGMENTS:
            self._path = self._next()
        opened = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(opened, "wb") as file:
            file.write(data)
        self._prune()

    def _paths(self) -> list[Path]:
        return sorted(self._directory.glob(f"{_PREFIX}*{_SUFFIX}"))

    def _next(self) -> Path:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        numbers = [int(path.stem.removeprefix(_PREFIX)) for path in self._paths() if _is_numbered(path)]
        return self._directory / f"{_PREFIX}{max(numbers, default=0) + 1:012d}{_SUFFIX}"

    def _prune(self) -> None:
        paths = self._paths()
        sizes = [self._size(path) for path in paths]
        while len(paths) > 1 and sum(sizes) > self._max_bytes:
            paths.pop(0).unlink(missing_ok=True)
            sizes.pop(0)

    @staticmethod
    def _size(path: Path) -> int:
        try:
            return path.stat().st_size
        except FileNotFoundError:
            return 0


def _is_numbered(path: Path) -> bool:
    return path.stem.removeprefix(_PREFIX).isdigit()
