"""The one factory of gRPC servers: listeners, edge, health, reflection, certificate reload, drain.

    serving() ─► grpc.aio.server ─► Edge (edge.py) ─► servicers of `register`
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
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from axoneme.lib import edge, grpcsettings, log  # isort: skip  (before grpc)
import grpc
import grpc.aio
from cryptography import x509
from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2
from prometheus_client import CollectorRegistry, Gauge

from axoneme.lib.edge import Context, caller, require_node
from axoneme.lib.errors import InvalidArgument, Unavailable
from axoneme.lib.health import Health
from axoneme.lib.peercert import PeerCheck
from axoneme.lib.roles import LOCAL_ADMIN, NameRole, Role, check_trust_domain
from axoneme.lib.tasks import TaskScope
from axoneme.lib.tls import ServerCertificates, TlsFiles

__all__ = ["GrpcServer", "Listener", "caller", "require_node", "serving"]

logger = logging.getLogger(__name__)

RELOAD_SECONDS = 5.0
GOODBYE_SECONDS = 2.0
MAX_CONCURRENT_CALLS = 10_000
HUBBLE_HEALTH = "hubble.server.Observer"
"""Name under which Hubble clients ask for the health of an Observer."""

Register = Callable[[grpc.aio.Server], list[str]]
DrainCallback = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Listener:
    """An address: `host:port` with certificates and trust domain, or `unix:///path` (0600, root is admin)."""

    address: str
    tls: TlsFiles | None = None
    trust_domain: str = ""
    name_roles: tuple[NameRole, ...] = ()

    @property
    def path(self) -> Path | None:
        """Path of a unix socket."""
        if not self.address.startswith("unix:"):
            return None
        return Path(self.address.removeprefix("unix:").replace("///", "/", 1))


class GrpcServer:
    """A running server, as `serving` yields it."""

    def __init__(
        self, server: grpc.aio.Server, health: Health, certificates: Sequence[ServerCertificates]
    ) -> None:
        self._server = server
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
        await self._server.stop(drain_seconds)


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
) -> AsyncIterator[GrpcServer]:
    """Serves until the block ends. `register` adds servicers and returns their full names.

    `denied` gives SPIFFE ids and serials (hex) that are refused from now on. Raises InvalidArgument for a TCP
    listener without certificates, TlsFilesInvalid, and Unavailable when an address is taken.
    """
    certificates = _certificates(listeners)
    if not grpcsettings.in_time:
        logger.warning(
            "grpc was imported before axoneme.lib.grpcsettings: TLS 1.2 ends at the call, not before"
        )
    registry = registry if registry is not None else CollectorRegistry()
    authenticate = _authentication(listeners, certificates, now, denied)
    guard = edge.Edge(
        authenticate, edge.EdgeMetrics.of(registry),
        sleep=sleep, recheck_seconds=recheck_seconds, unary_seconds=unary_seconds,
    )  # fmt: skip
    server = grpc.aio.server(
        interceptors=[guard],
        options=grpcsettings.arguments(grpcsettings.SERVER_ARGUMENTS, options),
        maximum_concurrent_rpcs=MAX_CONCURRENT_CALLS,
    )
    health = Health()
    running = GrpcServer(server, health, list(certificates.values()))
    names = register(server)
    _register_health(health, server, names)
    _register_reflection(server, names)
    async with TaskScope("grpc server") as scope:
        for listener in listeners:
            running.ports.append(_bind(server, listener, certificates.get(listener)))
        await server.start()
        _restrict_sockets(listeners)
        if certificates:
            scope.start(
                "certificate reload",
                _reload_loop(list(certificates.values()), registry, now, sleep, reload_seconds),
            )
        try:
            yield running
        finally:
            await asyncio.shield(running.stop(drain_seconds))
            _remove_sockets(listeners)


def _certificates(listeners: Sequence[Listener]) -> dict[Listener, ServerCertificates]:
    found = {}
    for listener in listeners:
        if listener.path is None:
            if listener.tls is None:
                raise InvalidArgument.of_field("listen_address", f"{listener.address} needs certificates")
            check_trust_domain(listener.trust_domain)
            found[listener] = ServerCertificates(listener.tls)
    if len({(listener.trust_domain, listener.name_roles) for listener in found}) > 1:
        raise InvalidArgument.of_field("listeners", "all TCP listeners of a server share one trust domain")
    return found


def _authentication(
    listeners: Sequence[Listener],
    certificates: Mapping[Listener, ServerCertificates],
    now: Callable[[], dt.datetime],
    denied: Callable[[], Collection[str]],
) -> edge.Authenticate:
    """Certificates on TCP, local root on unix sockets. A caller must pass under a CA that is trusted now."""
    local = LOCAL_ADMIN if any(listener.path for listener in listeners) else None
    if not certificates:
        return edge.TlsAuthentication(None, local)
    first = next(iter(certificates))
    check = PeerCheck(first.trust_domain, first.name_roles)
    authorities = _Authorities(list(certificates.values()))

    def by_certificate(context: Context) -> Role:
        return check.role(
            context.auth_context(),
            now=now(),
            authorities=authorities.current(),
            generation=authorities.generation,
            denied=denied(),
        )

    return edge.TlsAuthentication(by_certificate, local)


class _Authorities:
    """The parsed CA bundles of all listeners, parsed again when one changes."""

    def __init__(self, certificates: Sequence[ServerCertificates]) -> None:
        self._certificates = certificates
        self._parsed: list[x509.Certificate] = []
        self.generation = -1

    def current(self) -> list[x509.Certificate]:
        generation = sum(item.generation for item in self._certificates)
        if generation != self.generation:
            self._parsed = [ca for item in self._certificates for ca in item.material.authorities()]
            self.generation = generation
        return self._parsed


def _bind(server: grpc.aio.Server, listener: Listener, certificates: ServerCertificates | None) -> int:
    """Binds one address and returns its port (0 for a unix socket)."""
    try:
        if listener.path is not None:
            _prepare_socket(listener.path)
            before = os.umask(0o177)
            try:
                server.add_insecure_port(f"unix:{listener.path}")
            finally:
                os.umask(before)
            return 0
        assert certificates is not None
        return server.add_secure_port(listener.address, certificates.credentials())
    except RuntimeError as error:
        raise Unavailable(f"cannot listen on {listener.address}: {error}", reason="ADDRESS_IN_USE") from error


def _prepare_socket(path: Path) -> None:
    """Makes the folder (0700 when new) and removes a socket that a dead process left."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()


