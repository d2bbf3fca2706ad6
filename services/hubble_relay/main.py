"""Wiring of the relay: started in this order, stopped in reverse."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

from axoneme.lib import grpcserver  # isort: skip  (before grpc)
import grpc
from prometheus_client import CollectorRegistry

from axoneme.api.hubble.observer import observer_pb2, observer_pb2_grpc
from axoneme.lib import httpserver, lifecycle, log, telemetry
from axoneme.lib.errors import InvalidArgument
from axoneme.lib.tasks import TaskScope
from services.hubble_relay.config import RelayConfig
from services.hubble_relay.peers import PeerPool, PeerSource
from services.hubble_relay.query import QueryTiming
from services.hubble_relay.server import RelayObserver

SERVICE = observer_pb2.DESCRIPTOR.services_by_name["Observer"].full_name
GAUGE_SECONDS = 5.0


def semantic_version(version: str) -> str:
    """Returns the first three numbers of a Python version, which is all that Hubble's clients read."""
    numbers = [part for part in version.split("+")[0].split(".") if part.isdigit()][:3]
    return ".".join([*numbers, "0", "0", "0"][:3])


@contextlib.asynccontextmanager
async def running(
    cfg: RelayConfig, registry: CollectorRegistry, *, join_seconds: float = 2.0
) -> AsyncIterator[tuple[grpcserver.GrpcServer, PeerPool, PeerSource, TaskScope]]:
    """Serves until the block ends."""
    if not cfg.peer_service:
        raise InvalidArgument.of_field(
            "peer_service", "is empty; name the observer of at least one node (host:port)"
        )
    timing = QueryTiming(
        drain_seconds=cfg.sort_seconds,
        silence_seconds=cfg.node_seconds,
        join_seconds=join_seconds,
        longest_buffer=cfg.sort_buffer,
    )
    async with contextlib.AsyncExitStack() as stack:
        scope = TaskScope("relay")
        pool = PeerPool(cfg.tls(), scope, registry)
        stack.push_async_callback(pool.close)  # after the tasks that would fill it again
        await stack.enter_async_context(scope)
        source = PeerSource(
            cfg.peer_service,
            pool,
            tls=cfg.tls(),
            cluster_name=cfg.cluster_name,
            rng=random.Random(),  # noqa: S311  spreads load, hides nothing
            retry_limit_seconds=cfg.retry_seconds,
        )
        observer = RelayObserver(
            pool, version=semantic_version(telemetry.version()), node_seconds=cfg.node_seconds, timing=timing
        )

        def register(server: grpc.aio.Server) -> list[str]:
            observer_pb2_grpc.add_ObserverServicer_to_server(observer, server)
            return [SERVICE]

        listener = grpcserver.Listener(cfg.listen_address, cfg.tls(), cfg.spiffe_domain(), cfg.name_roles())
        server = await stack.enter_async_context(
            grpcserver.serving(
                [listener],
                register,
                drain_seconds=cfg.drain_seconds,
                registry=registry,
                engine=cfg.flow_server,
            )
        )
        for name in ("", SERVICE, grpcserver.HUBBLE_HEALTH):
            server.set_serving(name, True)  # what is wrong with nodes is said by GetNodes, not by health
        server.on_drain(observer.stop)
        scope.start("peers", source.run())
        scope.start("gauge", _refresh_gauge(pool))
        yield server, pool, source, scope


async def _refresh_gauge(pool: PeerPool) -> None:
    while True:
        pool.refresh_gauge()
        await asyncio.sleep(GAUGE_SECONDS)


async def run(cfg: RelayConfig) -> int:
    """Serve until a signal; returns the exit code."""
    registry = telemetry.new_registry("relay")
    async with contextlib.AsyncExitStack() as stack:
        stop = await stack.enter_async_context(lifecycle.until_signalled())
        _, pool, source, scope = await stack.enter_async_context(running(cfg, registry))
        await stack.enter_async_context(
            httpserver.serving(cfg.metrics_address, registry, ready=lambda: _not_ready(pool, source))
        )
        return await lifecycle.wait_for_end(stop, scope)


def _not_ready(pool: PeerPool, source: PeerSource) -> str | None:
    return None if pool.connections else f"no node is known yet: {source.error}"


def serve(cfg: RelayConfig) -> int:
    """Run the relay in this process."""
    log.setup(cfg.log_level)
    telemetry.setup_tracing("relay")
    return asyncio.run(run(cfg))
