"""Wiring of the identity service: started in this order, stopped in reverse."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
from collections.abc import AsyncIterator
from typing import TypeVar

from axoneme.lib import grpcserver, grpcsettings, httpserver, lifecycle, log, telemetry  # isort: skip  (before grpc)
import grpc
from prometheus_client import CollectorRegistry, Gauge

from axoneme.api.identity.v1 import identity_pb2, identity_pb2_grpc
from axoneme.lib.errors import NotReady, StoreUnavailable
from axoneme.lib.grpcserver import GrpcServer, Listener
from axoneme.lib.intent import Failure, fresh_epoch
from axoneme.lib.intentstream import PublisherCodec, StreamHost
from axoneme.lib.kvstore.etcd import EtcdStore
from axoneme.lib.kvstore.port import Store
from axoneme.lib.requests import RequestLog
from axoneme.lib.tasks import TaskScope
from services.identity.addresses import AddressRegistry
from services.identity.allocation import Allocator
from services.identity.config import IdentityConfig
from services.identity.holdings import Holdings
from services.identity.leases import LeaseBook
from services.identity.mirror import Mirror
from services.identity.nodes import NodeRegistry
from services.identity.references import References
from services.identity.server import IdentityServicer, Writers
from services.identity.state import ClusterState
from services.identity.upkeep import Collector, Settling, describe_cluster, keep_description
from services.identity.wire import IpcacheCodec, NodesCodec

SERVICE = identity_pb2.DESCRIPTOR.services_by_name["IdentityService"].full_name
DECLARATION_BYTES = grpcsettings.SNAPSHOT_BYTES
"""A node declares all its addresses in one message (see `config.MOST_ADDRESSES_PER_NODE`)."""
GOODBYE = Failure("UNAVAILABLE", "DRAINING", "the service stops; connect to another replica")


V = TypeVar("V")


def _stream(
    name: str, codec: PublisherCodec[V], mirror: Mirror, registry: CollectorRegistry
) -> StreamHost[V]:
    return StreamHost(
        name,
        epoch=fresh_epoch(secrets.randbits),
        codec=codec,
        registry=registry,
        store_revision_now=mirror.catch_up,
    )


def _writers(cfg: IdentityConfig, store: Store, mirror: Mirror, rng: random.Random) -> Writers:
    holdings = Holdings(store, cfg.max_identities_per_node)
    leases = LeaseBook(store, cfg.node_lease_seconds)
    nodes = NodeRegistry(store, mirror, leases, holdings, cfg.pools())
    references = References(mirror, Allocator(store, mirror.state, rng=rng), nodes, holdings)
    addresses = AddressRegistry(store, mirror, nodes, references, cfg.max_addresses_per_node)
    return Writers(nodes, references, addresses)


@contextlib.asynccontextmanager
async def serving(
    cfg: IdentityConfig,
    store: Store,
    scope: TaskScope,
    registry: CollectorRegistry,
    *,
    rng: random.Random | None = None,
) -> AsyncIterator[GrpcServer]:
    """The service over a store, until the block ends; also what tests start."""
    cfg.check()
    state = ClusterState(cfg.cluster_name, cfg.cluster_id)
    mirror = Mirror(store, state, lambda: fresh_epoch(secrets.randbits))
    ipcache = _stream("ipcache", IpcacheCodec(), mirror, registry)
    nodes = _stream("nodes", NodesCodec(), mirror, registry)
    mirror.attach(ipcache, nodes)
    writers = _writers(cfg, store, mirror, rng or random.SystemRandom())

    def start_streams() -> None:
        ipcache.set_ready(True)
        nodes.set_ready(True)
        server.set_serving("", True)  # every name

    settling = Settling(
        store,
        mirror,
        writers.nodes,
        connected=lambda: bool(ipcache.subscribers() or nodes.subscribers()),
        set_ready=start_streams,
        grace_seconds=cfg.redeclare_grace_seconds,
    )
    servicer = IdentityServicer(
        mirror, writers, ipcache, nodes, RequestLog(), cluster_id=cfg.cluster_id, heard=settling.heard
    )

    def register(server: grpc.aio.Server) -> list[str]:
        identity_pb2_grpc.add_IdentityServiceServicer_to_server(servicer, server)
        return [SERVICE]

    _gauges(registry, state)
    async with contextlib.AsyncExitStack() as stack:
        listener = Listener(cfg.listen_address, cfg.tls(), cfg.domain(), cfg.name_roles())
        server = await stack.enter_async_context(
            grpcserver.serving(
                [listener],
                register,
                drain_seconds=cfg.drain_seconds,
                registry=registry,
                options={"grpc.max_receive_message_length": DECLARATION_BYTES},
            )
        )
        server.on_drain(lambda: ipcache.goodbye_all(GOODBYE))
        server.on_drain(lambda: nodes.goodbye_all(GOODBYE))
        await stack.enter_async_context(
            httpserver.serving(cfg.metrics_address, registry, lambda: True, settling.waiting)
        )
        _start_tasks(cfg, store, scope, mirror, settling)
        yield server


def _start_tasks(
    cfg: IdentityConfig, store: Store, scope: TaskScope, mirror: Mirror, settling: Settling
) -> None:
    scope.start("mirror", mirror.run())
    scope.start("settling", settling.run())
    scope.start("collector", Collector(store, mirror).run(cfg.collect_seconds))
    if cfg.cluster_id:
        scope.start("description", keep_description(store, cfg.cluster_name, cfg.cluster_id))


def _gauges(registry: CollectorRegistry, state: ClusterState) -> None:
    counts = (
        ("axoneme_identity_identities", "Numbers in use in the cluster.", lambda: len(state.identities)),
        ("axoneme_identity_pool_fraction", "Share of the numbers in use; alarm at 0.5.",
         lambda: len(state.identities) / len(state.block)),
        ("axoneme_identity_addresses", "Published addresses.", lambda: len(state.addresses)),
        ("axoneme_identity_nodes", "Nodes.", lambda: len(state.nodes)),
        ("axoneme_identity_held_rows", "Expired rows kept for their node.", lambda: len(state.held)),
        ("axoneme_identity_malformed_values", "Unreadable values in etcd.", lambda: state.malformed),
    )  # fmt: skip
    for name, text, value in counts:
        Gauge(name, text, registry=registry).set_function(value)


async def run(cfg: IdentityConfig) -> int:
    """Serves until a signal; returns the exit code."""
    cfg.check()
    telemetry.setup_tracing("axoneme-identity")
    async with contextlib.AsyncExitStack() as stack:
        stop = await stack.enter_async_context(lifecycle.until_signalled())
        store = await stack.enter_async_context(
            EtcdStore.connect(cfg.etcd_endpoints, cfg.etcd_tls(), server_name=cfg.etcd_server_name)
        )
        with contextlib.suppress(NotReady):
            await _describe(store, cfg)
        scope = await stack.enter_async_context(TaskScope("identity"))
        await stack.enter_async_context(serving(cfg, store, scope, CollectorRegistry()))
        return await lifecycle.wait_for_end(stop, scope)


async def _describe(store: Store, cfg: IdentityConfig) -> None:
    """Checks the id of the cluster when etcd is there; without etcd the service waits for it."""
    try:
        await describe_cluster(store, cfg.cluster_name, cfg.cluster_id)
    except StoreUnavailable as error:
        raise NotReady(str(error)) from error


def main(cfg: IdentityConfig) -> int:
    """Runs the process."""
    log.setup(cfg.log_level)
    return asyncio.run(run(cfg))
