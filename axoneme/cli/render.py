"""Output of commands: tables for people, JSON for programs.

rich is loaded only on a terminal; piped tables are plain columns, so that grep and awk see what a person saw.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from google.protobuf.message import Message

OUTPUTS = ("table", "json")
GAP = "  "
LAST_COLUMN = 24


def output_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `-o table|json` as the argument `output`."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(OUTPUTS),
        default="table",
        show_default=True,
        help="Form of the output.",
    )(command)


def print_table(headers: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str = "") -> None:
    """Prints rows under upper-case headers; `empty` is said on stderr when there are none."""
    lines = [[_cell(value) for value in row] for row in rows]
    if not lines and empty:
        click.echo(empty, err=True)
        return
    if sys.stdout.isatty() and _fits(headers, lines):
        _print_rich(headers, lines)
    else:
        _print_plain(headers, lines)


def print_json(value: object) -> None:
    """Prints one JSON document; protobuf messages inside are converted with their proto field names."""
    click.echo(json.dumps(_plain(value), indent=2, ensure_ascii=False))


def message_dict(message: Message) -> dict[str, Any]:
    """A protobuf message as JSON values: names and order of the proto, map keys sorted, unset fields too."""
    from google.protobuf.json_format import MessageToDict

    values = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return _ordered(values, message.DESCRIPTOR)


def _ordered(values: dict[str, Any], descriptor: Any) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for field in descriptor.fields:
        if field.name not in values:
            continue
        value, kind = values[field.name], field.message_type
        if kind is not None and kind.GetOptions().map_entry:
            inner = kind.fields_by_name["value"].message_type
            value = {key: _ordered(one, inner) if inner else one for key, one in sorted(value.items())}
        elif kind is not None and isinstance(value, list):
            value = [_ordered(one, kind) if isinstance(one, dict) else one for one in value]
        elif kind is not None and isinstance(value, dict) and kind.file.package != "google.protobuf":
            value = _ordered(value, kind)
        result[field.name] = value
    return result


def _cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.1f}"
    if isinstance(value, list | tuple | set | frozenset):
        return ",".join(str(item) for item in value) or "-"
    return str(value)


def _fits(headers: Sequence[str], lines: Sequence[Sequence[str]]) -> bool:
    """Whether only the last column would have to be folded; else long lines are left to the terminal, as an
    address in three pieces can be neither read nor copied."""
    widths = [max(len(row[column]) for row in (headers, *lines)) for column in range(len(headers))]
    last = min(widths[-1], LAST_COLUMN)
    return sum(widths[:-1]) + last + len(GAP) * len(headers) <= shutil.get_terminal_size().columns


def _print_plain(headers: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    titles = [header.upper() for header in headers]
    widths = [max(len(row[column]) for row in (titles, *lines)) for column in range(len(titles))]
    for row in (titles, *lines):
        click.echo(GAP.join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def _print_rich(headers: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for header in headers:
        table.add_column(header.upper(), overflow="fold", no_wrap=header is not headers[-1])
    for row in lines:
        table.add_row(*(Text(text) for text in row))
    Console().print(table)


def _plain(value: object) -> object:
    if hasattr(value, "DESCRIPTOR"):
        return message_dict(value)  # type: ignore[arg-type]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return value
