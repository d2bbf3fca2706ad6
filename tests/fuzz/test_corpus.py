"""Replays the corpus, every example and mutations of them through the fuzz targets."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.conftest import scaled
from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).parents[2]
FILES = sorted(
    file
    for folder in ("tests/fuzz/corpus", "examples/policies", "tests/data/examples")
    for file in (ROOT / folder).rglob("*")
    if file.is_file()
)
TOKENS = (
    b"[]",
    b"[{}]",
    b"{}",
    b"null",
    b'""',
    b"- ",
    b": ",
    b"&a ",
    b"*a",
    b"<<: ",
    b"0",
    b"-1",
    b"65536",
    b"\xff",
)


@pytest.mark.parametrize("target", TARGETS)
def test_every_file(target: str) -> None:
    """As it is."""
    assert FILES
    for file in FILES:
        TARGETS[target](file.read_bytes())


@pytest.mark.parametrize("target", TARGETS)
def test_mutations(target: str) -> None:
    """Bytes cut out, doubled, replaced by what parsers stumble over; the same ones in every run."""
    rng = random.Random(7)
    for _ in range(scaled(300, 5_000)):
        data = bytearray(rng.choice(FILES).read_bytes())
        for _ in range(rng.randint(1, 4)):
            start = rng.randrange(len(data) + 1)
            end = min(len(data), start + rng.randint(0, 12))
            data[start:end] = rng.choice((b"", bytes(data[start:end]) * 2, rng.choice(TOKENS)))
        TARGETS[target](bytes(data))
