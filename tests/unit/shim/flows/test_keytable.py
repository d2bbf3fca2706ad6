"""The table of keys against a dictionary."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.flows import keytable
from shim.flows.keytable import KeyTable, Words

words = st.one_of(st.integers(0, 5), st.integers(0, 2**64 - 1), st.integers(0, 50).map(lambda n: n << 56))
keys = st.tuples(words, words)


def columns(some: list[tuple[int, int]]) -> tuple[Words, Words]:
    array = np.array(some, dtype=np.uint64).reshape(-1, 2)
    return array[:, 0], array[:, 1]


def check(batches: list[list[tuple[int, int]]], asked: list[tuple[int, int]]) -> None:
    table, known = KeyTable(), dict[tuple[int, int], int]()
    for batch in batches:
        fresh = [key for key in dict.fromkeys(batch) if key not in known]
        known.update(zip(fresh, range(len(known), len(known) + len(fresh)), strict=True))
        table.add(*columns(fresh))
        wanted = [*asked, *known]
        assert table.find(*columns(wanted)).tolist() == [known.get(key, -1) for key in wanted]
    assert len(table) == len(known)


@given(st.lists(st.lists(keys, max_size=20), max_size=4), st.lists(keys, max_size=20))
def test_it_finds_what_a_dictionary_finds(
    batches: list[list[tuple[int, int]]], asked: list[tuple[int, int]]
) -> None:
    check(batches, asked)


def test_keys_that_share_every_hash_stay_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keytable, "_MIX", (np.uint64(0), np.uint64(0)))
    check([[(n, n % 3) for n in range(40)]], [(n, n % 2) for n in range(60)])


def test_many_keys() -> None:
    table = KeyTable()
    numbers = np.arange(50_000, dtype=np.uint64)
    for start in range(0, 50_000, 10_000):
        table.add(numbers[start : start + 10_000] << np.uint64(32), numbers[start : start + 10_000])
    assert (table.find(numbers << np.uint64(32), numbers) == np.arange(50_000)).all()
    assert (table.find(numbers << np.uint64(32), numbers + np.uint64(1)) == -1).all()
