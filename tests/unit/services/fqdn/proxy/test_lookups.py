"""The course of lookups without sockets."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from services.fqdn.model import NXDOMAIN, REFUSED, UDP, Flow, ProxySettings, Released, Verdict
from services.fqdn.proxy.clients import Client
from services.fqdn.proxy.counters import Counters
from services.fqdn.proxy.lookups import Lookups, Route, identifiers
from tests.dnsmessages import NameJudge, NoteLearner, NoteSink, answer, query, with_case

FLOW = Flow(UDP, b"\x0a\0\0\1", 40_000, b"\x0a\0\0\2", 53)
ADDRESS = b"\xc0\0\2\1"
NOW = 100.0


@dataclass
class Desk:
    """Lookups with fakes around, and one route; `replies` are what the client got."""

    lookups: Lookups
    judge: NameJudge
    learner: NoteLearner
    sink: NoteSink
    replies: list[bytes] = field(default_factory=list)

    def route(self, client: Client | None = None) -> Route:
        def reply(query: bytes, message: bytes) -> None:
            self.replies.append(query[:2] + message[2:])

        return Route(FLOW, client or Client("10.0.0.1"), reply)

    @property
    def counters(self) -> Counters:
        return self.lookups.counters


def desk(random_bytes: Callable[[int], bytes] = os.urandom, settings: ProxySettings | None = None) -> Desk:
    judge, learner, sink = NameJudge(), NoteLearner(), NoteSink()
    lookups = Lookups(
        settings or ProxySettings(), judge, learner, sink, Counters(), random_bytes=random_bytes
    )
    return Desk(lookups, judge, learner, sink)


def asked(one: Desk, route: Route, message: bytes, now: float = NOW) -> bytes:
    sent = one.lookups.ask(route, message, now)
    assert sent is not None
    return sent


def test_an_allowed_query_goes_on_with_another_id_and_its_answer_comes_back_with_the_first() -> None:
    one = desk(lambda count: b"\xaa\xbb" * (count // 2))
    route = one.route()
    sent = asked(one, route, query(0x1234, "ok.example.com"))
    assert sent == b"\xaa\xbb" + query(0x1234, "ok.example.com")[2:]
    one.lookups.take(route, answer(sent, ADDRESS), NOW + 0.003)
    assert one.replies == [answer(query(0x1234, "ok.example.com"), ADDRESS)]
    assert one.learner.learned == [(1, b"\x02ok\x07example\x03com\0", (ADDRESS,))]
    assert route.client.in_flight == one.counters.in_flight == 0
    assert one.counters.answered == 1
    assert one.counters.latencies[3] == 1  # 3 ms is from 2 to 4 ms
    [(_, _, latency_ns, verdict, _)] = one.sink.responses
    assert latency_ns == pytest.approx(3e6, rel=0.01)
    assert verdict is Verdict.FORWARDED


@pytest.mark.parametrize("rcode", [REFUSED, NXDOMAIN])
def test_a_denied_query_is_answered_at_once(rcode: int) -> None:
    one = desk(settings=ProxySettings(deny_rcode=rcode))
    assert one.lookups.ask(one.route(), query(5, "no.example.com"), NOW) is None
    [reply] = one.replies
    assert reply[:2] == b"\x00\x05"
    assert reply[3] & 15 == rcode
    assert one.counters.denied == 1
    assert one.sink.requests[0][2] is Verdict.DENIED


def test_a_standing_holds_for_a_moment_and_while_the_rules_are_the_same() -> None:
    one = desk()
    judge, route = one.judge, one.route()
    for later in (0.0, 0.002, 0.005):
        asked(one, route, query(1, "ok"), NOW + later)
    assert judge.asked == 1
    asked(one, route, query(1, "ok"), NOW + 0.006)
    assert judge.asked == 2
    judge.table = object()
    judge.word = b"other"
    assert one.lookups.ask(route, query(1, "ok"), NOW + 0.006) is None
    assert judge.asked == 3


def test_who_may_ask_nothing_is_looked_at_each_time() -> None:
    one = desk()
    one.judge.lasting = False
    route = one.route()
    for _ in range(3):
        assert one.lookups.ask(route, query(1, "no"), NOW) is None
    assert one.judge.asked == 3
    assert len(one.replies) == 3


def test_what_nobody_watches_is_counted_and_what_went_wrong_is_told() -> None:
    one = desk()
    one.sink.watched = False
    route = one.route()
    one.lookups.take(route, answer(asked(one, route, query(1, "ok")), ADDRESS), NOW)
    assert (one.sink.unseen, one.sink.requests, one.sink.responses) == (1, [], [])
    one.lookups.ask(route, query(1, "no"), NOW)
    assert [verdict for _, _, verdict, _ in one.sink.requests] == [Verdict.DENIED]


def test_ids_in_use_are_passed_over() -> None:
    pool = b"\x00\x01" * 3 + b"\x00\x02"
    one = desk(lambda count: (pool * count)[:count])
    route = one.route()
    assert [asked(one, route, query(9, "ok"))[:2] for _ in range(2)] == [b"\x00\x01", b"\x00\x02"]


@pytest.mark.parametrize(
    ("spoil", "counter"),
    [
        (lambda m: bytes((m[0] ^ 1,)) + m[1:], "unexpected_answers"),
        (lambda m: m[:2], "mismatched_answers"),
        (lambda m: m[:13] + b"x" + m[14:], "mismatched_answers"),  # another name
        (lambda m: m[:20] + b"\x1c" + m[21:], "mismatched_answers"),  # another type
        (lambda m: m[:2] + b"\x01" + m[3:], "mismatched_answers"),  # a query
        (lambda m: m[:-1], "malformed_answers"),
    ],
)
def test_what_is_not_the_answer_goes_nowhere_and_the_answer_still_may(
    spoil: Callable[[bytes], bytes], counter: str
) -> None:
    one = desk()
    route = one.route()
    sent = asked(one, route, query(1, "okay.x"))
    good = answer(sent, ADDRESS)
    one.lookups.take(route, spoil(good), NOW)
    assert not one.replies
    assert getattr(one.counters, counter) == 1
    assert len(one.sink.malformeds) == 1
    one.lookups.take(route, good, NOW)
    assert len(one.replies) == 1
    one.lookups.take(route, good, NOW)  # once only
    assert len(one.replies) == 1


def test_the_case_of_a_query_reaches_the_server_and_the_client() -> None:
    one = desk()
    route = one.route()
    mixed = with_case(query(1, "ok.example.com"), "Ok.ExAmPlE.cOm")
    sent = asked(one, route, mixed)
    assert sent[2:] == mixed[2:]
    one.lookups.take(route, answer(sent, ADDRESS), NOW)
    assert one.replies == [answer(mixed, ADDRESS)]


def test_an_answer_without_addresses_is_not_learned() -> None:
    one = desk()
    route = one.route()
    for flags in (0x8180, 0x8183):
        one.lookups.take(route, answer(asked(one, route, query(1, "ok")), flags=flags), NOW)
    assert len(one.replies) == 2
    assert not one.learner.learned


def test_queries_are_forgotten_after_their_time_and_not_answered() -> None:
    one = desk(settings=ProxySettings(forward_seconds=10))
    route = one.route()
    first, second = asked(one, route, query(1, "ok")), asked(one, route, query(2, "ok"), NOW + 5)
    one.lookups.expire(route, NOW + 9.9)
    assert len(route.pending) == 2
    one.lookups.expire(route, NOW + 10)
    assert list(route.pending) == [second[:2]]
    one.lookups.take(route, answer(first, ADDRESS), NOW + 10)
    assert not one.replies
    assert (one.counters.timeouts, one.counters.unexpected_answers) == (1, 1)
    assert one.sink.requests[-1][2:] == (Verdict.ERROR, "timeout")


def test_limits_of_a_client_and_of_all() -> None:
    one = desk(settings=ProxySettings(max_in_flight=3, max_in_flight_per_client=2))
    client, other = Client("10.0.0.1"), Client("10.0.0.9")
    routes = [one.route(client), one.route(client), one.route(other)]
    for number, route in enumerate(routes[:2]):
        asked(one, route, query(number, "ok"))
    assert one.lookups.ask(routes[0], query(7, "ok"), NOW) is None
    asked(one, routes[2], query(8, "ok"))
    assert one.lookups.ask(routes[2], query(9, "ok"), NOW) is None
    assert [reply[1] for reply in one.replies] == [7, 9]
    assert all(reply[3] & 15 == REFUSED for reply in one.replies)
    assert one.counters.rejected == 2


def test_a_server_that_is_not_there_refuses_what_was_asked() -> None:
    one = desk()
    route = one.route()
    for number in range(3):
        asked(one, route, query(number, "ok"))
    one.lookups.fail(route, "not forwarded: Connection refused")
    assert [reply[1] for reply in one.replies] == [0, 1, 2]
    assert one.counters.in_flight == route.client.in_flight == 0
    assert one.counters.forward_errors == 3


def test_a_bug_of_the_judge_leaves_nothing_behind() -> None:
    one = desk()
    route = one.route()
    with pytest.raises(ZeroDivisionError):
        one.lookups.ask(route, query(1, "bug"), NOW)
    assert not route.pending
    assert one.counters.in_flight == 0


@pytest.fixture
def held() -> tuple[Desk, Route]:
    one = desk(settings=ProxySettings(max_held=2))
    one.learner.verdict = Released.HELD
    route = one.route()
    for number in range(3):
        one.lookups.take(route, answer(asked(one, route, query(number, "ok")), ADDRESS), NOW)
    return one, route


def test_held_answers_go_or_are_dropped_as_the_learner_says(held: tuple[Desk, Route]) -> None:
    one, route = held
    assert not one.replies
    assert one.lookups.waiting
    assert (one.counters.held, one.counters.held_now, route.held) == (2, 2, 2)
    assert one.counters.held_dropped == 1  # the third: no more than two are held
    one.learner.say((1, Released.NOW), (2, Released.DROP), (3, Released.NOW), (99, Released.NOW))
    one.lookups.release(NOW)
    assert [reply[1] for reply in one.replies] == [0]
    assert not one.lookups.waiting
    assert (one.counters.held_released, one.counters.held_dropped, route.held) == (1, 2, 0)
    assert [event[3] for event in one.sink.responses] == [Verdict.ERROR, Verdict.FORWARDED, Verdict.ERROR]


def test_a_learner_may_drop_at_once() -> None:
    one = desk()
    one.learner.verdict = Released.DROP
    route = one.route()
    one.lookups.take(route, answer(asked(one, route, query(1, "ok")), ADDRESS), NOW)
    assert not one.replies
    assert one.counters.held_dropped == 1


def test_ids_come_in_pools() -> None:
    pools: list[int] = []

    def random_bytes(count: int) -> bytes:
        pools.append(count)
        return os.urandom(count)

    found = identifiers(random_bytes)
    assert len({next(found) for _ in range(2_048)}) > 1_900
    assert pools == [4_096]
