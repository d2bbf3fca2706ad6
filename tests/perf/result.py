"""The figures of a benchmark: a benchmark module has `run() -> Iterable[Result]`."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class CannotRunError(Exception):
    """A benchmark's reason why it does not run on this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Repeated measurements of one thing. `goal`: what ARCHITECTURE §9 asks for, as text."""

    name: str
    unit: str
    values: Sequence[float]
    goal: str = ""


def table(results: Iterable[Result]) -> str:
    """One line per result: minimum, median and maximum over its rounds."""
    rows = [("", "min", "median", "max", "rounds", "unit", "goal")]
    for result in results:
        figures = (min(result.values), statistics.median(result.values), max(result.values))
        texts = [f"{figure:,.4g}" if abs(figure) < 10_000 else f"{figure:,.0f}" for figure in figures]
        rows.append((result.name, *texts, str(len(result.values)), result.unit, result.goal))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(_line(row, widths) for row in rows)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [
        cell.rjust(width) if 1 <= column <= 4 else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(cells).rstrip()
