"""Maglev tables: how long one takes, and what a backend that goes moves.

    python -m tests.perf maglev

The default size, as a node computes it for a service that changed: backends of one port, from their names to
the elements. Each round has names of its own, so that nothing of an earlier round is remembered.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from shim.lb import maglev
from tests.perf.result import Result

SIZE, ROUNDS = 16_381, 5
GO_MILLISECONDS = {10: "Go: 2.0", 100: "Go: 16.6", 1000: "≤ 20; Go: 143"}


def names(count: int, round_: int, family: int) -> list[str]:
    """Sorted names of so many backends."""
    if family == 4:
        return sorted(f"10.{round_}.{n // 250}.{n % 250}:8080/tcp" for n in range(count))
    return sorted(f"[fd00:{round_}::{n:x}]:8080/tcp" for n in range(count))


def milliseconds(found: list[str], size: int = SIZE) -> float:
    """Time of one table."""
    begun = time.perf_counter()
    maglev.table(found, size)
    return 1_000 * (time.perf_counter() - begun)


def moved(count: int, size: int, round_: int) -> float:
    """Share, in percent, of elements that change hands beside those of the backend that goes."""
    everyone = names(count, round_, 4)
    gone = everyone[round_ * 7 % count]
    left = [name for name in everyone if name != gone]
    before, after = maglev.table(everyone, size), maglev.table(left, size)
    pairs = zip(before, after, strict=True)
    return 100 * sum(everyone[b] not in (gone, left[a]) for b, a in pairs) / size


def results() -> Iterator[Result]:
    """The figures."""
    for count, goal in GO_MILLISECONDS.items():
        for family in (4, 6):
            values = [milliseconds(names(count, round_, family)) for round_ in range(ROUNDS)]
            yield Result(
                name=f"Maglev table, {SIZE:,} elements, {count:,} backends, IPv{family}",
                unit="ms",
                values=values,
                goal=goal,
            )
    for count, size in ((10, SIZE), (100, SIZE), (100, 65_521), (650, 65_521)):
        values = [moved(count, size, round_) for round_ in range(ROUNDS)]
        name = f"moved beyond the backend that goes, {size:,} / {count}"
        yield Result(name=name, unit="%", values=values, goal="≤ 1")


def run() -> Iterable[Result]:
    """Five rounds of each."""
    return list(results())
