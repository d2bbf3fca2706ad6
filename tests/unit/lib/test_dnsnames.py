"""DNS names and patterns against a matcher that tries everything."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axoneme.lib.dnsnames import canonical_name, matches

_text = st.text(alphabet="ab.-*", max_size=10)
_name = st.text(alphabet="ab.-", max_size=10)


def naive(pattern: str, name: str) -> bool:
    """The rule word for word: a star is any number of characters inside one label."""
    if pattern == "*":
        return re.fullmatch("[-a-z0-9_.]*", name) is not None
    if pattern.startswith("**."):
        cuts = [cut for cut in range(len(name) + 1) if re.fullmatch(r"([-a-z0-9_]+\.)+", name[:cut])]
        return any(naive_inside(pattern[3:], name[cut:]) for cut in cuts)
    return naive_inside(pattern, name)


def naive_inside(pattern: str, name: str) -> bool:
    """Stars inside labels, tried at every length."""
    if not pattern:
        return not name
    if pattern[0] != "*":
        return bool(name) and name[0] == pattern[0] and naive_inside(pattern[1:], name[1:])
    longest = 0
    while longest < len(name) and name[longest] in "ab-":
        longest += 1
    return any(naive_inside(pattern[1:], name[taken:]) for taken in range(longest + 1))


@given(pattern=_text, name=_name)
def test_patterns(pattern: str, name: str) -> None:
    """Any pattern, any name; both in any case and with or without the root dot."""
    wanted, asked = canonical_name(pattern), canonical_name(name)
    assert matches(pattern, pattern=True, name=name) == naive(wanted, asked)
    assert matches(pattern.upper(), pattern=True, name=name.upper()) == naive(wanted, asked)


@given(one=_name, other=_name)
def test_names(one: str, other: str) -> None:
    """Equal but for case and the root dot."""
    assert matches(one, pattern=False, name=other) == (canonical_name(one) == canonical_name(other))
    assert matches(one, pattern=False, name=f"{one.upper()}.") == (canonical_name(one) == one)


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("*.example.com", "www.example.com", True),
        ("*.example.com", "a.b.example.com", False),
        ("*.example.com", "example.com", False),
        ("**.example.com", "a.b.example.com", True),
        ("**.example.com", "example.com", False),
        ("*", "anything.at.all", True),
        ("sub*.example.com", "sub.example.com", True),
        ("sub*.example.com", "subway.example.com", True),
        ("a*b*c.x", "a1b2c.x", True),
        ("a*b*c.x", "a1c2b.x", False),
        ("x.y", "xzy", False),
    ],
)
def test_examples(pattern: str, name: str, expected: bool) -> None:
    """What people write."""
    assert matches(pattern, pattern=True, name=name) is expected


def test_many_stars_cost_no_more_than_a_glance() -> None:
    """A pattern at the limit against a name that nearly fits: no backtracking without end."""
    pattern = f"{'*a' * 120}*b"
    begun = time.process_time()
    assert not matches(pattern, pattern=True, name="a" * 250)
    assert time.process_time() - begun < 1
