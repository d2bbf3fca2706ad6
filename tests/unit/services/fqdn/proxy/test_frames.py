"""Messages out of a stream, however it is cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.fqdn.proxy.frames import FrameReader, TooLong, framed


def drained(reader: FrameReader) -> list[bytes]:
    found = []
    while (one := reader.next()) is not None:
        found.append(one)
    return found


@given(st.lists(st.binary(max_size=40), max_size=8), st.lists(st.integers(0, 400), max_size=12))
def test_messages_are_whole_however_the_stream_is_cut(messages: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(framed(one) for one in messages)
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    reader, found = FrameReader(), []
    for start, end in pairwise(places):
        reader.feed(stream[start:end])
        found += drained(reader)
    assert found == messages
    assert reader.held == 0


def test_a_message_at_the_limit_passes_and_one_above_is_refused_before_it_has_come() -> None:
    reader = FrameReader(limit=20)
    reader.feed(framed(bytes(20)) + (21).to_bytes(2, "big"))
    assert reader.next() == bytes(20)
    with pytest.raises(TooLong):
        reader.next()


def test_half_a_length_waits() -> None:
    reader = FrameReader()
    reader.feed(b"\x00")
    assert reader.next() is None
    reader.feed(b"\x01x\x00")
    assert drained(reader) == [b"x"]
    assert reader.held == 1
