"""Sets of selectors that names can have, prefixes around addresses, and the table of both."""

from __future__ import annotations

import ipaddress
import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axoneme.lib import identities
from axoneme.lib.dns.compat import compatible, includes
from axoneme.lib.dns.sets import PrefixFinder, SetTable, possible_sets
from axoneme.lib.dnsnames import matches
from axoneme.lib.errors import InvalidArgument
from axoneme.lib.policy.locallabels import local_labels
from axoneme.lib.policy.model import FqdnDefinition
from services.policy.reading.fqdnfields import canonical_pattern

_LABELS = ["".join(letters) for size in (1, 2, 3) for letters in itertools.product("ab", repeat=size)]
NAMES = [
    *_LABELS,
    *(".".join(pair) for pair in itertools.product(_LABELS, repeat=2)),
    *(".".join(three) for three in itertools.product(_LABELS[:6], repeat=3)),
]
_pattern = st.builds(
    lambda lead, labels: FqdnDefinition(
        canonical_pattern(f"{lead}*.{'.'.join(labels)}")[2 * (not lead) :], True
    ),
    st.sampled_from(["", "*"]),
    st.lists(st.text("ab*", min_size=1, max_size=3), min_size=1, max_size=2),
)


def names_of(one: FqdnDefinition) -> set[str]:
    """Those of all short names that it matches."""
    return {name for name in NAMES if matches(one.text, pattern=one.pattern, name=name)}


@given(one=_pattern, other=_pattern)
def test_two_patterns(one: FqdnDefinition, other: FqdnDefinition) -> None:
    """Short names show whether patterns go together, and whether one includes the other."""
    first, second = names_of(one), names_of(other)
    assert compatible(one, other) == compatible(other, one)
    if first & second:
        assert compatible(one, other)
    if includes(one, other):
        assert second <= first
    if compatible(one, other) and all(len(each.text) <= 4 and "." not in each.text for each in (one, other)):
        assert first & second


@given(definitions=st.lists(_pattern, min_size=1, max_size=5), exact=st.sampled_from(NAMES))
def test_no_set_is_missing(definitions: list[FqdnDefinition], exact: str) -> None:
    """The set of every short name is one of those that are possible."""
    known = [*definitions, FqdnDefinition(exact)]
    possible = possible_sets(known, 10_000)
    for name in NAMES:
        found = frozenset(one.text for one in known if matches(one.text, pattern=one.pattern, name=name))
        assert not found or found in possible, name


def test_examples() -> None:
    """Inner patterns come with outer ones; exact names with what matches them."""
    texts = ["*.x.com", "**.x.com", "*b*.y", "c*.y"]
    known = [FqdnDefinition(text, pattern=True) for text in texts]
    assert possible_sets([*known, FqdnDefinition("a.x.com"), FqdnDefinition("z")], 100) == {
        frozenset({"a.x.com", "*.x.com", "**.x.com"}),
        frozenset({"z"}),
        frozenset({"*.x.com", "**.x.com"}),
        frozenset({"**.x.com"}),
        frozenset({"*b*.y"}),
        frozenset({"c*.y"}),
        frozenset({"*b*.y", "c*.y"}),
    }


def test_limit() -> None:
    """Names first, then single patterns; 2^30 sets are not counted."""
    known = [FqdnDefinition(f"*{letter}{other}*.x", pattern=True) for letter in "abcde" for other in "fghijk"]
    sets = possible_sets([*known, FqdnDefinition("name")], 100)
    assert len(sets) == 100
    assert {frozenset({"name"}), *(frozenset({one.text}) for one in known)} <= sets
    assert possible_sets(known, 0) == frozenset()


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("*.x", "**.x", True),
        ("*.x", "*.y", False),
        ("*.*.x", "**.x", True),
        ("**.a.x", "*.x", False),
        ("**.a*.x", "**.*b.x", True),
        ("a*.x", "*b.x", True),
        ("a*.x", "b*.x", False),
        ("*", "q*.z", True),
        (f"{'a' * 40}*.x", f"*{'b' * 24}.x", False),
        (f"{'a' * 40}*.x", f"*{'b' * 23}.x", True),
    ],
)
def test_pairs(one: str, other: str, expected: bool) -> None:
    """Also by the length that a label may have."""
    first, second = FqdnDefinition(one, pattern=True), FqdnDefinition(other, pattern=True)
    assert compatible(first, second) is compatible(second, first) is expected


# --- prefixes

