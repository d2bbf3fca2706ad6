"""The life of one shim: takes over what an earlier life left, follows the streams, retries, checkpoints.

`NodeParts` holds the state and writes it into the kernel, `NodeApis` shows it and takes requests; both are
wired here, once the maps are open. No rule lives here.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import random
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from axoneme.lib import log
from axoneme.lib.errors import AxonemeError
from axoneme.lib.tasks import TaskScope
from shim.config import ShimConfig
from shim.datapath import Datapath
from shim.dns.lookups import follow_lookups
from shim.lateobserver import LateObserver
from shim.maintenance import Maintenance
from shim.nodeapis import NodeApis
from shim.nodeparts import NodeParts
from shim.nodestreams import Channels
from shim.peer import PeerService, PeerTable
from shim.routes import NodeEntry
from shim.state import NodeState, StateFile

if TYPE_CHECKING:
    from shim.flowservice import FlowService

logger = logging.getLogger(__name__)

COLLECTION_SECONDS = 60.0


class Node:
    """Everything that lives as long as the shim."""

    def __init__(
        self,
        cfg: ShimConfig,
        *,
        datapath: Datapath,
        channels: Channels,
        rng: random.Random,
        registry: CollectorRegistry,
        version: str,
    ) -> None:
        self._cfg, self._datapath, self._channels, self._rng = cfg, datapath, channels, rng
        self._clock = time.monotonic
        self._state_file = StateFile(cfg.state_directory)
        self._registry, self._version = registry, version
        self.peers = PeerTable()
        self.peers_service = PeerService(self.peers)
        self.local_observer = LateObserver()
        self._started_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self._ready_problem: str | None = "the datapath is not ready; is the privileged helper running?"

    def _build(self) -> None:
        self.parts = NodeParts(
            self._cfg,
            datapath=self._datapath,
            channels=self._channels,
            peers=self.peers,
            checkpoint=self.checkpoint,
            clock=self._clock,
            rng=self._rng,
        )
        self.apis = NodeApis(
            self._cfg,
            self.parts,
            not_ready=self.not_ready,
            clock=self._clock,
            registry=self._registry,
            version=self._version,
        )
        self.maintenance = Maintenance(
            self.parts,
            self.apis,
            probe_features=self._probe_features,
            checkpoint=self.checkpoint,
            clock=self._clock,
        )

    # --- taking over

    async def restore(self) -> None:
        """Takes over what an earlier life left in the state file and in the kernel."""
        state = self._state_file.load()
        self._build()
        parts = self.parts
        parts.cookies.load(state.cookies)
        parts.workloads.releases.pending = set(state.released)
        parts.ipcache.load()
        parts.local.load(state.local_identities, parts.ipcache.holds, parts.dns.names.table.named.values())
        parts.dns.names.load()
        await self._restore_host()
        await self._probe_features()
        await parts.network.bring_up()
        await self._probe_features()  # the uplink's driver and the workloads' cgroup are known only now
        await parts.nodes.load()
        await self._restore_membership(state)
        await parts.balancer.restore(state.last_backend_id, state.last_set_id)
        await parts.workloads.restore(state.endpoints, state.last_endpoint_id)
        parts.local_endpoints.settle()
        parts.endpoint_namespaces.settle()
        if self._channels.clustermesh is None:
            await parts.balancer.without_services()
        if state.pod_cidrs:
            parts.membership.choose_health_ips()
        await parts.health_endpoint.prepare()
        await parts.policies.resume()
        parts.describe_nodes()
        if parts.host is None and not parts.node_maps.judges_host:
            parts.policies.forget_host()
        self._ready_problem = None

    async def _restore_host(self) -> None:
        """The host's policy of an earlier life stays in force; its subject is asked for with all others."""
        host = self.parts.host
        if host is None:
            return
        if await self.parts.policies.adopt(host.endpoint):
            host.adopted()
        await self.parts.streams.policy.change_interest(added=[host.key])

    async def _restore_membership(self, state: NodeState) -> None:
        """The addresses that the registry gave this node stay in use while it is away."""
        if not state.pod_cidrs:
            return
        membership = self.parts.membership
        membership.node = replace(membership.node, health_ips=state.health_ips)
        await membership.take_over(
            NodeEntry(
                cluster=self._cfg.cluster_name,
                name=self._cfg.node_name,
                pod_cidrs=state.pod_cidrs,
                router_ips=state.router_ips,
            )
        )

    async def _probe_features(self) -> None:
        """What the kernel can do; told to the registry, so that nothing else is asked of this node."""
        status = self.apis.status
        try:
            status.features = await self._datapath.features()
        except AxonemeError as error:
            logger.warning("features not probed", extra={log.ERROR: log.clip(error)})
            return
        self.parts.node_maps.set_features(status.features)
        self.parts.balancer.set_features(status.features)
        self.parts.network.set_features(status.features)
        self.parts.dns.set_features(status.features)
        await self.parts.membership.set_features(status.features)

    # --- running

    def start(self, scope: TaskScope) -> None:
        """Starts everything that runs on its own."""
        parts, apis, cfg = self.parts, self.apis, self._cfg
        parts.streams.start(scope)
        scope.start("load balancing", parts.balancer.keep())
        scope.start("node lease", parts.membership.keep())
        parts.health.start(scope)
        if parts.dns_session is not None:
            scope.start("DNS proxy", parts.dns_session.run())
        scope.start("map audit", apis.audit.keep(cfg.audit_seconds, rng=self._rng, sleep=asyncio.sleep))
        collecting = apis.collector.keep(COLLECTION_SECONDS, rng=self._rng, sleep=asyncio.sleep)
        scope.start("collection", collecting)
        scope.start("link check", apis.links.keep(cfg.link_check_seconds, sleep=asyncio.sleep))

    async def load_flows(self, scope: TaskScope) -> FlowService:
        """Loads the flow side and starts it; the node's own API is up already."""
        module = await asyncio.to_thread(importlib.import_module, "shim.flowservice")
        flows: FlowService = module.FlowService(
            self.apis.names,
            capacity=self._cfg.flow_capacity,
            version=self._version,
            started_ns=self._started_ns,
            agent_events=self.apis.agent_events,
            hubble=self._cfg,
            spill=self._cfg.flow_spill,
        )
        flows.start(scope, self._datapath)
        if self._cfg.has_dns_proxy:
            target = f"unix:{self._cfg.fqdn_socket}"
            scope.start("DNS messages", follow_lookups(target, flows.lookups, rng=self._rng))
        self.local_observer.set(flows.observer)
        return flows

    def checkpoint(self) -> None:
        """Writes the state file, unless it says the same already."""
        self._state_file.save(self.parts.state())

    def not_ready(self) -> str | None:
        """Why new endpoints cannot be served yet."""
        return self._ready_problem or self.apis.status.not_ready()
