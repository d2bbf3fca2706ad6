"""The proxy's hot path as a process, for tests/perf/dns_proxy.py.

    python -m tests.perf.dns_proxy_process PATTERNS [PROFILE_FILE]

Rules are a name index, learning is a look-up in memory: the sockets, the parser and the matcher are measured.
Listens on port 53 of every address of its namespace, prints READY, and ends by SIGTERM.
"""

from __future__ import annotations

import cProfile
import os
import signal
import sys
import time

from axoneme.lib.dns.index import NameIndex
from axoneme.lib.dns.wire import Answer, Question
from axoneme.lib.policy.model import FqdnDefinition
from services.fqdn.model import Flow, ProxySettings, Released, Ruling, Verdict
from services.fqdn.proxy.loop import Proxy

ENDPOINT_ID, SERVER_IDENTITY = 17, 1_234


def definitions(count: int) -> list[FqdnDefinition]:
    """`*.domain.com` among patterns of all kinds that match none of the names asked for."""
    kinds = ("host{}.example.com", "*.p{}.example.com", "**.deep{}.example.com", "api*.q{}.example.com")
    others = [FqdnDefinition(kinds[n % 4].format(n), n % 4 > 0) for n in range(count - 1)]
    return [*others, FqdnDefinition("*.domain.com", True)]


class IndexJudge:
    """One endpoint, one server, one index."""

    def __init__(self, index: NameIndex) -> None:
        self._matches = index.matches
        self._yes = Ruling(True, ENDPOINT_ID, SERVER_IDENTITY)
        self._no = Ruling(False, ENDPOINT_ID, SERVER_IDENTITY, "no rule for this name")

    def judge(self, flow: Flow, question: Question) -> Ruling:
        return self._yes if self._matches(question.name) else self._no


class Memory:
    """Writes down until when each address of an answer is good."""

    def __init__(self) -> None:
        self._until: dict[tuple[int, bytes], float] = {}

    def learn(self, ticket: int, ruling: Ruling, question: Question, answer: Answer) -> Released:
        until = time.monotonic() + answer.ttl
        for address in answer.addresses:
            self._until[ruling.endpoint_id, address] = until
        return Released.NOW

    def due(self, now: float) -> list[tuple[int, Released]]:
        return []


class NoEvents:
    """Events of lookups go nowhere."""

    def request(self, flow: Flow, ruling: Ruling, question: Question, verdict: Verdict, error: str) -> None:
        pass

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
        pass

    def malformed(self, flow: Flow, error: str) -> None:
        pass


def main(patterns: int, profile: str = "") -> None:
    stop = os.eventfd(0)
    signal.signal(signal.SIGTERM, lambda *_: os.eventfd_write(stop, 1))
    settings = ProxySettings(port=53, listen_addresses=("0.0.0.0", "::"))
    judge = IndexJudge(NameIndex(definitions(patterns)))
    proxy = Proxy(settings, judge, Memory(), NoEvents(), stop=stop)
    proxy.open()
    print("READY", flush=True)
    if profile:
        profiler = cProfile.Profile()
        profiler.runcall(proxy.run)
        profiler.dump_stats(profile)
    else:
        proxy.run()
    print(proxy.counters, file=sys.stderr)
    proxy.close()


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
