"""The proxy's hot path as a process, for tests/perf/dns_proxy.py.

    python -m tests.perf.dns_proxy_process PATTERNS parts|whole [PROFILE_FILE]

`whole`: judge, learner, journal and event sink as `services.fqdn.core` wires them, over maps of the kernel.
`parts`: rules are a name index and learning is a look-up in memory: sockets, parser and matcher alone.
Listens on port 53 of every address of its namespace, prints READY, and ends by SIGTERM.
"""

from __future__ import annotations

import cProfile
import gc
import os
import signal
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from axoneme.lib.bpf.create import create_map
from axoneme.lib.dns.index import NameIndex
from axoneme.lib.dns.wire import Answer, Question
from axoneme.lib.policy.dnsrules import DnsRule, DnsRules
from axoneme.lib.policy.model import AnyPeer, FqdnDefinition
from services.fqdn.config import FqdnConfig
from services.fqdn.core import Core
from services.fqdn.main import settle_interpreter
from services.fqdn.model import EventSink, Flow, Judge, Learner, ProxySettings, Released, Ruling, Standing
from services.fqdn.pins import NAMES, NodeMaps
from services.fqdn.proxy.loop import Proxy
from services.fqdn.tables import IdentityTable
from shim.maps import layout, node
from tests.dnsnetwork import POD, RESOLVER
from tests.unit.services.fqdn.parts import add_endpoint, add_prefix

ENDPOINT_ID, SERVER_IDENTITY, SUBJECT = 17, 1_234, 300
DOMAIN = FqdnDefinition("*.domain.com", True)


def definitions(count: int) -> list[FqdnDefinition]:
    """`*.domain.com` among patterns of all kinds that match none of the names asked for."""
    kinds = ("host{}.example.com", "*.p{}.example.com", "**.deep{}.example.com", "api*.q{}.example.com")
    others = [FqdnDefinition(kinds[n % 4].format(n), n % 4 > 0) for n in range(count - 1)]
    return [*others, DOMAIN]


class IndexJudge:
    """One endpoint, one server, one index."""

    def __init__(self, index: NameIndex) -> None:
        self.table = index
        no = Ruling(False, ENDPOINT_ID, SERVER_IDENTITY, "no rule for this name")
        self._standing = Standing(index.matches, Ruling(True, ENDPOINT_ID, SERVER_IDENTITY), no)

    def standing(self, flow: Flow) -> Standing:
        return self._standing


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

    watched = False
    unseen = 0

    def request(self, *_: object) -> None:
        pass

    def response(self, *_: object) -> None:
        pass

    def malformed(self, *_: object) -> None:
        pass


def whole(patterns: int, directory: Path) -> Core:
    """A node with one endpoint, whose rules and identities are these patterns."""
    cfg = FqdnConfig(node_name="bench", run_directory=directory, state_directory=directory)
    core = Core(cfg)
    specs = {**layout.MAPS, node.LOCAL.name: node.LOCAL}
    maps = NodeMaps({name: create_map(specs[name]) for name in NAMES})
    for v, ifindex in ((4, 3), (6, 4)):
        add_endpoint(maps, POD[v], ifindex=ifindex, endpoint_id=ENDPOINT_ID, identity=SUBJECT)
        add_prefix(maps, f"{RESOLVER[v]}/{32 if v == 4 else 128}", SERVER_IDENTITY)
    core.maps = core.learner.maps = core.judge.maps = maps
    names = definitions(patterns)
    rule = DnsRule(peer=AnyPeer(), protocol=0, port=53, prefix_length=16, level=1, names=frozenset(names))
    core.book.set_rules(f"subject:{SUBJECT}", DnsRules(rules=frozenset({rule}), digest=bytes(32)))
    number = 1 << 24
    keys = {number: ("0.0.0.0/0", frozenset({DOMAIN.text})), number + 1: ("::/0", frozenset({DOMAIN.text}))}
    core.learner.replace_table(IdentityTable(1, names, (), keys))
    core.restore_names()
    core.rebuild()
    return core


def main(patterns: int, kind: str, profile: str = "") -> None:
    stop = os.eventfd(0)
    signal.signal(signal.SIGTERM, lambda *_: os.eventfd_write(stop, 1))
    with TemporaryDirectory(prefix="axt-dns-") as directory:
        judge: Judge = IndexJudge(NameIndex(definitions(patterns)))
        learner: Learner = Memory()
        sink: EventSink = NoEvents()
        if kind == "whole":
            core = whole(patterns, Path(directory))
            judge, learner, sink = core.judge, core.learner, core.feed
        settle_interpreter()
        gc.freeze()
        settings = ProxySettings(port=53, listen_addresses=("0.0.0.0", "::"))
        proxy = Proxy(settings, judge, learner, sink, stop=stop)
        proxy.open()
        print("READY", flush=True)
        _run(proxy, profile)
        print(proxy.counters, file=sys.stderr)
        proxy.close()


def _run(proxy: Proxy, profile: str) -> None:
    if not profile:
        proxy.run()
        return
    profiler = cProfile.Profile()
    profiler.runcall(proxy.run)
    profiler.dump_stats(profile)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
