"""Output of commands: tables for people, JSON for programs.

rich is loaded only on a terminal; piped tables are plain columns, so that grep and awk see what a person saw.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from google.protobuf.message import Message

OUTPUTS = ("table", "json")
GAP = "  "


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
    if sys.stdout.isatty():
        _print_rich(headers, lines)
    else:
        _print_plain(headers, lines)


def print_json(value: object) -> None:
    """Prints one JSON document; protobuf messages inside are converted with their proto field names."""
    click.echo(json.dumps(_plain(value), indent=2, ensure_ascii=False))


def message_dict(message: Message) -> dict[str, Any]:
    """A protobuf message as JSON values, with the names of the proto; unset fields are shown too."""
    from google.protobuf.json_format import MessageToDict

    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


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
        table.add_column(header.upper(), overflow="fold")
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