def _restrict_sockets(listeners: Iterable[Listener]) -> None:
    for listener in listeners:
        if listener.path is not None:
            listener.path.chmod(0o600)


def _remove_sockets(listeners: Iterable[Listener]) -> None:
    for listener in listeners:
        if listener.path is not None:
            listener.path.unlink(missing_ok=True)


def _register_health(health: Health, server: grpc.aio.Server, names: Sequence[str]) -> None:
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    for name in (*names, *([HUBBLE_HEALTH] if "observer.Observer" in names else [])):
        health.add(name)


def _register_reflection(server: grpc.aio.Server, names: Sequence[str]) -> None:
    """Serves reflection under v1alpha and, with the same messages, under v1, which grpcurl asks for first."""
    services = [name for name in (*names, "grpc.health.v1.Health") if _described(name)]
    services += ["grpc.reflection.v1alpha.ServerReflection"]
    servicer = reflection.aio.ReflectionServicer(services)
    for package in ("v1alpha", "v1"):
        handler = grpc.stream_stream_rpc_method_handler(
            servicer.ServerReflectionInfo,
            reflection_pb2.ServerReflectionRequest.FromString,
            reflection_pb2.ServerReflectionResponse.SerializeToString,
        )
        name = f"grpc.reflection.{package}.ServerReflection"
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler}),)
        )


def _described(name: str) -> bool:
    try:
        descriptor_pool.Default().FindServiceByName(name)
    except KeyError:
        return False
    return True


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
