"""Wiring of the clustermesh service: started in this order, stopped in reverse."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator

from axoneme.lib import grpcserver, httpserver, lifecycle, log, telemetry  # isort: skip  (before grpc)
import grpc
from prometheus_client import CollectorRegistry, Gauge

from axoneme.api.clustermesh.v1 import clustermesh_pb2, clustermesh_pb2_grpc
from axoneme.lib.grpcserver import GrpcServer, Listener
from axoneme.lib.intent import Failure, fresh_epoch
from axoneme.lib.intentstream import StreamHost
from axoneme.lib.kvstore.etcd import EtcdStore
from axoneme.lib.kvstore.port import Store
from axoneme.lib.requests import RequestLog
from axoneme.lib.tasks import TaskScope
from services.clustermesh.allocation import Allocation
from services.clustermesh.config import ClusterMeshConfig
from services.clustermesh.pools import Draw
from services.clustermesh.server import ClusterMeshServicer
from services.clustermesh.state import MeshState
from services.clustermesh.store import ServiceStore
from services.clustermesh.streamcodec import ServicesCodec

SERVICE = clustermesh_pb2.DESCRIPTOR.services_by_name["ClusterMeshService"].full_name
GOODBYE = Failure("UNAVAILABLE", "DRAINING", "the service stops; connect to another replica")


@contextlib.asynccontextmanager
async def serving(
    cfg: ClusterMeshConfig,
    store: Store,
    scope: TaskScope,
    registry: CollectorRegistry,
    *,
    draw: Draw = secrets.randbelow,
) -> AsyncIterator[tuple[GrpcServer, MeshState]]:
    """The service over a store, until the block ends; also what tests start."""
    cfg.check()
    pools = cfg.pools()
    host: StreamHost[bytes] = StreamHost(
        "services",
        epoch=fresh_epoch(secrets.randbits),
        codec=ServicesCodec(),
        registry=registry,
        store_revision_now=lambda: state.catch_up(store),
    )
    state = MeshState(cluster=cfg.cluster_name, host=host)
    services = ServiceStore(
        store, lambda: Allocation(pools, draw, state.stored.cluster_ips, state.stored.node_ports)
    )
    servicer = ClusterMeshServicer(state=state, store=services, kvstore=store, pools=pools, log=RequestLog())

    def register(server: grpc.aio.Server) -> list[str]:
        clustermesh_pb2_grpc.add_ClusterMeshServiceServicer_to_server(servicer, server)
        return [SERVICE]

    _gauges(registry, state)
    async with contextlib.AsyncExitStack() as stack:
        listener = Listener(cfg.listen_address, cfg.tls(), cfg.domain(), cfg.name_roles())
        server = await stack.enter_async_context(
            grpcserver.serving([listener], register, drain_seconds=cfg.drain_seconds, registry=registry)
        )
        server.on_drain(lambda: host.goodbye_all(GOODBYE))
        await stack.enter_async_context(
            httpserver.serving(cfg.metrics_address, registry, ready=lambda: _not_ready(state))
        )
        scope.start("store watch", state.run(store))
        scope.start("publishing", state.publish())
        scope.start("health", _serve_when_ready(state, server), critical=False)
        yield server, state


def _not_ready(state: MeshState) -> str | None:
    return None if state.ready else "the services were not read from the store yet"


async def _serve_when_ready(state: MeshState, server: GrpcServer) -> None:
    await state.synced()
    server.set_serving("", True)  # every name


def _gauges(registry: CollectorRegistry, state: MeshState) -> None:
    counts = (
        ("axoneme_clustermesh_services", "Services of the cluster.", lambda: len(state.views)),
        ("axoneme_clustermesh_backends", "Backends of all services.",
         lambda: sum(len(view.backends) for view in state.views.values())),
        ("axoneme_clustermesh_services_without_backends", "Services whose packets are dropped.",
         lambda: sum(not view.backends for view in state.views.values())),
        ("axoneme_clustermesh_unnamed_ports", "Workloads without a named port that a service asks for.",
         lambda: sum(view.unnamed for view in state.views.values())),
        ("axoneme_clustermesh_oversized_services", "Services too large to be sent to nodes.",
         lambda: len(state.oversized)),
        ("axoneme_clustermesh_node_ports", "Node ports in use.", lambda: len(state.stored.node_ports)),
        ("axoneme_clustermesh_held_addresses", "Expired addresses kept for their node.", lambda: state.held),
        ("axoneme_clustermesh_malformed_values", "Unreadable values in etcd.", lambda: state.unreadable),
    )  # fmt: skip
    for name, text, value in counts:
        Gauge(name, text, registry=registry).set_function(value)


async def run(cfg: ClusterMeshConfig) -> int:
    """Serve until a signal; returns the exit code."""
    cfg.check()
    telemetry.setup_tracing("axoneme-clustermesh")
    async with contextlib.AsyncExitStack() as stack:
        stop = await stack.enter_async_context(lifecycle.until_signalled())
        store = await stack.enter_async_context(
            EtcdStore.connect(cfg.etcd_endpoints, cfg.etcd_tls(), server_name=cfg.etcd_server_name)
        )
        scope = await stack.enter_async_context(TaskScope("clustermesh"))
        registry = telemetry.new_registry("clustermesh")
        await stack.enter_async_context(serving(cfg, store, scope, registry))
        return await lifecycle.wait_for_end(stop, scope)


def serve(cfg: ClusterMeshConfig) -> int:
    """Run the service in this process."""
    log.setup(cfg.log_level)
    return asyncio.run(run(cfg))
