"""The course of a lookup, the same for UDP and TCP, without I/O of its own.

    query  ─ read ─ judge ─ limits ─ new id ─► bytes for the server       (else a refusal, or nothing)
    answer ─ asked? ─ that question? ─ read ─ learn ─► released to the client, now or when the kernel knows

A `Route` is where a query came from and its answer goes; it knows its queries in flight by their new id.
Unexpected exceptions of the judge or the learner pass through: the caller drops that one message.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from axoneme.lib.dns.questions import QuestionReader
from axoneme.lib.dns.wire import (
    Answer,
    Malformed,
    Question,
    answers_question,
    read_answer,
    refusal,
)
from services.fqdn.model import (
    REFUSED,
    STANDING_SECONDS,
    EventSink,
    Flow,
    Judge,
    Learner,
    ProxySettings,
    Released,
    Ruling,
    Verdict,
    no_name,
)
from services.fqdn.proxy.clients import Client
from services.fqdn.proxy.counters import LATENCY_BUCKETS, STEPS_PER_SECOND, Counters

POOL_BYTES: Final = 4_096
TOO_MANY: Final = "too many queries in flight"
TIMEOUT: Final = "timeout"
_ONE: Final = b"\x00\x01"
# The first byte of flags of a response to a plain query: QR and opcode 0, with any of AA, TC, RD.
_RESPONSES: Final = frozenset(bytes((0x80 | bits,)) for bits in range(8))
FORWARDED, NOW = Verdict.FORWARDED, Released.NOW

# What a client asked: its bytes, their question, what rules said, and when (monotonic seconds). A plain
# tuple: it is made for every query.
Pending = tuple[bytes, Question, Ruling, float]
# Sends a message to the client, with the id of the client's query: (query, message). Never raises OSError.
Reply = Callable[[bytes, bytes], None]


class Route:
    """One client socket or connection towards one server."""

    __slots__ = (
        *("client", "flow", "held", "pending", "reply"),
        *("judged_by", "judged_until", "matches", "no", "yes"),
    )

    def __init__(self, flow: Flow, client: Client, reply: Reply) -> None:
        self.flow = flow
        self.client = client
        self.reply = reply
        self.pending: dict[bytes, Pending] = {}  # by new id; oldest first
        self.held = 0  # answers that wait for the kernel
        # What rules say (`Standing`), good until a time and while the judge has the same table.
        self.judged_until = -math.inf
        self.judged_by: object = None
        self.matches: Callable[[bytes], bool] = no_name
        self.yes = self.no = Ruling(False, 0, 0)


class Held(NamedTuple):
    """An answer that waits for the kernel."""

    route: Route
    pending: Pending
    message: bytes
    answer: Answer
    latency: float


class Lookups:
    """All lookups of the node that are under way."""

    def __init__(
        self,
        settings: ProxySettings,
        judge: Judge,
        learner: Learner,
        sink: EventSink,
        counters: Counters,
        *,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._judge = judge
        self._read_question = QuestionReader().read
        self._learn = learner.learn
        self._due = learner.due
        self._sink = sink
        self._request = sink.request
        self._response = sink.response
        self.counters = counters
        self._identifiers = identifiers(random_bytes)
        self._deny_rcode = settings.deny_rcode
        self._max_in_flight = settings.max_in_flight
        self._max_per_client = settings.max_in_flight_per_client
        self._max_held = settings.max_held
        self._seconds = settings.forward_seconds
        self._held: dict[int, Held] = {}
        self._ticket = 0

    def ask(self, route: Route, query: bytes, now: float) -> bytes | None:
        """What goes to the server for a client's query; None when it was refused or dropped."""
        counters = self.counters
        try:
            question = self._read_question(query)
        except Malformed as error:
            counters.malformed_queries += 1
            self._sink.malformed(route.flow, str(error))
            return None
        if now > route.judged_until or route.judged_by is not self._judge.table:
            self._stand(route, now)
        if not route.matches(question[0]):
            counters.denied += 1
            route.reply(query, refusal(query, question[3], self._deny_rcode))
            self._request(route.flow, route.no, question, Verdict.DENIED, "")
            return None
        client, ruling = route.client, route.yes
        if client.in_flight >= self._max_per_client or counters.in_flight >= self._max_in_flight:
            counters.rejected += 1
            self._refuse(route, (query, question, ruling, now), TOO_MANY)
            return None
        pending = route.pending
        for identifier in self._identifiers:
            if identifier not in pending:
                break
        pending[identifier] = query, question, ruling, now
        client.in_flight += 1
        counters.in_flight += 1
        sink = self._sink
        if sink.watched:
            sink.request(route.flow, ruling, question, FORWARDED, "")
        else:
            sink.unseen += 1
        return identifier + query[2:]

    def _stand(self, route: Route, now: float) -> None:
        """Has the route know what rules of this moment say."""
        route.judged_by = self._judge.table
        route.matches, route.yes, route.no, lasting = self._judge.standing(route.flow)
        route.judged_until = now + STANDING_SECONDS if lasting else -math.inf

    def take(self, route: Route, message: bytes, now: float) -> None:
        """An answer of the route's server. Whatever is not the answer to a query in flight goes nowhere.

        Longer than other functions: it runs for every answer, and calls would be a fifth of its cost.
        """
        counters = self.counters
        identifier = message[:2]
        pending = route.pending.get(identifier)
        if pending is None:
            counters.unexpected_answers += 1
            self._sink.malformed(route.flow, "an answer that nobody waits for")
            return
        query, question, ruling, asked = pending
        end = question[3]
        # The same bytes and a plain response, mostly; else the case may differ.
        if (message[12:end] != query[12:end] or message[2:3] not in _RESPONSES or message[4:6] != _ONE) and (
            not answers_question(query, message, end)
        ):
            counters.mismatched_answers += 1
            self._sink.malformed(route.flow, "the answer to another question")
            return
        try:
            answer = read_answer(message, question)
        except Malformed as error:
            counters.malformed_answers += 1
            self._sink.malformed(route.flow, str(error))
            return
        del route.pending[identifier]
        route.client.in_flight -= 1
        counters.in_flight -= 1
        latency = now - asked
        if answer[6]:  # usable
            self._ticket = ticket = self._ticket + 1
            released = self._learn(ticket, ruling, question, answer)
            if released is not NOW:
                self._hold(ticket, released, Held(route, pending, message, answer, latency))
                return
        route.reply(query, message)
        bucket = int(latency * STEPS_PER_SECOND).bit_length()  # as `answered_within`
        counters.latencies[bucket if bucket < LATENCY_BUCKETS else -1] += 1
        counters.latency_sum += latency
        if self._sink.watched:
            self._response(route.flow, ruling, question, answer, int(latency * 1e9), FORWARDED, "")

    def _hold(self, ticket: int, released: Released, held: Held) -> None:
        if released is Released.HELD and len(self._held) < self._max_held:
            self._held[ticket] = held
            held.route.held += 1
            self.counters.held += 1
            self.counters.held_now = len(self._held)
        else:
            self._drop(held)

    def release(self, now: float) -> None:
        """Lets go what the learner is done with."""
        for ticket, released in self._due(now):
            held = self._held.pop(ticket, None)
            if held is None:
                continue
            held.route.held -= 1
            if released is Released.NOW:
                self._let_go(held)
            else:
                self._drop(held)
        self.counters.held_now = len(self._held)

    @property
    def waiting(self) -> bool:
        """Answers are held."""
        return bool(self._held)

    def _let_go(self, held: Held) -> None:
        query, question, ruling, _ = held.pending
        held.route.reply(query, held.message)
        self.counters.held_released += 1
        self.counters.answered_within(held.latency)
        latency_ns = int(held.latency * 1e9)
        flow = held.route.flow
        self._response(flow, ruling, question, held.answer, latency_ns, FORWARDED, "")

    def _drop(self, held: Held) -> None:
        _, question, ruling, _ = held.pending
        self.counters.held_dropped += 1
        latency_ns = int(held.latency * 1e9)
        error = "the kernel was not told in time"
        self._response(held.route.flow, ruling, question, held.answer, latency_ns, Verdict.ERROR, error)

    def expire(self, route: Route, now: float) -> None:
        """Forgets queries of a route that were asked too long ago. The client sees its own timeout."""
        limit = now - self._seconds
        pending = route.pending
        while pending:
            identifier, oldest = next(iter(pending.items()))
            if oldest[3] > limit:
                return
            self._finish(route, identifier)
            self.counters.timeouts += 1
            self._request(route.flow, oldest[2], oldest[1], Verdict.ERROR, TIMEOUT)

    def fail(self, route: Route, reason: str) -> None:
        """The server cannot be reached: all queries in flight are refused."""
        for identifier in list(route.pending):
            self.fail_one(route, identifier, reason)

    def fail_one(self, route: Route, identifier: bytes, reason: str) -> None:
        """One query could not be sent, or its server said that it is not there."""
        pending = route.pending.get(identifier)
        if pending is not None:
            self._finish(route, identifier)
            self.counters.forward_errors += 1
            self._refuse(route, pending, reason)

    def abandon(self, route: Route, reason: str) -> None:
        """The server ended the connection: the client sees the same, and no answers."""
        for identifier, (_, question, ruling, _) in list(route.pending.items()):
            self._finish(route, identifier)
            self.counters.forward_errors += 1
            self._request(route.flow, ruling, question, Verdict.ERROR, reason)

    def forget(self, route: Route) -> None:
        """The client is gone: nobody waits for these answers."""
        for identifier in list(route.pending):
            self._finish(route, identifier)

    def _finish(self, route: Route, identifier: bytes) -> None:
        del route.pending[identifier]
        route.client.in_flight -= 1
        self.counters.in_flight -= 1

    def _refuse(self, route: Route, pending: Pending, reason: str) -> None:
        query, question, ruling, _ = pending
        route.reply(query, refusal(query, question.end, REFUSED))
        self._request(route.flow, ruling, question, Verdict.ERROR, reason)


def identifiers(random_bytes: Callable[[int], bytes]) -> Iterator[bytes]:
    """Random ids of two bytes without end; a system call for 2,048 of them."""
    while True:
        pool = random_bytes(POOL_BYTES)
        for at in range(0, POOL_BYTES, 2):
            yield pool[at : at + 2]
