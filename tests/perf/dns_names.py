"""What names cost the DNS proxy: a match among 10 and 1,000 patterns, and reading of messages.

CPU time of one process; each figure is of five rounds.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence

from axoneme.lib.dns import wire
from axoneme.lib.dns.index import NameIndex
from axoneme.lib.dns.sets import possible_sets
from axoneme.lib.policy.model import FqdnDefinition
from tests.perf.result import Result

ROUNDS, CALLS = 5, 50_000
QUERY = (
    bytes.fromhex("123401000001000000000001")
    + wire.wire_of("www.example.com")
    + bytes.fromhex("00010001" + "00002904d0000000000000")
)
QUESTION = wire.read_question(QUERY)
_RECORD = bytes.fromhex("c00c000100010000003c0004c0000201")


def _answer(count: int) -> bytes:
    head = QUERY[:2] + bytes.fromhex(f"81800001{count:04x}00000001") + QUERY[12 : QUESTION.end]
    records = (_RECORD[:-1] + bytes((number,)) for number in range(count))
    return head + b"".join(records) + QUERY[QUESTION.end :]


def _definitions(count: int) -> list[FqdnDefinition]:
    """A mixture: names, `*.`, `**.` and patterns with stars inside labels, a quarter each."""
    forms = ("n{}.example.com", "*.n{}.example.com", "**.n{}.example.com", "api{}-*.example.com")
    texts = [forms[number % 4].format(number) for number in range(count)]
    return [FqdnDefinition(text, pattern="*" in text) for text in texts]


def _hit(number: int) -> str:
    forms = ("n{}.example.com", "www.n{}.example.com", "a.www.n{}.example.com", "api{}-q.example.com")
    return forms[number % 4].format(number)


def _rounds(act: Callable[[bytes], object], inputs: Sequence[bytes]) -> list[float]:
    """Nanoseconds of CPU per call, per round."""
    found = []
    for _ in range(ROUNDS):
        begun = time.process_time_ns()
        for one in inputs:
            act(one)
        found.append((time.process_time_ns() - begun) / len(inputs))
    return found


def _matches(count: int) -> Iterable[Result]:
    rng, index = random.Random(count), NameIndex(_definitions(count))
    hits = [wire.wire_of(_hit(rng.randrange(count))) for _ in range(CALLS)]
    misses = [wire.wire_of(f"{rng.choice(('', 'www.', 'a.b.c.'))}m{n}.example.com") for n in range(CALLS)]
    for name, asked, goal in (("hit", hits, "≤ 2,000"), ("miss", misses, "≤ 2,000")):
        values = _rounds(index.matches, asked)
        yield Result(name=f"dns name, {count:,} patterns, {name}", unit="ns CPU", values=values, goal=goal)
    yield Result(
        name=f"dns name, {count:,} patterns, all that match",
        unit="ns CPU",
        values=_rounds(index.matching, hits),
    )


def run() -> Iterable[Result]:
    """The figures."""
    for count in (10, 1_000):
        yield from _matches(count)
    readers: dict[str, tuple[Callable[[bytes], object], bytes, str]] = {
        "read a query": (wire.read_question, QUERY, "≤ 1,500"),
        "read an answer of 1 record": (lambda one: wire.read_answer(one, QUESTION), _answer(1), "≤ 3,000"),
        "read an answer of 2 records": (lambda one: wire.read_answer(one, QUESTION), _answer(2), "≤ 3,000"),
        "compare the questions": (
            lambda one: wire.answers_question(QUERY, one, QUESTION.end),
            _answer(1),
            "",
        ),
        "refuse": (lambda one: wire.refusal(one, QUESTION.end, 5), QUERY, "≤ 1,500"),
    }
    for name, (act, message, goal) in readers.items():
        values = _rounds(act, [message] * CALLS)
        yield Result(name=f"dns message, {name}", unit="ns CPU", values=values, goal=goal)
    seconds = _rounds(lambda _: possible_sets(_definitions(1_000), 4_096), [b""])
    milliseconds = [value / 1e6 for value in seconds]
    yield Result(name="dns sets of 1,000 patterns", unit="ms CPU", values=milliseconds)
