"""What one export writes, and where: checked before it is used, so that errors name what is wrong.

Files lie below one directory, whatever a configuration says: who may change the list of exports may not
thereby write anywhere. Links out of it are refused here and, for the file itself, when it is opened.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from google.protobuf import json_format
from google.protobuf.field_mask_pb2 import FieldMask

from axoneme.api.hubble.flow import flow_pb2
from axoneme.lib.errors import AxonemeError, InvalidArgument
from axoneme.lib.flows.filters import compile_filter

MEGABYTE: Final = 1 << 20
MAX_SIZE_MB: Final = 10
MAX_BACKUPS: Final = 5
LARGEST_MB: Final = 16_384
MOST_BACKUPS: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSettings:
    """One export."""

    name: str
    path: Path
    include: tuple[flow_pb2.FlowFilter, ...] = ()
    exclude: tuple[flow_pb2.FlowFilter, ...] = ()
    field_mask: tuple[str, ...] = ()
    max_bytes: int = MAX_SIZE_MB * MEGABYTE
    """Size at which a file is put aside."""
    max_backups: int = MAX_BACKUPS
    """Files kept beside the present one."""
    compress: bool = False
    end_ns: int | None = None
    """Time since 1970 at which it ends."""


def path_below(where: str, directory: Path, text: str) -> Path:
    """The file that a configuration names, in or below the directory. Raises InvalidArgument otherwise."""
    if not text or "\0" in text:
        raise InvalidArgument.of_field(where, "names no file")
    root = directory.resolve()
    path = (root / text).parent.resolve() / Path(text).name
    if not path.name or path.name in (".", "..") or not path.parent.is_relative_to(root):
        raise InvalidArgument.of_field(where, f"{text[:256]!r} is not below {directory}")
    return path


def filters_of_json(where: str, text: str) -> tuple[flow_pb2.FlowFilter, ...]:
    """Filters out of one or several JSON objects in a row. Raises InvalidArgument."""
    values: list[Any] = []
    decoder, rest = json.JSONDecoder(), text.strip()
    while rest:
        try:
            value, end = decoder.raw_decode(rest)
        except ValueError as error:
            raise InvalidArgument.of_field(where, f"is no JSON: {error}") from error
        values.append(value)
        rest = rest[end:].lstrip(" \t\r\n,")
    return filters_of(where, values)


def filters_of(where: str, values: Iterable[Any]) -> tuple[flow_pb2.FlowFilter, ...]:
    """Filters out of objects; each may be JSON in a text. Raises InvalidArgument with its position."""
    found: list[flow_pb2.FlowFilter] = []
    for index, value in enumerate(values):
        place = f"{where}[{index}]"
        if isinstance(value, str):
            found += filters_of_json(place, value)
            continue
        try:
            one = json_format.ParseDict(value, flow_pb2.FlowFilter())
        except (json_format.ParseError, TypeError, ValueError, AttributeError) as error:
            raise InvalidArgument.of_field(place, f"is no FlowFilter: {error}") from error
        _check_filter(place, one)
        found.append(one)
    return tuple(found)


def _check_filter(place: str, flow_filter: flow_pb2.FlowFilter) -> None:
    try:
        compile_filter(flow_filter, place)
    except AxonemeError as error:
        raise InvalidArgument(str(error), reason=error.reason, violations=error.violations) from error


def mask_of(where: str, paths: Sequence[str]) -> tuple[str, ...]:
    """Fields of a flow that are written. Raises InvalidArgument for what is no field."""
    for path in paths:
        if not FieldMask(paths=[path]).IsValidForDescriptor(flow_pb2.Flow.DESCRIPTOR):
            raise InvalidArgument.of_field(where, f"{path[:128]!r} is not a field of flow.Flow")
    return tuple(paths)


def in_range(where: str, value: int, low: int, high: int) -> int:
    """The number. Raises InvalidArgument when it is out of range."""
    if not low <= value <= high:
        raise InvalidArgument.of_field(where, f"is {value}; must be from {low} to {high}")
    return value


def check_distinct(settings: Iterable[ExportSettings]) -> Iterator[ExportSettings]:
    """The exports, when no two write one file or share a name. Raises InvalidArgument."""
    names: set[str] = set()
    paths: set[Path] = set()
    for one in settings:
        if one.name in names:
            raise InvalidArgument(f"two exports are called {one.name!r}")
        if one.path in paths:
            raise InvalidArgument(f"export {one.name!r} writes to a file of another one: {one.path}")
        names.add(one.name)
        paths.add(one.path)
        yield one