_networks = st.lists(
    st.one_of(
        st.builds(
            lambda n, p: ipaddress.IPv4Network((n << 24, p), strict=False),
            st.integers(8, 11),
            st.integers(0, 32),
        ),
        st.builds(
            lambda n, p: ipaddress.IPv6Network((n << 112, p), strict=False),
            st.integers(8, 11),
            st.integers(0, 128),
        ),
    ),
    max_size=8,
)
_addresses = st.one_of(
    st.builds(lambda n, low: (n << 24 | low).to_bytes(4, "big"), st.integers(8, 11), st.integers(0, 3)),
    st.builds(lambda n, low: (n << 112 | low).to_bytes(16, "big"), st.integers(8, 11), st.integers(0, 3)),
)


@given(networks=_networks, address=_addresses)
def test_longest_prefix(networks: list[Any], address: bytes) -> None:
    """As if each prefix were tried."""
    whole = ipaddress.ip_network("0.0.0.0/0" if len(address) == 4 else "::/0")
    ip = ipaddress.ip_address(address)
    around = [one for one in (whole, *networks) if ip in one]
    assert PrefixFinder(map(str, networks)).find(address) == str(max(around, key=lambda one: one.prefixlen))


def test_no_prefix() -> None:
    """Host bits, no prefix, no address."""
    for text in ("10.1.0.0/8", "x"):
        with pytest.raises(ValueError):
            PrefixFinder([text])
    with pytest.raises(KeyError):
        PrefixFinder().find(b"123")


# --- table

SELECTORS = (FqdnDefinition("*.x.com", pattern=True), FqdnDefinition("a.x.com"))
N = identities.LOCAL_SCOPE + 7
ROWS: tuple[tuple[int, str, list[str]], ...] = (
    (N, "0.0.0.0/0", ["*.x.com"]),
    (N + 1, "0.0.0.0/0", ["*.x.com", "a.x.com"]),
    (N + 2, "::/0", ["*.x.com"]),
    (N + 3, "10.0.0.0/8", []),
    (N + 4, "10.0.0.0/8", ["a.x.com"]),
)
TABLE = SetTable(3, SELECTORS, ["10.0.0.0/8", "2001:db8::/32"], ROWS)
BOTH = frozenset({"*.x.com", "a.x.com"})


def test_table_there_and_back() -> None:
    """The file holds everything, the same bytes for the same table."""
    again = SetTable.load(TABLE.dump())
    assert again.dump() == TABLE.dump()
    assert (again.revision, again.selectors, again.prefixes) == (3, frozenset(SELECTORS), TABLE.prefixes)
    assert again.numbers() == {row[0] for row in ROWS}


def test_table_answers() -> None:
    """Numbers of sets, what is nearest to an unknown one, and labels."""
    assert TABLE.prefix_of(b"\x0a\x01\x01\x01") == "10.0.0.0/8"
    assert TABLE.prefix_of(bytes(16)) == "::/0"
    assert TABLE.index.matching(b"\x01a\x01x\x03com\x00") == BOTH
    assert TABLE.number_of("0.0.0.0/0", BOTH) == N + 1
    assert TABLE.number_of("::/0", BOTH) is None
    assert TABLE.nearest("::/0", BOTH) == N + 2
    assert TABLE.nearest("10.0.0.0/8", BOTH) == N + 4
    assert TABLE.nearest("10.0.0.0/8", frozenset({"*.x.com"})) is None
    assert TABLE.nearest("2001:db8::/32", BOTH) is None
    assert TABLE.labels_of(N + 4) == local_labels("10.0.0.0/8", ["a.x.com"])
    assert TABLE.labels_of(identities.WORLD_IPV6) == local_labels("::/0")
    assert TABLE.labels_of(1) is None
    assert SetTable().nearest("0.0.0.0/0", BOTH) is None


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"revision": -1},
        {"revision": "x"},
        {"more": 1},
        {"prefixes": ["10.0.0.1/8"]},
        {"prefixes": ["10.0.0.0/8", "x"]},
        {"prefixes": ["10.0.0.0/8", "10.0.0.1"]},
        {"prefixes": []},
        {"selectors": []},
        {"selectors": [{"text": "a.x.com"}]},
        {"identities": [[1, "0.0.0.0/0", []]]},
        {"identities": [[N, "0.0.0.0/0", []], [N, "::/0", []]]},
        {"identities": [[N, "::/0", []], [N + 1, "::/0", []]]},
        {"identities": [[N, "::/0"]]},
    ],
)
def test_broken_tables(change: dict[str, Any]) -> None:
    """Refused in words."""
    with pytest.raises(InvalidArgument):
        SetTable.load(json.dumps({**json.loads(TABLE.dump()), **change}).encode())


@pytest.mark.parametrize("data", [b"", b"{}", b"[" * 100_000, b"\xff", TABLE.dump()[:-1]])
def test_no_tables(data: bytes) -> None:
    """A file that was cut, or is another one."""
    with pytest.raises(InvalidArgument):
        SetTable.load(data)
