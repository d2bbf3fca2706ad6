"""A file of lines that is put aside when it has its size: `events-2026-03-01T10-00-00.000.log.gz`.

Lines are never torn: what could not be written whole is taken back. Runs in the writer's thread.
"""

from __future__ import annotations

import gzip
import os
import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_MODE: Final = 0o600
_STAMP: Final = r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\.\d{3}"


class RotatedFile:
    """A file that is written to."""

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int,
        max_backups: int,
        compress: bool,
        clock_ns: Callable[[], int],
    ) -> None:
        """Take the clock (nanoseconds since 1970) that names the files put aside."""
        self._path = path
        self._max_bytes, self._max_backups, self._compress = max_bytes, max_backups, compress
        self._clock_ns = clock_ns
        self._fd: int | None = None
        self._bytes = 0

    def write(self, lines: Sequence[bytes]) -> int:
        """Write lines in order, each whole; returns how many. Raises OSError when not even one could be."""
        done = 0
        while done < len(lines):
            try:
                self._make_room(len(lines[done]))
                done += self._write_some(lines, done)
            except OSError:
                self.close()
                if not done:
                    raise
                break
        return done

    def close(self) -> None:
        """Close the file; the next line opens it again."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _make_room(self, size: int) -> None:
        if self._fd is None:
            self._open()
        if self._bytes and self._bytes + size > self._max_bytes:
            self._put_aside()
            self._open()

    def _write_some(self, lines: Sequence[bytes], start: int) -> int:
        """Write the lines that fit into the file, in one go; what is torn is cut off."""
        end, size = start, 0
        while end < len(lines) and (end == start or self._bytes + size + len(lines[end]) <= self._max_bytes):
            size += len(lines[end])
            end += 1
        data, fd, written = memoryview(b"".join(lines[start:end])), self._fd, 0
        assert fd is not None  # opened by _make_room
        try:
            while written < size:
                written += os.write(fd, data[written:])
        except OSError:
            os.ftruncate(fd, self._bytes)
            raise
        self._bytes += size
        return end - start

    def _open(self) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._fd = os.open(self._path, _FLAGS, _MODE)
        os.set_blocking(self._fd, True)  # opened without waiting, should it be a pipe
        self._bytes = os.fstat(self._fd).st_size

    def _put_aside(self) -> None:
        self.close()
        aside = self._free_name()
        self._path.rename(aside)
        self._remove_old()
        if self._compress and aside.exists():
            _compress(aside)

    def _free_name(self) -> Path:
        """A name that comes after those that are there, also when the clock went back or stood still."""
        time = datetime.fromtimestamp(self._clock_ns() / 1e9, tz=UTC)
        own = f"{time:%Y-%m-%dT%H-%M-%S}.{time.microsecond // 1000:03d}", 0
        newest = max((stamp for stamp, _ in self._aside()), default=("", 0))
        stamp, number = own if newest < own else (newest[0], newest[1] + 1)
        suffix = f"-{number}" if number else ""
        return self._path.with_name(f"{self._path.stem}-{stamp}{suffix}{self._path.suffix}")

    def _remove_old(self) -> None:
        for path in self.backups()[self._max_backups :]:
            with suppress(FileNotFoundError):
                path.unlink()

    def backups(self) -> list[Path]:
        """Files put aside, the newest first."""
        return [path for _, path in sorted(self._aside(), reverse=True)]

    def _aside(self) -> list[tuple[tuple[str, int], Path]]:
        """Files put aside, with the time and the number in their names."""
        stem, suffix = re.escape(self._path.stem), re.escape(self._path.suffix)
        pattern = re.compile(rf"{stem}-({_STAMP})(-\d+)?{suffix}(\.gz)?")
        found = [(pattern.fullmatch(path.name), path) for path in self._path.parent.iterdir()]
        return [((match[1], int((match[2] or "-0")[1:])), path) for match, path in found if match]


def _compress(path: Path) -> None:
    """Replace a file by its compressed copy, which appears whole."""
    partial = path.with_name(f".{path.name}.gz.partial")
    with path.open("rb") as source, partial.open("wb") as raw:
        os.fchmod(raw.fileno(), _MODE)
        with gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0, compresslevel=6) as target:
            shutil.copyfileobj(source, target, 1 << 20)
    partial.rename(path.with_name(f"{path.name}.gz"))
    path.unlink()
