"""Wiring of the policy service: started in this order, stopped in reverse."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from typing import cast

import grpc

from axoneme.api.policy.v1 import policy_pb2, policy_pb2_grpc
from axoneme.lib import grpcserver, httpserver, lifecycle, log, telemetry
from axoneme.lib.errors import InvalidArgument
from axoneme.lib.intent import Failure, fresh_epoch
from axoneme.lib.intentstream.host import StreamHost
from axoneme.lib.kvstore.etcd import EtcdStore
from axoneme.lib.kvstore.port import Store
from axoneme.lib.policy.dnsrules import DnsRules
from axoneme.lib.policy.model import SubjectPolicy
from axoneme.lib.policycodec.dnsstream import DnsRulesPublisher
from axoneme.lib.requests import RequestLog
from axoneme.lib.tasks import TaskScope
from services.policy.config import PolicyConfig
from services.policy.records.reporter import ProgressReporter
from services.policy.server import PolicyServicer
from services.policy.state import PolicyState
from services.policy.store import PolicyStore
from services.policy.wire import PolicyPublisherCodec

SERVICE = policy_pb2.DESCRIPTOR.services_by_name["PolicyService"].full_name
GOODBYE = Failure("UNAVAILABLE", "DRAINING", "this replica of the policy service stops")


async def run(cfg: PolicyConfig) -> int:
    """Serve until a signal; returns the exit code."""
    if not cfg.etcd_endpoints:
        raise InvalidArgument.of_field("etcd_endpoints", "is empty; name at least one etcd server")
    settings = cfg.settings()
    registry = telemetry.new_registry("policy")
    async with contextlib.AsyncExitStack() as stack:
        stop = await stack.enter_async_context(lifecycle.until_signalled())
        etcd = await stack.enter_async_context(EtcdStore.connect(cfg.etcd_endpoints, cfg.etcd_tls()))
        store = cast("Store", etcd)
        host: StreamHost[SubjectPolicy] = StreamHost(
            "SubscribeEndpointPolicies",
            epoch=fresh_epoch(secrets.randbits),
            codec=PolicyPublisherCodec(),
            interest=True,
            keep_sent=True,
            registry=registry,
            store_revision_now=etcd.revision,
        )
        dns_host: StreamHost[DnsRules] = StreamHost(
            "SubscribeDnsRules",
            epoch=fresh_epoch(secrets.randbits),
            codec=DnsRulesPublisher(),
            interest=True,
            registry=registry,
            store_revision_now=etcd.revision,
        )
        replica = secrets.token_hex(8)
        state = PolicyState(
            settings=settings, host=host, dns_host=dns_host, registry=registry, replica=replica
        )
        reporter = ProgressReporter(store, replica=replica, progress=state.own_progress)
        servicer = PolicyServicer(state=state, store=PolicyStore(store), kvstore=store, log=RequestLog())
        scope = await stack.enter_async_context(TaskScope("policy"))
        await stack.enter_async_context(
            httpserver.serving(cfg.metrics_address, registry, ready=lambda: _not_ready(state))
        )

        def register(server: grpc.aio.Server) -> list[str]:
            policy_pb2_grpc.add_PolicyServiceServicer_to_server(servicer, server)
            return [SERVICE]

        listener = grpcserver.Listener(cfg.listen_address, cfg.tls(), cfg.spiffe_domain(), cfg.name_roles())
        server = await stack.enter_async_context(
            grpcserver.serving([listener], register, drain_seconds=cfg.drain_seconds, registry=registry)
        )
        server.on_drain(lambda: host.goodbye_all(GOODBYE))
        server.on_drain(lambda: dns_host.goodbye_all(GOODBYE))
        scope.start("store watch", state.run(store))
        scope.start("progress", reporter.run(), critical=False)
        scope.start("health", _serve_when_ready(state, server), critical=False)
        return await lifecycle.wait_for_end(stop, scope)


def _not_ready(state: PolicyState) -> str | None:
    return None if state.ready else "the policies were not read from the store yet"


async def _serve_when_ready(state: PolicyState, server: grpcserver.GrpcServer) -> None:
    while not state.ready:
        await state.moved()
    for name in ("", SERVICE):
        server.set_serving(name, True)


def serve(cfg: PolicyConfig) -> int:
    """Run the service in this process."""
    log.setup(cfg.log_level)
    telemetry.setup_tracing("policy")
    return asyncio.run(run(cfg))
