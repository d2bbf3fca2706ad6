"""The shim: reads configuration, wires the parts, serves until a signal.

    identity ── SubscribeIpcache ──► IpcacheSink ─┐
             └─ SubscribeNodes ────► NodeSink ────┼─► NodeIpcache ─► axoneme_ipexact, axoneme_ipcache
                                        └─► routes (helper), PeerTable
    clustermesh ── SubscribeServices ──► LoadBalancer ─► axoneme_lb, axoneme_lb_slots, axoneme_lb_backends, …
    policy ──── SubscribeEndpointPolicies ─► PolicySink ─► axoneme_policy, axoneme_ep
                                                 └─► LocalIdentities ─► NodeIpcache (named prefixes)
    DNS proxy ── SyncRedirects ─► PolicySink (order of redirects and rules)
              └─ SubscribeNames, WatchLookups ─► names and DNS messages of flows
    node API (unix socket) ─► Workloads ─► helper, maps, services
    axoneme_events (ring) ─► FlowFeed ─► Observer API (mTLS, and the unix socket)

A start serves the node API first, then follows the streams, and only then loads what nobody waits for: the
flow side (numpy) and the metrics server (aiohttp), which are half of all that is imported.

Nothing of the kernel's state goes away when this process ends, and nothing is removed after its start
before the streams were complete once.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.metadata
import logging
import os
import random
import secrets
import sys
from collections.abc import Awaitable, Callable, Sequence

from prometheus_client import CollectorRegistry

from axoneme.lib import config, grpcserver, lifecycle, log
from axoneme.lib.channel import ServiceChannel
from axoneme.lib.errors import AxonemeError
from axoneme.lib.roles import parse_name_roles
from axoneme.lib.tasks import TaskScope
from axoneme.lib.tls import TlsFiles
from shim import privileges, seccomp
from shim.config import ShimConfig
from shim.datapath import Datapath
from shim.kerneldatapath import KernelDatapath
from shim.memorydatapath import MemoryDatapath
from shim.node import Node
from shim.nodestreams import Channels
from shim.privileged.client import HelperClient

logger = logging.getLogger(__name__)

HELPER_RETRY_SECONDS = 0.2
MAINTENANCE_SECONDS = 0.1
METRICS_DELAY_SECONDS = 2.0


def version() -> str:
    """Version of the installed software."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version("axoneme")
    return "0"


async def run(cfg: ShimConfig) -> int:
    """Serves until SIGTERM; returns the exit code."""
    tls = TlsFiles(cfg.ca_file, cfg.cert_file, cfg.key_file)
    rng = random.Random(secrets.randbits(64))  # noqa: S311 - spreads load, hides nothing
    registry = CollectorRegistry()
    async with contextlib.AsyncExitStack() as stack:
        stop = await stack.enter_async_context(lifecycle.until_signalled())
        datapath = open_datapath(cfg)
        stack.callback(datapath.close)
        identity = await stack.enter_async_context(
            ServiceChannel(cfg.identity_targets, tls, f"identity.{cfg.domain}", rng=rng)
        )
        policy = await stack.enter_async_context(
            ServiceChannel(cfg.policy_targets, tls, f"policy.{cfg.domain}", rng=rng)
        )
        clustermesh = None
        if cfg.clustermesh_targets:
            clustermesh = await stack.enter_async_context(
                ServiceChannel(cfg.clustermesh_targets, tls, f"clustermesh.{cfg.domain}", rng=rng)
            )
        fqdn = None
        if cfg.has_dns_proxy:
            fqdn = await stack.enter_async_context(ServiceChannel([f"unix:{cfg.fqdn_socket}"], None, rng=rng))
        node = Node(
            cfg,
            datapath=datapath,
            channels=Channels(identity=identity, policy=policy, clustermesh=clustermesh, fqdn=fqdn),
            rng=rng,
            registry=registry,
            version=version(),
        )
        logger.info("shim starts", extra={log.NODE: cfg.node_name})
        scope = await stack.enter_async_context(TaskScope("shim"))
        served = asyncio.Event()
        scope.start("metrics", _serve_metrics(cfg, node, registry, served))
        if not await _until(stop, _started(datapath)):
            return 0
        await node.restore()
        await _serve_locally(stack, cfg, node)
        node.start(scope)
        scope.start("maintenance", node.maintenance.keep(MAINTENANCE_SECONDS))
        await _serve_remotely(stack, cfg, node, tls, registry, scope)
        served.set()
        return await lifecycle.wait_for_end(stop, scope)


