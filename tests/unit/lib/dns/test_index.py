"""The index of names and patterns against a matcher that tries each pattern by itself."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from axoneme.lib.dns.index import IndexParts, NameIndex, is_plain
from axoneme.lib.dns.names import labels_of, text_of, wire_of
from axoneme.lib.dnsnames import matches
from axoneme.lib.policy.model import FqdnDefinition
from services.policy.reading.fqdnfields import canonical_pattern

_label = st.one_of(
    st.text("ab", min_size=1, max_size=3), st.sampled_from(["-", "0", "x" * 45, "y" * 48, "z" * 63])
)
_wild = st.text("ab*", min_size=1, max_size=5)
_name = st.lists(_label, min_size=1, max_size=4).map(".".join)
_pattern = st.builds(
    lambda lead, labels: canonical_pattern(lead + ".".join(labels)),
    st.sampled_from(["", "", "**.", "***."]),
    st.lists(st.one_of(_label, _wild), min_size=1, max_size=4),
)
_definition = st.one_of(
    st.builds(FqdnDefinition, _name),
    st.builds(FqdnDefinition, _pattern, st.just(True)),
    st.just(FqdnDefinition("*", pattern=True)),
)
_odd_label = st.one_of(
    st.text("ab", min_size=1, max_size=3).map(str.encode),
    st.sampled_from(
        [b"a.b", b"\x01a", b"\x00", b"*", b"b\xff", b"-", b"0" * 48, b"x" * 45, b"y" * 48, b"z" * 63]
    ),
)


def in_wire_form(labels: list[bytes]) -> bytes:
    """Labels with any bytes as a name."""
    return b"".join(bytes((len(label),)) + label for label in labels) + b"\x00"


_asked = st.lists(_odd_label, max_size=5).map(in_wire_form).filter(lambda name: len(name) <= 255)


def brute_force(definitions: list[FqdnDefinition], name: bytes) -> frozenset[str]:
    """Each by itself, on the text."""
    text = text_of(name)
    return frozenset(one.text for one in definitions if matches(one.text, pattern=one.pattern, name=text))


@given(definitions=st.lists(_definition, max_size=8), name=_asked)
@example(definitions=[FqdnDefinition("*", pattern=True)], name=b"\x00")
@example(definitions=[FqdnDefinition("**.a", pattern=True)], name=b"\x01\x00\x01a\x00")
@example(definitions=[FqdnDefinition("*.*.a", pattern=True)], name=b"\x03b.b\x01a\x00")
@example(definitions=[FqdnDefinition("**.*a*b", pattern=True)], name=b"\x01a\x02ab\x00")
def test_as_the_twin(definitions: list[FqdnDefinition], name: bytes) -> None:
    """Any names and patterns, any name, also one with dots inside labels."""
    index, expected = NameIndex(definitions), brute_force(definitions, name)
    assert index.matching(name) == expected
    assert index.matches(name) == bool(expected)


@given(data=st.data(), definitions=st.lists(_definition, min_size=1, max_size=8))
def test_names_made_to_match(data: st.DataObject, definitions: list[FqdnDefinition]) -> None:
    """Stars filled in, so that most names match something."""
    text = data.draw(st.sampled_from(definitions)).text
    if text.startswith("**."):
        text = data.draw(st.lists(_label, min_size=1, max_size=2).map(".".join)) + text[2:]
    while "*" in text:
        text = text.replace("*", data.draw(st.text("ab-", max_size=2)), 1)
    labels = [label.encode() for label in text.split(".") if label]
    name = in_wire_form(labels)
    if len(name) <= 255 and all(len(label) < 64 for label in labels):
        expected = brute_force(definitions, name)
        index = NameIndex(definitions)
        assert index.matching(name) == expected
        assert index.matches(name) == bool(expected)


@given(name=_asked)
def test_plain_names(name: bytes) -> None:
    """Only letters, digits, `-` and `_`, whatever the lengths look like."""
    plain = all(set(label) <= set(b"abcdefghijklmnopqrstuvwxyz0123456789-_") for label in labels_of(name))
    assert is_plain(name) == plain
    assert is_plain(name[:-1]) == plain


@pytest.mark.parametrize(
    ("text", "matching", "other"),
    [
        ("www.x.com", ["www.x.com"], ["x.com", "a.www.x.com", "www.x.comm"]),
        ("*.x.com", ["a.x.com", "_sip.x.com"], ["x.com", "a.b.x.com", "a\\046b.x.com", "\\*.x.com"]),
        ("**.x.com", ["a.x.com", "a.b.c.x.com"], ["x.com", "ax.com", "a\\.b.x.com"]),
        ("*x.com", ["x.com", "ax.com"], ["a.x.com"]),
        ("api*-v*.x.com", ["api-v.x.com", "api1-v2.x.com"], ["api1.x.com", "ap-v.x.com"]),
        ("a.*", ["a.com"], ["a", "a.b.com", "b.com"]),
        ("*.*.com", ["a.b.com"], ["b.com", "a.b.c.com"]),
        ("**.db-*.x", ["a.db-1.x", "a.b.db-.x"], ["db-1.x"]),
        ("**.*", ["a.b", "a.b.c"], ["a", "."]),
        ("*", ["a", "a.b.c", "."], ["a\\032b"]),
    ],
)
def test_examples(text: str, matching: list[str], other: list[str]) -> None:
    """Facts A1."""
    index = NameIndex([FqdnDefinition(text, pattern="*" in text)])
    assert [name for name in (*matching, *other) if index.matches(wire_of(name))] == matching


def test_parts() -> None:
    """What a compiler for the kernel gets."""
    patterns = [FqdnDefinition(text, pattern=True) for text in ("*.b", "**.c", "d*.e", "*", "a..b", "f")]
    assert NameIndex([FqdnDefinition("a.b"), *patterns]).parts == IndexParts(
        exact=frozenset({b"\x01a\x01b\x00", b"\x01f\x00"}),
        one_label=frozenset({b"\x01b\x00"}),
        any_labels=frozenset({b"\x01c\x00"}),
        leftovers=frozenset({FqdnDefinition("d*.e", pattern=True)}),
        every=True,
    )


def test_nothing() -> None:
    """No definitions, no names; a look-up leaves nothing behind."""
    index = NameIndex()
    assert not index.matches(b"\x00")
    assert not index.matches(b"\x01a\x00")
    assert index.matching(b"\x01a\x00") == frozenset()
    assert index.parts == IndexParts(frozenset(), frozenset(), frozenset(), frozenset(), every=False)
