"""Tens of thousands of messages, whole and broken: nothing but Malformed, no long look, no memory kept."""

from __future__ import annotations

import time
import tracemalloc

from axoneme.lib.dns import wire
from tests.conftest import scaled
from tests.fuzz.dnsmessages import messages
from tests.fuzz.targets import dns_answer, dns_question

MESSAGES = 39_000
LONGEST = 0.050  # seconds of CPU


def test_no_crash_and_no_long_look() -> None:
    """Each message as a query and as an answer."""
    count, usable, longest = 0, 0, 0.0
    for message in messages(scaled(MESSAGES, 10 * MESSAGES)):
        begun = time.process_time()
        dns_question(message)
        usable += dns_answer(message)
        taken = time.process_time() - begun
        if taken > LONGEST:
            # A busy machine may be slow once; a bad message is slow again.
            begun = time.process_time()
            dns_answer(message)
            taken = time.process_time() - begun
        longest, count = max(longest, taken), count + 1
    assert count >= MESSAGES
    assert usable > count // 20, "the answers are too broken to say anything"
    assert longest <= LONGEST


def test_memory_is_flat() -> None:
    """What was read is gone when its reader is."""
    some = list(messages(3_000))

    def read_all() -> int:
        for message in some:
            dns_question(message)
            dns_answer(message)
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        read_all()
        first = read_all()
        assert read_all() - first < 16_384
        tracemalloc.reset_peak()
        before = read_all()
        assert tracemalloc.get_traced_memory()[1] - before < 8 << 20
    finally:
        tracemalloc.stop()


def test_the_messages_are_of_every_kind() -> None:
    """The same in every run, all different, and as broad as they claim."""
    some = list(messages(6_000))
    assert len(set(some)) == len(some) >= 6_000
    assert some == list(messages(6_000))
    types: set[int] = set()
    for message in some:
        try:
            types.update(wire.read_answer(message, question_of(message)).rrtypes)
        except wire.Malformed:
            continue
    assert len(types) > 80
    assert 65_000 < max(map(len, some)) <= 65_535


def question_of(answer: bytes) -> wire.Question:
    """The question of an answer, as its query had it."""
    return wire.read_question(answer[:2] + bytes((answer[2] & 1 if len(answer) > 2 else 0,)) + answer[3:])
