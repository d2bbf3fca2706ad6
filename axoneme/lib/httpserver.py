"""The small HTTP server of every process: /metrics, /healthz, /readyz.

Probes and Prometheus read it without a certificate, so it listens on loopback by default and says nothing
about workloads. `/healthz` is 200 while the process works; `/readyz` is 503 with the reason in words until it
can serve.
"""

# ruff: noqa: ARG001  handlers take a request
from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from axoneme.lib.errors import InvalidArgument, Unavailable


@contextlib.asynccontextmanager
async def serving(
    address: str,
    registry: CollectorRegistry,
    healthy: Callable[[], bool] = lambda: True,
    ready: Callable[[], str | None] = lambda: None,
) -> AsyncIterator[str]:
    """Serves until the block ends and yields `host:port` (port 0 resolved). An empty address serves nothing.

    Raises InvalidArgument for a malformed address and Unavailable when the port is taken.
    """
    if not address:
        yield ""
        return
    host, port = split_address(address)
    runner = web.AppRunner(_application(registry, healthy, ready), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise Unavailable(
                f"cannot serve HTTP on {address}: {error.strerror}", reason="ADDRESS_IN_USE"
            ) from error
        bound = runner.addresses[0]
        yield f"{host}:{bound[1]}"
    finally:
        await runner.cleanup()


def split_address(address: str) -> tuple[str, int]:
    """`host:port` or `[v6]:port` → (host, port). Raises InvalidArgument."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise InvalidArgument.of_field("address", f"{address!r} is not host:port")
    return host.strip("[]"), int(port)


def _application(
    registry: CollectorRegistry, healthy: Callable[[], bool], ready: Callable[[], str | None]
) -> web.Application:
    async def metrics(request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def healthz(request: web.Request) -> web.Response:
        return web.Response(text="ok\n") if healthy() else web.Response(text="not healthy\n", status=503)

    async def readyz(request: web.Request) -> web.Response:
        reason = ready()
        return web.Response(text="ok\n") if reason is None else web.Response(text=f"{reason}\n", status=503)

    application = web.Application()
    application.router.add_get("/metrics", metrics)
    application.router.add_get("/healthz", healthz)
    application.router.add_get("/readyz", readyz)
    return application
