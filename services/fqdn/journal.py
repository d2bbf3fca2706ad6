"""What was learned, on disk before it is in the kernel: a snapshot and the journals after it.

    names-<n>.snapshot   everything at the beginning of journal n
    names-<n>.journal    since then, in order: one write() each, so a killed process loses nothing

A compaction begins journal n + 1, writes snapshot n + 1 beside it, renames it, and only then deletes what is
older: at every moment the newest snapshot with all journals from its number on is everything. Records are
framed with length and checksum; reading stops at the first that is broken, and the rest of that file is lost,
never the process. Expiries are of CLOCK_BOOTTIME; each file begins with its boot and both clocks, so that
after another boot what is left of a lifetime goes on by the wall clock.
"""

from __future__ import annotations

import contextlib
import os
import re
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from services.fqdn.cache import CachedName

COMPACT_BYTES: Final = 4 << 20
_MAGIC: Final = b"AXFQDN01"
_HEADER: Final = struct.Struct("=8s36sQd")  # magic, boot id, boottime ns, wall clock
_FRAME: Final = struct.Struct("=HI")  # length, CRC-32
_RECORD: Final = struct.Struct("=BIQIdBBH")  # kind, endpoint, expiry, TTL, looked up, source, name, addresses
_LEARNED, _FORGOT = 1, 2
_SIZES: Final = {4: b"\x04", 16: b"\x10"}  # the byte before an address
_FILE: Final = re.compile(r"names-(\d{1,18})\.(snapshot|journal)")
_MAX_ADDRESSES: Final = 3_000  # of a record: its length has two bytes


class Record(NamedTuple):
    """What an endpoint learned; without addresses: what it forgot. Expiry in ns of this boot's clock."""

    endpoint_id: int
    name: bytes
    addresses: tuple[bytes, ...]
    expiry_ns: int
    ttl: int
    looked_up: float
    source: int


class Clocks(NamedTuple):
    """A moment on both clocks, and the boot that the first one counts from."""

    boot_id: bytes
    boot_ns: int
    wall: float


