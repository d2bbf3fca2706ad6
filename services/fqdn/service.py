"""Wiring of the API around a core that works already: started in this order, stopped in reverse."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
import time
from collections.abc import AsyncIterator

from axoneme.lib import grpcserver, httpserver, lifecycle, log, telemetry  # isort: skip  (before grpc)
import grpc
from prometheus_client import CollectorRegistry

from axoneme.api.fqdn.v1 import fqdn_pb2 as pb
from axoneme.api.fqdn.v1 import fqdn_pb2_grpc
from axoneme.api.policy.v1 import policy_pb2_grpc
from axoneme.lib.channel import ServiceChannel
from axoneme.lib.errors import AxonemeError
from axoneme.lib.grpcserver import Listener
from axoneme.lib.intent import Failure, fresh_epoch
from axoneme.lib.intentstream import IntentClient, StreamHost
from axoneme.lib.policy.dnsrules import DnsRules
from axoneme.lib.policycodec.dnsstream import DnsRulesSubscriber
from axoneme.lib.requests import RequestLog
from axoneme.lib.tasks import TaskScope
from axoneme.lib.tls import TlsFiles
from services.fqdn import precache
from services.fqdn.core import Core, HotLoop
from services.fqdn.metrics import FqdnCollector
from services.fqdn.model import Verdict
from services.fqdn.redirectcall import RedirectCalls
from services.fqdn.redirects import RedirectSync
from services.fqdn.rulessink import RulesSink
from services.fqdn.server import SERVICE, FqdnServicer, boot_to_wall_ns
from services.fqdn.upkeep import Upkeep
from services.fqdn.wire import NamesCodec

logger = logging.getLogger(__name__)

RULES_PAUSE_SECONDS = 5.0
GOODBYE = Failure("UNAVAILABLE", "DRAINING", "the DNS proxy stops")


class FqdnService:
    """The parts of one process, for those who serve it and those who test it."""

    def __init__(
        self, core: Core, hot: HotLoop, channel: ServiceChannel, registry: CollectorRegistry
    ) -> None:
        self.core = core
        self.hot = hot
        self.sync = RedirectSync(core.book, core.learner.asked)
        self.names: StreamHost[bytes] = StreamHost(
            "names", epoch=fresh_epoch(secrets.randbits), codec=NamesCodec(), registry=registry
        )
        self.upkeep = Upkeep(core, hot, self.sync, self.names)
        self.rules: IntentClient[DnsRules] = IntentClient(
            "rules",
            channel=channel,
            open_stream=lambda one: policy_pb2_grpc.PolicyServiceStub(one).SubscribeDnsRules(),
            codec=DnsRulesSubscriber(),
            sink=RulesSink(core.book, self.upkeep.on_rules),
            node_name=core.cfg.node_name,
            rng=random.Random(secrets.randbits(64)),  # noqa: S311 - spreads load, hides nothing
            interest=True,
        )
        self.redirects = RedirectCalls(
            self.sync,
            port=self.port,
            heard=self.upkeep.on_heard,
            identities=self.upkeep.on_identities,
            refused=self._on_refused,
        )
        self.servicer = FqdnServicer(
            core,
            names=self.names,
            redirects=self.redirects,
            endpoints=lambda: self.upkeep.endpoints,
            status=self.status,
            log=RequestLog(),
            boot_to_wall_ns=boot_to_wall_ns,
        )
        registry.register(
            FqdnCollector(core, lambda: hot.proxy.counters, lambda: self.rules.status().stale_seconds)
        )

    def port(self) -> int:
        """Where redirected packets are taken; 0 while they are not."""
        return self.core.cfg.dns_proxy_port if self.hot.listening else 0

    def start(self, scope: TaskScope) -> None:
        """Begins to follow everything."""
        loop = asyncio.get_running_loop()
        self.core.learner.on_wanted = lambda: _soon(loop, self._on_wanted)
        self.hot.opened = lambda: _soon(loop, self.sync.touch)
        scope.start("endpoints", self.upkeep.follow_endpoints())
        scope.start("identities", self.upkeep.follow_identities())
        scope.start("rules", self._follow_rules())
        scope.start("interest", self.upkeep.follow_interest(self.rules))
        scope.start("expiry", self.upkeep.expire())
        scope.start("names", self.upkeep.publish_names())
        scope.start("files", self.upkeep.keep_files())
        scope.start("pre-cache", self._pre_cache(), critical=False)

    async def _follow_rules(self) -> None:
        """Only once it is known who lives here: a first snapshot of nobody would end all restored rules."""
        await self.upkeep.maps_read.wait()
        await asyncio.sleep(0)
        while True:
            try:
                await self.rules.run()
            except AxonemeError as error:  # certificates that are not there: lookups go on by the last rules
                logger.warning("rules cannot be asked for", extra={log.ERROR: log.clip(error)})
                await asyncio.sleep(RULES_PAUSE_SECONDS)

    async def _pre_cache(self) -> None:
        await self.upkeep.maps_read.wait()
        if path := self.core.cfg.pre_cache:
            count = await asyncio.to_thread(
                precache.load, path, self.core.learner, self.upkeep.endpoints, time.time
            )
            logger.info("pre-cache taken over", extra={log.COUNT: count})

    def _on_wanted(self) -> None:
        keys = []
        with contextlib.suppress(IndexError):
            while True:
                keys.append(self.core.learner.wanted.popleft())
        self.sync.want(keys)

    def _on_refused(self, key: tuple[str, frozenset[str]]) -> None:
        self.core.learner.refuse(key)
        self.hot.wake()

    def problems(self) -> list[str]:
        """What does not work, each with the next step."""
        found = []
        rules = self.rules.status()
        if not self.hot.listening:
            port = self.core.cfg.dns_proxy_port
            why = self.hot.error or "it is in use, or the start goes on"
            found.append(f"not listening on port {port}: {why}")
        if self.upkeep.problem:
            found.append(f"{self.upkeep.problem}; is `axoneme node serve` running?")
        if rules.stale_seconds:
            found.append(
                f"rules are {rules.stale_seconds:.0f} s old ({rules.error}); "
                "queries are judged by the last ones"
            )
        found += [f"rules of {key} not understood: {one.message}" for key, one in rules.failures.items()]
        if not self.sync.connected:
            found.append("the shim is not connected; names of unforeseen sets get what is known")
        if self.core.journal.broken or self.core.compactor.failed:
            found.append("names are not kept on disk; is the state directory full?")
        return found

    def not_ready(self) -> str | None:
        """For /readyz."""
        return None if self.hot.listening else "not listening yet"

    def status(self) -> pb.GetStatusResponse:
        """For GetStatus."""
        rules, cache, queries = self.rules.status(), self.core.learner.cache, self.core.feed.queries
        answer = pb.GetStatusResponse(
            problems=self.problems(),
            proxy_port=self.core.cfg.dns_proxy_port,
            rules_connected=not rules.stale_seconds,
            shim_connected=self.sync.connected,
            names=cache.name_count,
            addresses=cache.address_count,
            queries={
                "allowed": queries[Verdict.FORWARDED],
                "denied": queries[Verdict.DENIED],
                "dropped": queries[Verdict.ERROR],
            },
            version=telemetry.version(),
        )
        if rules.stale_seconds:
            answer.rules_stale.FromMilliseconds(int(rules.stale_seconds * 1000))
        return answer


def _soon(loop: asyncio.AbstractEventLoop, work: object) -> None:
    """From the hot loop's thread; a loop that is closed has nobody left to tell."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(work)  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def serving(core: Core, hot: HotLoop, scope: TaskScope) -> AsyncIterator[FqdnService]:
    """The API over a core, until the block ends; also what tests start."""
    cfg, registry = core.cfg, telemetry.new_registry("fqdn")
    tls = TlsFiles(cfg.ca_file, cfg.cert_file, cfg.key_file)
    async with contextlib.AsyncExitStack() as stack:
        channel = await stack.enter_async_context(
            ServiceChannel(cfg.policy_targets, tls, f"policy.{cfg.domain}")
        )
        service = FqdnService(core, hot, channel, registry)

        def register(server: grpc.aio.Server) -> list[str]:
            fqdn_pb2_grpc.add_FqdnServiceServicer_to_server(service.servicer, server)
            return [SERVICE]

        server = await stack.enter_async_context(
            grpcserver.serving(
                [Listener(f"unix://{cfg.socket}")],
                register,
                drain_seconds=cfg.drain_seconds,
                registry=registry,
            )
        )
        server.on_drain(lambda: service.names.goodbye_all(GOODBYE))
        service.start(scope)
        server.set_serving("", True)
        metrics = httpserver.serving(cfg.metrics_address, registry, lambda: hot.alive, service.not_ready)
        try:
            await stack.enter_async_context(metrics)
        except AxonemeError as error:  # another process has the port: lookups matter more
            logger.warning("metrics are not served", extra={log.ERROR: log.clip(error)})
        yield service


async def run(core: Core, hot: HotLoop) -> int:
    """Serves until a signal, or until the hot loop ends; the exit code."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    hot.ended = lambda: _soon(loop, ended.set)
    async with contextlib.AsyncExitStack() as stack:
        stop = await stack.enter_async_context(lifecycle.until_signalled())
        scope = await stack.enter_async_context(TaskScope("fqdn"))
        await stack.enter_async_context(serving(core, hot, scope))
        if not hot.alive:
            return 1
        scope.start("proxy", ended.wait())
        return await lifecycle.wait_for_end(stop, scope)
