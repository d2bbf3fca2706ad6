"""YAML and JSON into positioned nodes."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.policy.reading.document import MAX_BYTES, MAX_DEPTH, MAX_DOCUMENTS, from_plain, parse
from services.policy.reading.faults import InvalidPolicy


def test_values_and_positions() -> None:
    """Absent, null, [] and {} stay apart; each value knows its line and path."""
    (node,) = parse(
        'a: 1\nb: "2"\nc:\n  - x: null\n    y: []\n    z: {}\n  - [1, 2.5, yes, 010, 2001-01-01]\n'
    )
    expected = {"a": 1, "b": "2", "c": [{"x": None, "y": [], "z": {}}, [1, 2.5, True, 8, "2001-01-01"]]}
    assert node.plain() == expected
    assert node.mapping is not None
    items = node.mapping["c"].items
    assert items is not None
    assert items[0].mapping is not None
    assert (items[0].mapping["y"].path, items[0].mapping["y"].line) == ("c[0].y", 5)


def test_several_documents_and_empty_ones() -> None:
    """Empty documents are left out; the others count from 0."""
    nodes = parse("---\na: 1\n---\n---\nb: 2\n")
    assert [(node.document, node.plain()) for node in nodes] == [(0, {"a": 1}), (2, {"b": 2})]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: &x 1", "anchor"),
        ("a: 1\nb: *x", "line 2, b: an alias"),
        ("a: &x [1]\nb: *x", "anchor"),
        ("a: 1\nb: 2\na: 3", "line 3, a: the key 'a' is repeated (first on line 1)"),
        ("[" * 21, "nested deeper"),
        ("{a: " * 21, "nested deeper"),
        ("a: !!python/object:os.system x", "tag"),
        ("a: !x [1]", "tag"),
        ("<<: {a: b}", "merge key"),
        ("? [a]\n: b", "a key is a list"),
        ("a: [", "not valid YAML"),
        ("a: \x00", "not valid YAML"),
        ("- 99999999999999999999999", "not a number"),
        ("a: " + "x" * MAX_BYTES, "exceeds"),
        ("---\na: 1\n" * 101, "more than 100 documents"),
    ],
)
def test_refusals(text: str, words: str) -> None:
    """What is dangerous or ambiguous is refused with its position."""
    with pytest.raises(InvalidPolicy) as caught:
        parse(text)
    assert words in str(caught.value)


def test_json_with_tabs() -> None:
    """JSON may be indented by tabs."""
    assert [node.plain() for node in parse('{\n\t"a":\t["\\u00e4"]\n}')] == [{"a": ["ä"]}]


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.text(st.characters(codec="ascii"), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(_json)
def test_decoded_data_goes_through_unchanged(value: object) -> None:
    """What the store holds reads as it was written, and JSON text reads like the data it stands for."""
    assert from_plain(value).plain() == value
    if value is not None:
        assert [node.plain() for node in parse(json.dumps(value))] == [value]


@pytest.mark.parametrize(
    ("text", "line", "path"),
    [
        ("a: 1\nb: [1,\n  *x]", 3, "b[1]"),
        ("a:\n  b: &x 1", 2, "a.b"),
        ("a:\n  b: 1\n  b: 2", 3, "a.b"),
        ("a:\n  - b: !!int x", 2, "a[0].b"),
        ("a:\n  <<: {}", 2, "a"),
        ("a:\n  ? [1]\n  : b", 2, "a"),
        ("a: 1\n---\nb: ]", 3, ""),
        ("{" + '"a": [' * 30, 1, "a" + "[0].a" * 9 + "[0]"),
    ],
)
def test_refusals_say_where_and_what_to_do(text: str, line: int, path: str) -> None:
    """Line, path, reason and fix."""
    with pytest.raises(InvalidPolicy) as caught:
        parse(text)
    fault = caught.value.faults[0]
    assert (fault.line, fault.path) == (line, path)
    assert fault.reason
    assert fault.fix


@pytest.mark.parametrize("depth", [MAX_DEPTH - 1, MAX_DEPTH])
def test_the_deepest_text_can_be_stored_and_read_again(depth: int) -> None:
    """Both readers agree on what is too deep."""
    value: object = 1
    for _ in range(depth):
        value = [value]
    if depth < MAX_DEPTH:
        (node,) = parse(json.dumps(value))
        assert from_plain(node.plain()).plain() == value
        return
    with pytest.raises(InvalidPolicy, match="nested deeper"):
        parse(json.dumps(value))


def test_as_much_as_is_accepted() -> None:
    """The largest text and the most documents."""
    assert parse("a: " + "x" * (MAX_BYTES - 3))
    assert len(parse("---\na: 1\n" * MAX_DOCUMENTS)) == MAX_DOCUMENTS


def test_aliases_are_refused_before_they_cost_anything() -> None:
    """The expansion of ten levels of nine references each would have 3 billion elements."""
    text = "a: &a [x]\n" + "".join(f"b{n}: &b{n} [{', '.join(['*a'] * 9)}]\n" for n in range(10))
    with pytest.raises(InvalidPolicy, match="anchor"):
        parse(text)


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    """No text makes the parser fail in another way."""
    with contextlib.suppress(InvalidPolicy):
        parse(text)
