"""What differs between two versions of an object, as lines."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.policy.documentdiff import MAX_LINES, changes_between

_json = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.text(max_size=4)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text("ab", min_size=1, max_size=2), inner, max_size=3)
    ),
    max_leaves=10,
)


@pytest.mark.parametrize(
    ("before", "after", "lines"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": {"b": "x"}}, {"a": {"b": "y"}}, ['a.b: "x" -> "y"']),
        ({}, {"a": []}, ["a: (absent) -> []"]),
        ({"a": None}, {}, ["a: null -> (absent)"]),
        ({"a": []}, {"a": [{}]}, ["a[0]: (absent) -> {}"]),
        ({"a": [1, 2]}, {"a": [1]}, ["a[1]: 2 -> (absent)"]),
        ({"a": 1}, {"a": True}, ["a: 1 -> true"]),
        ({"a": {}}, {"a": []}, ["a: {} -> []"]),
        (None, {"a": 1}, [': null -> {"a":1}']),
    ],
)
def test_lines(before: Any, after: Any, lines: list[str]) -> None:
    """nil, [] and [{}] are different values."""
    assert changes_between(before, after) == lines


@given(before=_json, after=_json)
def test_equal_means_no_line(before: Any, after: Any) -> None:
    """No line exactly when both are written alike."""
    alike = json.dumps(before, sort_keys=True) == json.dumps(after, sort_keys=True)
    assert (changes_between(before, after) == []) == alike
    assert changes_between(before, copy.deepcopy(before)) == []


def test_many_and_long_values() -> None:
    """At most 50 lines, the last of which counts; long values are cut."""
    lines = changes_between({}, {f"k{index:03}": index for index in range(200)})
    assert len(lines) == MAX_LINES
    assert lines[-1] == "151 more values differ"
    assert len(changes_between({}, {"a": "x" * 1000})[0]) < 150
