"""Faults of a policy file on the terminal: one line each, `file:line: path: reason; fix`."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator

import click

from axoneme.lib.errors import FieldViolation, InvalidArgument

_LINE = re.compile(r"line (\d+): (.*)", re.DOTALL)
_DOCUMENT = re.compile(r"documents\[\d+\]\.?")


@contextlib.contextmanager
def print_faults(file_name: str) -> Iterator[None]:
    """Print the violations that a block raises, here or at the server, and end with code 1."""
    try:
        yield
    except InvalidArgument as error:
        if not _located(error.violations):
            raise
        _fail(file_name, error.violations)


def fault_lines(file_name: str, violations: Iterable[FieldViolation]) -> list[str]:
    """The lines to print."""
    lines = []
    for field, description in violations:
        found = _LINE.fullmatch(description)
        path = _DOCUMENT.sub("", field, count=1)
        where = f"{file_name}:{found[1]}" if found else file_name
        text = found[2] if found else description
        lines.append(f"{where}: {path}: {text}" if path else f"{where}: {text}")
    return lines


def _located(violations: Iterable[FieldViolation]) -> bool:
    return any(_LINE.fullmatch(description) for _, description in violations)


def _fail(file_name: str, violations: Iterable[FieldViolation]) -> None:
    for line in fault_lines(file_name, violations):
        click.echo(f"Error: {line}", err=True)
    raise click.exceptions.Exit(1)
