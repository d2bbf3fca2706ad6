"""The short way through an answer says what the long way says."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from axoneme.lib.dns.wire import Answer, Malformed, Question, read_answer, read_question
from services.fqdn.proxy.plainanswer import read_any_answer
from tests.dnsmessages import AAAA, TXT, A, answer, query

ADDRESSES = {A: st.binary(min_size=4, max_size=4), AAAA: st.binary(min_size=16, max_size=16)}


def both(message: bytes, question: Question) -> tuple[Answer | str, Answer | str]:
    found: list[Answer | str] = []
    for read in (read_any_answer, read_answer):
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
    assert read_any_answer(message, read_question(asked)).ttl == 30
    doubled = answer(asked, b"\1\2\3\4", b"\1\2\3\4")
    assert read_any_answer(doubled, read_question(asked)).addresses == (b"\1\2\3\4",)