class DiskJournal:
    """The files of one node. Write errors are counted; `broken` asks for a compaction."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._fd = -1
        self._number = 0
        self.written_bytes = 0
        self.failures = 0
        self.broken = False

    def restore(self, now: Clocks) -> Iterator[Record]:
        """Everything that was kept, in order; later records replace earlier ones."""
        found = self._files()
        snapshots = [number for number, kind in found if kind == "snapshot"]
        first = max(snapshots, default=0)
        self._number = max((number for number, _ in found), default=0)
        paths = [self._path(first, "snapshot")] if snapshots else []
        journals = sorted(number for number, kind in found if kind == "journal" and number >= first)
        for path in (*paths, *(self._path(number, "journal") for number in journals)):
            yield from _read(path, now)

    def begin(self, now: Clocks) -> int:
        """Starts the next journal; its number. Raises OSError."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        number = self._number + 1
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        fd = os.open(self._path(number, "journal"), flags, 0o600)
        try:
            os.write(fd, _HEADER.pack(_MAGIC, *now))
        except OSError:
            os.close(fd)
            raise
        old, self._fd, self._number, self.written_bytes, self.broken = self._fd, fd, number, 0, False
        if old >= 0:
            os.close(old)
        return number

    def compact(self, number: int, now: Clocks, records: Iterable[bytes]) -> None:
        """Writes the snapshot that belongs to journal `number`, deletes what is older. Raises OSError."""
        path = self._path(number, "snapshot")
        fresh = path.with_suffix(".new")
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(_HEADER.pack(_MAGIC, *now))
            file.writelines(records)
            file.flush()
            os.fsync(fd)
        fresh.replace(path)
        for older, kind in self._files():
            if older < number:
                self._path(older, kind).unlink(missing_ok=True)

    def learned(
        self, endpoint_id: int, known: CachedName, addresses: Iterable[bytes], expiry_ns: int
    ) -> None:
        """See `learner.Journal`."""
        some = tuple(addresses)
        if len(some) <= _MAX_ADDRESSES:
            self._append(_record(endpoint_id, known, expiry_ns, some))
            return
        for raw in records_of(endpoint_id, known, [(expiry_ns, some)]):
            self._append(raw)

    def forgot(self, endpoint_id: int, name: bytes) -> None:
        """See `learner.Journal`."""
        self._append(_framed(_RECORD.pack(_FORGOT, endpoint_id, 0, 0, 0.0, 0, len(name), 0) + name))

    def close(self) -> None:
        """Ends the journal."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _append(self, raw: bytes) -> None:
        if self._fd < 0 or self.broken:
            self.failures += 1
            return
        try:
            done = os.write(self._fd, raw)
        except OSError:
            done = 0
        self.written_bytes += done
        if done != len(raw):
            self.failures += 1
            self.broken = True  # what would come after half a record could not be read

    def _files(self) -> list[tuple[int, str]]:
        with contextlib.suppress(OSError):
            matches = [_FILE.fullmatch(path.name) for path in self._directory.iterdir()]
            return [(int(match[1]), match[2]) for match in matches if match]
        return []

    def _path(self, number: int, kind: str) -> Path:
        return self._directory / f"names-{number}.{kind}"


def records_of(
    endpoint_id: int, known: CachedName, groups: Iterable[tuple[int, tuple[bytes, ...]]]
) -> Iterator[bytes]:
    """Framed records of a name: its addresses by their expiry."""
    for expiry_ns, addresses in groups:
        for start in range(0, len(addresses), _MAX_ADDRESSES):
            yield _record(endpoint_id, known, expiry_ns, addresses[start : start + _MAX_ADDRESSES])


def _record(endpoint_id: int, known: CachedName, expiry_ns: int, addresses: tuple[bytes, ...]) -> bytes:
    """The framed record of some addresses of a name."""
    name = known.name
    head = _RECORD.pack(
        _LEARNED,
        endpoint_id,
        expiry_ns,
        known.ttl,
        known.looked_up,
        known.source,
        len(name),
        len(addresses),
    )
    return _framed(head + name + b"".join([_SIZES[len(one)] + one for one in addresses]))


def clocks_now(boot_ns: int, wall: float) -> Clocks:
    """This moment, of this boot."""
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return Clocks(boot_id.encode()[:36].ljust(36, b"\0"), boot_ns, wall)


def _framed(payload: bytes) -> bytes:
    return _FRAME.pack(len(payload), zlib.crc32(payload)) + payload


def _read(path: Path, now: Clocks) -> Iterator[Record]:
    try:
        raw = path.read_bytes()
    except OSError:
        return
    if len(raw) < _HEADER.size or not raw.startswith(_MAGIC):
        return
    _, boot_id, boot_ns, wall = _HEADER.unpack_from(raw)
    # On another boot: what a lifetime had left when the file began, less what has passed on the wall since.
    shift = 0 if boot_id == now.boot_id else now.boot_ns - boot_ns - int(max(now.wall - wall, 0.0) * 1e9)
    at = _HEADER.size
    while at + _FRAME.size <= len(raw):
        length, checksum = _FRAME.unpack_from(raw, at)
        payload = raw[at + _FRAME.size : at + _FRAME.size + length]
        at += _FRAME.size + length
        if len(payload) != length or zlib.crc32(payload) != checksum:
            return
        if (record := _parsed(payload, shift)) is not None:
            yield record


def _parsed(payload: bytes, shift: int) -> Record | None:
    """None for what no version of this code wrote, whatever its checksum says."""
    if len(payload) < _RECORD.size:
        return None
    kind, endpoint_id, expiry_ns, ttl, looked_up, source, name_length, count = _RECORD.unpack_from(payload)
    at = _RECORD.size + name_length
    name, addresses = payload[_RECORD.size : at], []
    for _ in range(count if kind == _LEARNED else 0):
        size = payload[at] if at < len(payload) else 0
        address = payload[at + 1 : at + 1 + size]
        if size not in (4, 16) or len(address) != size:
            return None
        addresses.append(address)
        at += 1 + size
    if kind not in (_LEARNED, _FORGOT) or len(name) != name_length or not name:
        return None
    return Record(endpoint_id, name, tuple(addresses), max(expiry_ns + shift, 0), ttl, looked_up, source)
