"""DNS messages for tests of the proxy, and fakes of what it calls."""

from __future__ import annotations

import struct
import threading
from dataclasses import dataclass, field

from axoneme.lib.dns.wire import Answer, Question, wire_of
from services.fqdn.model import Flow, Released, Ruling, Standing, Verdict

A, AAAA, TXT = 1, 28, 16
HEADER = 12
ENDPOINT_ID, SERVER_IDENTITY = 17, 1_234


def query(identifier: int, name: str, qtype: int = A, *, more: bytes = b"", extra: int = 0) -> bytes:
    """A query with RD; `more` are records of the additional section, `extra` of them."""
    header = struct.pack(">HHHHHH", identifier, 0x0100, 1, 0, 0, extra)
    return header + wire_of(name) + struct.pack(">HH", qtype, 1) + more


def with_case(message: bytes, name: str) -> bytes:
    """The same query with the letters of its name as in `name` (0x20)."""
    labels = b"".join(bytes((len(one),)) + one.encode() for one in name.rstrip(".").split("."))
    return message[:HEADER] + labels + message[HEADER + len(labels) :]


def answer(message: bytes, *addresses: bytes, ttl: int = 60, flags: int = 0x8180) -> bytes:
    """The answer to a query with these addresses (4 or 16 bytes) for the name asked."""
    end = message.index(0, HEADER) + 5
    records = b"".join(
        struct.pack(">HHHIH", 0xC00C, A if len(one) == 4 else AAAA, 1, ttl, len(one)) + one
        for one in addresses
    )
    counts = struct.pack(">HHHHH", flags, 1, len(addresses), 0, 0)
    return message[:2] + counts + message[HEADER:end] + records


def framed(message: bytes) -> bytes:
    return len(message).to_bytes(2, "big") + message


class NameJudge:
    """Names that begin with a word are allowed; `fail` stands for a bug."""

    def __init__(self, word: bytes = b"ok") -> None:
        self.word = word
        self.failing = b"bug"

        self.table: object = None
        self.lasting = True
        self.asked = 0  # how often a standing was asked for

    def standing(self, flow: Flow) -> Standing:
        self.asked += 1
        yes = Ruling(True, ENDPOINT_ID, SERVER_IDENTITY)
        return Standing(self._matches, yes, Ruling(False, *yes[1:3], "no rule for this name"), self.lasting)

    def _matches(self, name: bytes) -> bool:
        if name[1:].startswith(self.failing):
            raise ZeroDivisionError("a bug of the judge")
        return name[1:].startswith(self.word)


@dataclass
class NoteLearner:
    """Notes what it learned; `verdict` is what it says to everything, `ready` what is due."""

    verdict: Released = Released.NOW
    learned: list[tuple[int, bytes, tuple[bytes, ...]]] = field(default_factory=list)
    ready: list[tuple[int, Released]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def learn(self, ticket: int, ruling: Ruling, question: Question, answer: Answer) -> Released:
        self.learned.append((ticket, question.name, answer.addresses))
        return self.verdict

    def due(self, now: float) -> list[tuple[int, Released]]:
        with self.lock:
            ready, self.ready = self.ready, []
        return ready

    def say(self, *ready: tuple[int, Released]) -> None:
        with self.lock:
            self.ready += ready


@dataclass
class NoteSink:
    """Notes every event."""

    watched: bool = True
    unseen: int = 0

    requests: list[tuple[Flow, Question, Verdict, str]] = field(default_factory=list)
    responses: list[tuple[Flow, Answer, int, Verdict, str]] = field(default_factory=list)
    malformeds: list[tuple[Flow, str]] = field(default_factory=list)

    def request(self, flow: Flow, ruling: Ruling, question: Question, verdict: Verdict, error: str) -> None:
        self.requests.append((flow, question, verdict, error))

    def response(
        self,
        flow: Flow,
        ruling: Ruling,
        question: Question,
        answer: Answer,
        latency_ns: int,
        verdict: Verdict,
        error: str,
    ) -> None:
        self.responses.append((flow, answer, latency_ns, verdict, error))

    def malformed(self, flow: Flow, error: str) -> None:
        self.malformeds.append((flow, error))
