"""The short ways through messages say what the long ways say."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from axoneme.lib.dns.questions import QuestionReader
from axoneme.lib.dns.wire import (
    Answer,
    Malformed,
    Question,
    read_answer,
    read_question,
    read_records,
)
from tests.dnsmessages import AAAA, TXT, A, answer, query

ADDRESSES = {A: st.binary(min_size=4, max_size=4), AAAA: st.binary(min_size=16, max_size=16)}


def both(message: bytes, question: Question) -> tuple[Answer | str, Answer | str]:
    found: list[Answer | str] = []
    for read in (read_answer, read_records):
        try:
            found.append(read(message, question))
        except Malformed:
            found.append("malformed")
    return found[0], found[1]


@given(st.data(), st.sampled_from((A, AAAA, TXT)), st.integers(0, 0xFFFF), st.integers(0, 1 << 32 - 1))
def test_plain_answers(data: st.DataObject, qtype: int, flags: int, ttl: int) -> None:
    asked = query(7, "www.example.com", qtype)
    addresses = data.draw(st.lists(st.one_of(*ADDRESSES.values()), max_size=18))
    message = answer(asked, *addresses, ttl=ttl, flags=0x8000 | flags)
    quick, slow = both(message, read_question(asked))
    assert quick == slow


@given(st.data(), st.sampled_from((A, AAAA)), st.integers(1, 5))
def test_damaged_answers(data: st.DataObject, qtype: int, count: int) -> None:
    asked = query(7, "a.b", qtype)
    addresses = data.draw(st.lists(ADDRESSES[qtype], min_size=count, max_size=count))
    message = bytearray(answer(asked, *addresses))
    end = len(asked)
    for _ in range(data.draw(st.integers(0, 3))):
        message[data.draw(st.sampled_from([2, 3, 6, 7, *range(end, len(message))]))] = data.draw(
            st.integers(0, 255)
        )
    cut = data.draw(st.integers(end, len(message)))
    quick, slow = both(bytes(message[:cut]), read_question(asked))
    assert quick == slow


def test_the_least_ttl_and_doubles() -> None:
    asked = query(7, "a.b")
    first = answer(asked, b"\1\2\3\4", b"\1\2\3\5", ttl=90)
    message = first[:-10] + struct.pack(">I", 30) + first[-6:]
    assert read_answer(message, read_question(asked)).ttl == 30
    doubled = answer(asked, b"\1\2\3\4", b"\1\2\3\4")
    assert read_answer(doubled, read_question(asked)).addresses == (b"\1\2\3\4",)


# --- questions

# Labels with zero bytes and lengths in them, so that tails look like other tails.
labels = st.lists(
    st.one_of(
        st.sampled_from([b"a", b"B", b"\0", b"\1a\0", b"\0\0\1\0\1", b"x" * 63]), st.binary(min_size=1)
    ),
    max_size=5,
)
headers = st.one_of(
    st.just(b"\1\0\0\1\0\0\0\0\0\0"), st.binary(min_size=10, max_size=10), st.just(b"\x80\0\0\1" + bytes(6))
)


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    name = b"".join(bytes((len(one) & 0xFF,)) + one for one in draw(labels))
    end = draw(st.sampled_from([b"\0\0\1\0\1", b"\0\0\x1c\0\1", b"\0", b"", b"\xc0\x0c\0\1\0\1"]))
    more = draw(st.sampled_from([b"", b"\0", b"\0\0\1\0\1"]))
    return b"id" + draw(headers) + name + end + more


def said(reader: object, message: bytes) -> Question | str:
    try:
        return reader(message)  # type: ignore[no-any-return,operator]
    except Malformed as error:
        return str(error)


@given(st.lists(messages(), max_size=20))
def test_what_was_read_before_changes_nothing(sequence: list[bytes]) -> None:
    reader = QuestionReader()
    for message in (*sequence, *sequence):
        assert said(reader.read, message) == said(read_question, message)


def test_the_memory_of_tails_is_bounded_and_short() -> None:
    reader = QuestionReader()
    for number in range(10_000):
        assert reader.read(query(1, f"a.n{number}.x")) == read_question(query(1, f"a.n{number}.x"))
    assert len(reader._tails) <= 4_096
    long = query(1, ".".join(["x" * 60] * 4))
    kept = len(reader._tails)
    assert reader.read(long) == read_question(long)
    assert len(reader._tails) == kept
