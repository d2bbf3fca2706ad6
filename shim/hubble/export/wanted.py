"""Reads the list of exports that may change while a node runs: YAML as Cilium writes it.

    flowLogs:
    - name: drops
      filePath: drops.log
      includeFilters: [{verdict: [DROPPED]}]
      excludeFilters: []
      fieldMask: [time, source.pod_name, drop_reason_desc]
      fileMaxSizeMb: 10
      fileMaxBackups: 5
      fileCompress: true
      end: "2026-03-01T12:00:00Z"

Pure: text in, exports or an error that names the entry and the field out.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml

from axoneme.lib.errors import InvalidArgument
from shim.hubble.export.settings import (
    LARGEST_MB,
    MAX_BACKUPS,
    MAX_SIZE_MB,
    MEGABYTE,
    MOST_BACKUPS,
    ExportSettings,
    check_distinct,
    filters_of,
    in_range,
    mask_of,
    path_below,
)

MAX_BYTES: Final = 1 << 20
MAX_ENTRIES: Final = 64
_KEYS: Final = frozenset(
    (
        "name",
        "filePath",
        "fieldMask",
        "includeFilters",
        "excludeFilters",
        "fileMaxSizeMb",
        "fileMaxBackups",
        "fileCompress",
        "end",
    )
)
_Wanted = TypeVar("_Wanted")


def parse_exports(
    content: bytes, directory: Path, taken: Iterable[ExportSettings] = ()
) -> tuple[ExportSettings, ...]:
    """The exports of a file; `taken` are those that exist beside. Raises InvalidArgument."""
    if len(content) > MAX_BYTES:
        raise InvalidArgument(f"the list of exports is larger than {MAX_BYTES} bytes")
    try:
        document = yaml.safe_load(content)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise InvalidArgument(f"the list of exports is no YAML: {error}") from error
    if document is None:
        return ()
    if not isinstance(document, dict) or set(document) - {"flowLogs"}:
        raise InvalidArgument("the list of exports must be a mapping with one key, flowLogs")
    entries = _of_type("flowLogs", document.get("flowLogs") or [], list)
    if len(entries) > MAX_ENTRIES:
        raise InvalidArgument(f"flowLogs has {len(entries)} entries; {MAX_ENTRIES} are possible")
    found = [_entry(f"flowLogs[{index}]", entry, directory) for index, entry in enumerate(entries)]
    others = list(taken)
    return tuple(check_distinct([*others, *found]))[len(others) :]


def _entry(where: str, entry: Any, directory: Path) -> ExportSettings:
    values = _of_type(where, entry, dict)
    if unknown := sorted(str(key) for key in set(values) - _KEYS):
        raise InvalidArgument.of_field(where, f"has no setting {unknown[0][:64]!r}")

    def get(key: str, wanted: type[_Wanted], default: _Wanted) -> _Wanted:
        value = values.get(key)
        return default if value is None else _of_type(f"{where}.{key}", value, wanted)

    if not (name := get("name", str, "")):
        raise InvalidArgument.of_field(f"{where}.name", "is missing")
    size = in_range(f"{where}.fileMaxSizeMb", get("fileMaxSizeMb", int, 0), 0, LARGEST_MB)
    backups = in_range(f"{where}.fileMaxBackups", get("fileMaxBackups", int, 0), 0, MOST_BACKUPS)
    mask = [_of_type(f"{where}.fieldMask", path, str) for path in get("fieldMask", list, [])]
    return ExportSettings(
        name=name,
        path=path_below(f"{where}.filePath", directory, get("filePath", str, "")),
        include=filters_of(f"{where}.includeFilters", get("includeFilters", list, [])),
        exclude=filters_of(f"{where}.excludeFilters", get("excludeFilters", list, [])),
        field_mask=mask_of(f"{where}.fieldMask", mask),
        max_bytes=(size or MAX_SIZE_MB) * MEGABYTE,
        max_backups=backups or MAX_BACKUPS,
        compress=get("fileCompress", bool, False),
        end_ns=_time(f"{where}.end", values.get("end")),
    )


def _of_type(where: str, value: Any, wanted: type[_Wanted]) -> _Wanted:
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        raise InvalidArgument.of_field(where, f"must be a {wanted.__name__}, not {type(value).__name__}")
    return value


def _time(where: str, value: Any) -> int | None:
    """Nanoseconds since 1970; YAML may have read the time already."""
    if value is None:
        return None
    try:
        time = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError as error:
        raise InvalidArgument.of_field(where, f"is no time (RFC 3339): {error}") from error
    aware = time if time.tzinfo is not None else time.replace(tzinfo=UTC)
    return round(aware.timestamp() * 1e6) * 1000