async def _serve_locally(stack: contextlib.AsyncExitStack, cfg: ShimConfig, node: Node) -> None:
    """The node API, Observer and Peer for local root."""
    services = (node.apis.node, node.local_observer, node.peers_service)
    local = await stack.enter_async_context(
        grpcserver.serving(
            [grpcserver.Listener(f"unix://{cfg.shim_socket}")],
            lambda server: [name for service in services for name in service.add_to(server)],
            drain_seconds=cfg.drain_seconds,
            registry=CollectorRegistry(),
        )
    )
    local.set_serving("", True)
    await stack.enter_async_context(node.apis.cni.serving(cfg.run_directory / "cni.sock"))
    logger.info("node API is served", extra={log.NODE: cfg.node_name})


async def _serve_remotely(
    stack: contextlib.AsyncExitStack,
    cfg: ShimConfig,
    node: Node,
    tls: TlsFiles,
    registry: CollectorRegistry,
    scope: TaskScope,
) -> None:
    """Observer and Peer for the relay and for users."""
    flows = await node.load_flows(scope)
    names = parse_name_roles(cfg.certificate_names)
    remote = await stack.enter_async_context(
        grpcserver.serving(
            [grpcserver.Listener(cfg.observer_listen, tls, cfg.domain, names)],
            lambda server: [*flows.observer.add_to(server), *node.peers_service.add_to(server)],
            drain_seconds=cfg.drain_seconds,
            registry=registry,
        )
    )
    remote.set_serving("", True)


async def _serve_metrics(
    cfg: ShimConfig, node: Node, registry: CollectorRegistry, served: asyncio.Event
) -> None:
    """/metrics and the probes; after the APIs, but no later than this when the helper is not there."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(METRICS_DELAY_SECONDS):
            await served.wait()
    httpserver = await asyncio.to_thread(importlib.import_module, "axoneme.lib.httpserver")
    serving = httpserver.serving(cfg.metrics_address, registry, healthy=lambda: True, ready=node.not_ready)
    async with serving as address:
        logger.info("metrics are served", extra={log.ADDRESS: address})
        await asyncio.Event().wait()


def open_datapath(cfg: ShimConfig) -> Datapath:
    """The kernel's or the simulated one, as configured."""
    if cfg.simulated:
        return MemoryDatapath()
    return KernelDatapath(cfg.pin_directory, HelperClient(cfg.helper_socket), cfg.network)


async def _started(datapath: Datapath) -> None:
    """Waits for the helper, which starts beside this process."""
    told = ""
    while True:
        try:
            await datapath.start()
        except (AxonemeError, OSError) as error:
            if str(error) != told:
                told = str(error)
                logger.warning("datapath not ready", extra={log.ERROR: log.clip(error)})
            await asyncio.sleep(HELPER_RETRY_SECONDS)
        else:
            return


async def _until(stop: asyncio.Event, doing: Awaitable[None]) -> bool:
    """True when `doing` ended, False when the signal came first."""
    task, signalled = asyncio.ensure_future(doing), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((task, signalled), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        return task.done()
    finally:
        for one in (task, signalled):
            one.cancel()


def main(argv: Sequence[str] | None = None, *, load: Callable[..., ShimConfig] = config.load) -> int:
    """Entry of `python -m shim.main --config FILE`, as the supervisor starts it."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if len(arguments) != 2 or arguments[0] != "--config":
        print("usage: python -m shim.main --config FILE", file=sys.stderr)  # noqa: T201
        return 2
    try:
        cfg = load(ShimConfig, file=arguments[1])
    except AxonemeError as error:
        print(f"axoneme shim serve: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return serve(cfg)


def serve(cfg: ShimConfig) -> int:
    """Runs the shim in this process; returns the exit code."""
    os.umask(0o077)
    privileges.forbid_dumps()
    log.setup(cfg.log_level)
    try:
        return asyncio.run(run(cfg))
    except AxonemeError as error:
        logger.error("shim cannot run", extra={log.REASON: error.reason, log.ERROR: log.clip(error)})
        return 1


if __name__ == "__main__":
    seccomp.forbid_execution()
    sys.exit(main())
