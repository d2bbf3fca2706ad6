"""A DNS proxy in this process: its API on a unix socket, rules from a real policy service, maps in memory.

The hot loop's sockets need root and packets; tests call judge and learner as it does.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from axoneme.api.fqdn.v1 import fqdn_pb2_grpc
from axoneme.lib.channel import open_channel
from axoneme.lib.dns.wire import Answer, Question
from axoneme.lib.tasks import TaskScope
from axoneme.lib.tls import TlsFiles
from services.fqdn.config import FqdnConfig
from services.fqdn.core import Core
from services.fqdn.model import UDP, Flow, Released, Ruling, Verdict
from services.fqdn.pins import NodeMaps
from services.fqdn.proxy.counters import Counters
from services.fqdn.service import FqdnService, serving
from tests.unit.services.fqdn.parts import raw


def write_identities(directory: Path, revision: int, sets: Mapping[int, tuple[str, list[str]]]) -> None:
    """What the shim leaves for the proxy of a run directory."""
    state = directory / "state"
    state.mkdir(exist_ok=True)
    content = {
        "version": 1,
        "revision": revision,
        "selectors": [{"text": "*.example.com", "pattern": True}],
        "prefixes": [],
        "identities": [[number, prefix, names] for number, (prefix, names) in sets.items()],
    }
    fresh = state / "new"
    fresh.write_text(json.dumps(content))
    fresh.replace(state / "dns-identities.json")


class _Proxy:
    def __init__(self) -> None:
        self.counters = Counters()


@dataclass
class StillLoop:
    """A hot loop that takes no packets."""

    listening: bool = True
    alive: bool = True
    error: str = ""
    woken: int = 0
    proxy: Any = field(default_factory=_Proxy)
    opened: Any = None
    ended: Any = None

    def wake(self) -> None:
        self.woken += 1


@dataclass
class RunningFqdn:
    """The parts that tests look at."""

    core: Core
    hot: StillLoop
    service: FqdnService
    stub: fqdn_pb2_grpc.FqdnServiceAsyncStub

    def ask(self, client: str, server: str, question: Question) -> Ruling:
        """A query as the hot loop sees it."""
        flow = Flow(UDP, raw(client), 40_000, raw(server), 53)
        ruling = self.core.judge.judge(flow, question)
        verdict = Verdict.FORWARDED if ruling.allowed else Verdict.DENIED
        self.core.feed.request(flow, ruling, question, verdict, ruling.reason)
        return ruling

    def answer(self, ruling: Ruling, question: Question, answer: Answer, ticket: int = 1) -> Released:
        """An answer as the hot loop sees it."""
        return self.core.learner.learn(ticket, ruling, question, answer)


@contextlib.asynccontextmanager
async def running_fqdn(
    directory: Path, maps: NodeMaps, *, node: str, tls: TlsFiles | None, policy_port: int, **options: Any
) -> AsyncIterator[RunningFqdn]:
    """Serves until the block ends."""
    files = tls or TlsFiles(directory / "ca", directory / "cert", directory / "key")
    cfg = FqdnConfig(
        node_name=node,
        cluster_name="east",
        policy_targets=(f"127.0.0.1:{policy_port}",),
        ca_file=files.ca,
        cert_file=files.cert,
        key_file=files.key,
        run_directory=directory,
        state_directory=directory / "state",
        metrics_address="",
        drain_seconds=0.1,
        **options,
    )
    core, hot = Core(cfg), StillLoop()
    core.restore()
    core.maps = core.learner.maps = core.judge.maps = maps
    try:
        async with TaskScope("fqdn") as scope, serving(core, hot, scope) as service:  # type: ignore[arg-type]
            async with open_channel(f"unix:{cfg.socket}", None) as channel:
                stub: Any = fqdn_pb2_grpc.FqdnServiceStub(channel)
                yield RunningFqdn(core, hot, service, stub)
            assert not scope.failed.is_set(), scope.failure
    finally:
        core.journal.close()
