"""Files of lines: rotated by size, never torn, bounded in number."""

from __future__ import annotations

import errno
import gzip
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shim.hubble.export.rotation import RotatedFile

START_NS = 1_772_359_200_000_000_000


def file_of(path: Path, **values: Any) -> RotatedFile:
    given: dict[str, Any] = {
        "max_bytes": 20,
        "max_backups": 3,
        "compress": False,
        "clock_ns": lambda: START_NS,
    }
    return RotatedFile(path, **given | values)


def held(file: RotatedFile, path: Path) -> list[bytes]:
    """All lines, oldest first."""
    parts = []
    for one in [*reversed(file.backups()), path]:
        raw = one.read_bytes()
        parts.append(gzip.decompress(raw) if one.suffix == ".gz" else raw)
    return b"".join(parts).splitlines(keepends=True)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 30), max_size=6), max_size=6),
    st.integers(0, 4),
    st.booleans(),
    st.booleans(),
)
def test_lines_are_whole_and_in_order(
    tmp_path_factory: pytest.TempPathFactory,
    batches: list[list[int]],
    backups: int,
    compress: bool,
    reopened: bool,
) -> None:
    path = tmp_path_factory.mktemp("export") / "events.log"
    file = file_of(path, max_backups=backups, compress=compress)
    lines: list[bytes] = []
    for batch in batches:
        part = [bytes([97 + index % 26]) * (size - 1) + b"\n" for index, size in enumerate(batch)]
        assert file.write(part) == len(part)
        lines += part
        if reopened:
            file.close()
    file.close()
    if not lines:
        return
    found = held(file, path)
    assert lines[-len(found) :] == found
    assert len(file.backups()) <= backups
    for one in [path, *file.backups()]:
        size = len(gzip.decompress(one.read_bytes())) if one.suffix == ".gz" else one.stat().st_size
        assert size <= 20 or size in {len(line) for line in lines}
        assert one.stat().st_mode & 0o777 == 0o600
    assert not list(path.parent.glob(".*"))


def test_names_tell_the_time_and_do_not_collide(tmp_path: Path) -> None:
    path = tmp_path / "events.log"
    file = file_of(path, max_bytes=4)
    file.write([b"one\n", b"two\n", b"six\n"])
    names = [one.name for one in file.backups()]
    assert names == ["events-2026-03-01T10-00-00.000-1.log", "events-2026-03-01T10-00-00.000.log"]
    file.close()


def test_a_torn_line_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "events.log"
    file = file_of(path, max_bytes=1000)
    file.write([b"whole\n"])
    real = os.write
    full: list[int] = []

    def write(fd: int, data: Any) -> int:
        full.append(1)
        if len(full) == 1:
            return real(fd, bytes(data[:3]))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(OSError, match="No space left"):
        file.write([b"torn\n"])
    monkeypatch.undo()
    assert path.read_bytes() == b"whole\n"
    assert file.write([b"next\n"]) == 1
    file.close()
    assert path.read_bytes() == b"whole\nnext\n"


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"")
    (tmp_path / "events.log").symlink_to(target)
    with pytest.raises(OSError):
        file_of(tmp_path / "events.log").write([b"line\n"])
    assert target.read_bytes() == b""


def test_foreign_files_beside_it_stay(tmp_path: Path) -> None:
    for name in ("events-old.log", "events-2026-03-01T10-00-00.log", "other-2026-03-01T10-00-00.000.log"):
        (tmp_path / name).write_bytes(b"x")
    file = file_of(tmp_path / "events.log", max_bytes=4, max_backups=0)
    file.write([b"one\n", b"two\n"])
    file.close()
    assert len(list(tmp_path.iterdir())) == 4
