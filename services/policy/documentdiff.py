"""What differs between two versions of an object, as lines `path: before -> after`. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final

from services.policy.reading.document import Json

MAX_LINES: Final = 50
_MAX_TEXT: Final = 120
_ABSENT: Final = "(absent)"


def changes_between(before: Json, after: Json) -> list[str]:
    """At most 50 lines; what comes after is counted in the last one."""
    lines = list(_walk("", before, after))
    if len(lines) > MAX_LINES:
        rest = len(lines) - MAX_LINES + 1
        lines = [*lines[: MAX_LINES - 1], f"{rest} more values differ"]
    return lines


def _walk(path: str, before: Json, after: Json) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted(before.keys() | after.keys()):
            yield from _member(f"{path}.{key}" if path else key, key, before, after)
    elif isinstance(before, list) and isinstance(after, list):
        for index in range(max(len(before), len(after))):
            where = f"{path}[{index}]"
            if index >= len(before):
                yield f"{where}: {_ABSENT} -> {_text(after[index])}"
            elif index >= len(after):
                yield f"{where}: {_text(before[index])} -> {_ABSENT}"
            else:
                yield from _walk(where, before[index], after[index])
    elif before != after or type(before) is not type(after):
        yield f"{path}: {_text(before)} -> {_text(after)}"


def _member(path: str, key: str, before: dict[str, Json], after: dict[str, Json]) -> Iterator[str]:
    if key not in before:
        yield f"{path}: {_ABSENT} -> {_text(after[key])}"
    elif key not in after:
        yield f"{path}: {_text(before[key])} -> {_ABSENT}"
    else:
        yield from _walk(path, before[key], after[key])


def _text(value: Json) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT - 1]}…"
