"""The one factory of gRPC servers: listeners, edge, health, reflection, certificate reload, drain.

    serving() ─► engine (engines.py) ─► Edge (edge.py) ─► servicers of `register`
        │            ├─ mTLS ports, credentials that follow the files (tls.py)
        │            └─ unix sockets, 0600
        └─ at the end: health off ─► goodbyes (on_drain) ─► stop(drain_seconds)

No other module creates a server. Health starts as NOT_SERVING: the service says when it can serve.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence

from axoneme.lib import edge, engines, grpcsettings, log  # isort: skip  (before grpc)
import grpc
import grpc.aio
from prometheus_client import CollectorRegistry, Gauge

from axoneme.lib.callercheck import authentication, listener_certificates
from axoneme.lib.edge import caller, require_node
from axoneme.lib.health import Health
from axoneme.lib.listeners import Listener, remove_sockets, restrict_sockets
from axoneme.lib.standardservices import HUBBLE_HEALTH, register_health, register_reflection
from axoneme.lib.tasks import TaskScope
from axoneme.lib.tls import ServerCertificates

__all__ = ["HUBBLE_HEALTH", "GrpcServer", "Listener", "caller", "require_node", "serving"]

logger = logging.getLogger(__name__)

RELOAD_SECONDS = 5.0
GOODBYE_SECONDS = 2.0
DEFAULT_ENGINE = engines.GRPC

Register = Callable[[grpc.aio.Server], list[str]]
DrainCallback = Callable[[], Awaitable[None]]


class GrpcServer:
    """A running server, as `serving` yields it."""

    def __init__(
        self, engine: engines.Engine, health: Health, certificates: Sequence[ServerCertificates]
    ) -> None:
        self._engine = engine
        self._health = health
        self._drains: list[DrainCallback] = []
        self._certificates = tuple(certificates)
        self.ports: list[int] = []

    @property
    def port(self) -> int:
        """Port of the first TCP listener; 0 without one."""
        return next((port for port in self.ports if port), 0)

    def set_serving(self, service: str, serving: bool) -> None:
        """Health of one service; the empty name means the server and all of its services."""
        self._health.set(service, serving)

    def on_drain(self, callback: DrainCallback) -> None:
        """Called before the server stops, such as to say goodbye on streams; at most 2 s are waited for."""
        self._drains.append(callback)

    def reload_certificates(self) -> bool:
        """Looks at the certificate files now instead of at the next turn of the reload loop."""
        return sum(certificates.refresh() for certificates in self._certificates) > 0

    async def stop(self, drain_seconds: float) -> None:
        """Health off, goodbyes, then open calls get `drain_seconds`; `serving` calls it at its end."""
        self._health.drain()
        try:
            async with asyncio.timeout(GOODBYE_SECONDS):
                results = await asyncio.gather(*(drain() for drain in self._drains), return_exceptions=True)
            for error in results:
                if isinstance(error, Exception):
                    logger.warning("goodbye failed", extra={log.ERROR: log.clip(error)})
        except TimeoutError:
            logger.warning("goodbyes took too long", extra={log.SECONDS: GOODBYE_SECONDS})
        await self._engine.stop(drain_seconds)


@contextlib.asynccontextmanager
async def serving(
    listeners: Sequence[Listener],
    register: Register,
    *,
    drain_seconds: float = 5.0,
    registry: CollectorRegistry | None = None,
    options: Mapping[str, int | str] | None = None,
    denied: Callable[[], Collection[str]] = frozenset,
    now: Callable[[], dt.datetime] = edge.utc_now,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    recheck_seconds: float = edge.RECHECK_SECONDS,
    reload_seconds: float = RELOAD_SECONDS,
    unary_seconds: float = edge.UNARY_SECONDS,
    engine: str | None = None,
) -> AsyncIterator[GrpcServer]:
    """Serves until the block ends. `register` adds servicers and returns their full names.

    `engine` is `grpc` (grpc.aio) or `h2` (axoneme.lib.h2server); None means DEFAULT_ENGINE.
    `denied` gives SPIFFE ids and serials (hex) that are refused from now on. Raises InvalidArgument for a TCP
    listener without certificates, TlsFilesInvalid, and Unavailable when an address is taken.
    """
    certificates = listener_certificates(listeners)
    if not grpcsettings.in_time:
        logger.warning(
            "grpc was imported before axoneme.lib.grpcsettings: TLS 1.2 ends at the call, not before"
        )
    registry = registry if registry is not None else CollectorRegistry()
    authenticate = authentication(listeners, certificates, now, denied)
    guard = edge.Edge(
        authenticate, edge.EdgeMetrics.of(registry),
        sleep=sleep, recheck_seconds=recheck_seconds, unary_seconds=unary_seconds,
    )  # fmt: skip
    chosen = engines.engine_of(engine or DEFAULT_ENGINE, guard, options)
    server = chosen.server
    health = Health()
    running = GrpcServer(chosen, health, list(certificates.values()))
    names = register(server)
    register_health(health, server, names)
    register_reflection(server, names)
    async with TaskScope("grpc server") as scope:
        for listener in listeners:
            running.ports.append(chosen.bind(listener, certificates.get(listener)))
        await chosen.start()
        restrict_sockets(listeners)
        if certificates:
            scope.start(
                "certificate reload",
                _reload_loop(list(certificates.values()), registry, now, sleep, reload_seconds),
            )
        try:
            yield running
        finally:
            await asyncio.shield(running.stop(drain_seconds))
            remove_sockets(listeners)


async def _reload_loop(
    followed: Sequence[ServerCertificates],
    registry: CollectorRegistry,
    now: Callable[[], dt.datetime],
    sleep: Callable[[float], Awaitable[None]],
    reload_seconds: float,
) -> None:
    """Follows the certificate files and publishes how long the own certificate is still good."""
    left = _lifetime_gauge(registry)
    while True:
        for certificates in followed:
            certificates.refresh()
            seconds = (certificates.material.leaf().not_valid_after_utc - now()).total_seconds()
            left.labels(certificates.files.cert.name).set(seconds)
        await sleep(reload_seconds)


_lifetime_gauges: dict[int, tuple[CollectorRegistry, Gauge]] = {}


def _lifetime_gauge(registry: CollectorRegistry) -> Gauge:
    known = _lifetime_gauges.get(id(registry))
    if known is None or known[0] is not registry:
        gauge = Gauge(
            "axoneme_certificate_left_seconds",
            "Time until the certificate ends.",
            ["file"],
            registry=registry,
        )
        known = _lifetime_gauges[id(registry)] = (registry, gauge)
    return known[1]
