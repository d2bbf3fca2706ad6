"""The parts of one shim and how they hang together; reads top to bottom. No rule lives here."""

from __future__ import annotations

import asyncio
import importlib
import logging
import random
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
from prometheus_client import CollectorRegistry

from axoneme.api.identity.v1 import identity_pb2_grpc
from axoneme.api.policy.v1 import policy_pb2_grpc
from axoneme.lib import log
from axoneme.lib.channel import ServiceChannel
from axoneme.lib.errors import AxonemeError
from axoneme.lib.intentstream import IntentClient, StreamState
from axoneme.lib.policy.model import SubjectPolicy
from axoneme.lib.requests import RequestLog
from axoneme.lib.tasks import TaskScope
from shim.audit import MapAudit
from shim.config import ShimConfig
from shim.cookies import CookieTable
from shim.datapath import Datapath
from shim.endpoints import EndpointTable
from shim.flownames import NodeNames
from shim.lateobserver import LateObserver
from shim.links import LinkCheck
from shim.localidentities import LocalIdentities
from shim.maps import layout
from shim.membership import Membership
from shim.metrics import NodeMetrics
from shim.nodeipcache import IdentityEntry, IpcacheSink, NodeIpcache, PrefixEntry
from shim.nodes import NodeSink
from shim.peer import PeerNode, PeerService, PeerTable
from shim.policies import PolicySink
from shim.routes import NodeEntry
from shim.server import NodeService
from shim.services import Services
from shim.state import NodeState, StateFile
from shim.status import NodeStatus, lost_events_of
from shim.tables import IpcacheTable
from shim.wire import IpcacheCodec, NodesCodec, PoliciesCodec
from shim.workloads import EndpointMap, Workloads

if TYPE_CHECKING:
    from shim.flowservice import FlowService

logger = logging.getLogger(__name__)

SLOW_MAINTENANCE_SECONDS = 5.0


class Node:
    """Everything that lives as long as the shim."""

    def __init__(
        self,
        cfg: ShimConfig,
        *,
        datapath: Datapath,
        identity: ServiceChannel,
        policy: ServiceChannel,
        rng: random.Random,
        registry: CollectorRegistry,
        version: str,
    ) -> None:
        self._cfg, self._datapath, self._rng = cfg, datapath, rng
        self._clock = time.monotonic
        self._state_file = StateFile(cfg.state_directory)
        self._registry, self._version = registry, version
        self.endpoints = EndpointTable()
        self.cookies = CookieTable()
        self.local = LocalIdentities()
        self.peers = PeerTable()
        self.peers_service = PeerService(self.peers)
        self.local_observer = LateObserver()
        self._started_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self.services = Services(identity, policy, node_name=cfg.node_name)
        self._identity_channel, self._policy_channel = identity, policy
        self._ready_problem: str | None = "the datapath is not ready; is the privileged helper running?"
        self._slow_due = 0.0

    # --- wiring, once the maps are open

    def _build(self) -> None:
        cfg, datapath, clock = self._cfg, self._datapath, self._clock
        self.ipcache_table = IpcacheTable(
            datapath.maps[layout.IPEXACT.name], datapath.maps[layout.IPCACHE.name]
        )
        self.ipcache = NodeIpcache(self.ipcache_table, cluster_name=cfg.cluster_name, clock=clock)
        self.endpoint_map = EndpointMap(datapath.maps[layout.EP.name], clock=clock, audit=cfg.policy_audit)
        self.policies = PolicySink(
            endpoints=self.endpoints,
            datapath=datapath,
            cookies=self.cookies,
            local=self.local,
            prefixes=self.ipcache,
            write_endpoint=self.endpoint_map.write,
            checkpoint=self.checkpoint,
            clock=clock,
        )
        own = own_entry(cfg)
        self.nodes = NodeSink(
            own_key=own.key,
            ipcache=self.ipcache,
            routes=datapath.routes,
            clock=clock,
            on_change=self._on_nodes,
        )
        self._build_streams()
        self.workloads = Workloads(
            cluster_name=cfg.cluster_name,
            endpoints=self.endpoints,
            datapath=datapath,
            ipcache=self.ipcache,
            policies=self.policies,
            endpoint_map=self.endpoint_map,
            services=self.services,
            interest=self.policy_stream,
            checkpoint=self.checkpoint,
            host_ip=lambda: self.membership.host_ip(),
            first_policy_seconds=cfg.first_policy_seconds,
            first_generation=lambda: self._rng.randint(1, 0xFFFF_FFFF),
        )
        self.membership = Membership(
            own,
            services=self.services,
            workloads=self.workloads,
            ipcache=self.ipcache,
            datapath=datapath,
            set_routes=self.nodes.set_own_cidrs,
            checkpoint=self.checkpoint,
            rng=self._rng,
        )
        self._build_apis()

    def _build_streams(self) -> None:
        name, rng = self._cfg.node_name, self._rng
        self.ipcache_stream = IntentClient[PrefixEntry | IdentityEntry](
            "SubscribeIpcache",
            channel=self._identity_channel,
            open_stream=_ipcache_call,
            codec=IpcacheCodec(),
            sink=IpcacheSink(self.ipcache),
            on_connect=self._declare,
            node_name=name,
            rng=rng,
        )
        self.nodes_stream = IntentClient[NodeEntry](
            "SubscribeNodes",
            channel=self._identity_channel,
            open_stream=_nodes_call,
            codec=NodesCodec(),
            sink=self.nodes,
            node_name=name,
            rng=rng,
        )
        self.policy_stream = IntentClient[SubjectPolicy](
            "SubscribeEndpointPolicies",
            channel=self._policy_channel,
            open_stream=_policies_call,
            codec=PoliciesCodec(),
            sink=self.policies,
            interest=True,
            node_name=name,
            rng=rng,
        )

    def _build_apis(self) -> None:
        cfg = self._cfg
        self.links = LinkCheck(self.workloads, clock=self._clock)
        self.audit = MapAudit(
            ipcache=self.ipcache,
            endpoint_map=self.endpoint_map,
            policies=self.policies,
            nodes=self.nodes,
            workloads=self.workloads,
            links=self.links,
            now=lambda: datetime.now(UTC),
        )
        self.status = NodeStatus(
            node_name=cfg.node_name,
            cluster_name=cfg.cluster_name,
            version=self._version,
            endpoints=self.endpoints,
            datapath=self._datapath,
            membership=self.membership,
            audit=self.audit,
            links=self.links,
            streams=self.streams,
            lost_events=partial(lost_events_of, self._datapath),
            policy_audit=cfg.policy_audit,
        )
        self.api = NodeService(
            endpoints=self.endpoints,
            workloads=self.workloads,
            policies=self.policies,
            cookies=self.cookies,
            merge=self.ipcache.merge,
            ipcache_table=self.ipcache_table,
            audit=self.audit,
            status=self.status,
            requests=RequestLog(),
        )
        self.names = NodeNames(
            node_name=cfg.node_name,
            cluster_name=cfg.cluster_name,
            endpoints=self.endpoints,
            ipcache=self.ipcache,
            policies=self.policies,
            cookies=self.cookies,
            local=self.local,
        )
        NodeMetrics(
            self._registry,
            self.status,
            self.streams,
            self.workloads,
            self.audit,
            self.links,
            self._datapath,
        )

    # --- life

    async def restore(self) -> None:
        """Takes over what an earlier life left in the state file and in the kernel."""
        state = self._state_file.load()
        self.cookies.load(state.cookies)
        self._build()
        self.workloads.released = set(state.released)
        self.ipcache.load()
        self.local.load(state.local_identities, self.ipcache.holds)
        await self.nodes.load()
        if state.pod_cidrs:
            stored = NodeEntry(
                cluster=self._cfg.cluster_name,
                name=self._cfg.node_name,
                pod_cidrs=state.pod_cidrs,
                router_ips=state.router_ips,
            )
            await self.membership.take_over(stored)
        await self.workloads.restore(state.endpoints, state.last_endpoint_id)
        await self.policies.resume()
        self._ready_problem = None

    def start(self, scope: TaskScope) -> None:
        """Starts everything that runs on its own."""
        scope.start("ipcache stream", self.ipcache_stream.run())
        scope.start("nodes stream", self.nodes_stream.run())
        scope.start("policy stream", self.policy_stream.run())
        scope.start("node lease", self.membership.keep())
        scope.start("map audit", self.audit.keep(self._cfg.audit_seconds, rng=self._rng, sleep=asyncio.sleep))
        scope.start("link check", self.links.keep(self._cfg.link_check_seconds, sleep=asyncio.sleep))

    async def load_flows(self, scope: TaskScope) -> FlowService:
        """Loads the flow side and starts it; the node's own API is up already."""
        module = await asyncio.to_thread(importlib.import_module, "shim.flowservice")
        flows: FlowService = module.FlowService(
            self.names,
            capacity=self._cfg.flow_capacity,
            version=self._version,
            started_ns=self._started_ns,
        )
        flows.start(scope, self._datapath)
        self.local_observer.set(flows.observer)
        return flows

    async def maintain(self, interval_seconds: float) -> None:
        """Tries again whatever failed, as its time comes; looks often, works seldom."""
        while True:
            await asyncio.sleep(interval_seconds)
            try:
                await self._retry()
                if self._clock() >= self._slow_due:
                    self._slow_due = self._clock() + SLOW_MAINTENANCE_SECONDS
                    await self._maintain_slowly()
            except (AxonemeError, OSError) as error:
                logger.warning("maintenance failed", extra={log.ERROR: log.clip(error)})

    async def _retry(self) -> None:
        now = self._clock()
        if _due(self.ipcache.reconciler.next_due(), now):
            self.ipcache.reconciler.flush()
            await self.ipcache_stream.report_failures(IpcacheSink(self.ipcache).failures())
        if _due(self.endpoint_map.reconciler.next_due(), now):
            self.endpoint_map.reconciler.flush()
        if _due(self.nodes.routes.next_due(), now):
            await self.nodes.retry()
            await self.nodes_stream.report_failures(self.nodes.failures())
        if await self.policies.retry_due():
            await self.policy_stream.report_failures(dict(self.policies.failures))

    async def _maintain_slowly(self) -> None:
        if not self.status.features:
            self.status.features = await self._datapath.features()
        await self.workloads.finish_removals()
        await self.workloads.retry_releases()
        await self.membership.retry_declaration()
        self.cookies.forget_unused(self.policies.cookies_in_use)
        self.checkpoint()

    def checkpoint(self) -> None:
        """Writes the state file, unless it says the same already."""
        self._state_file.save(
            NodeState(
                pod_cidrs=self.workloads.ipam.cidrs,
                router_ips=self.membership.node.router_ips,
                endpoints=tuple(self.endpoints),
                last_endpoint_id=self.workloads.numbers.last_given,
                released=tuple(sorted(self.workloads.released)),
                cookies=self.cookies.dump(),
                local_identities=self.local.dump(),
            )
        )

    def not_ready(self) -> str | None:
        """Why new endpoints cannot be served yet."""
        return self._ready_problem or self.status.not_ready()

    def streams(self) -> Sequence[StreamState]:
        """State of the three streams."""
        return [stream.status() for stream in (self.ipcache_stream, self.nodes_stream, self.policy_stream)]

    async def _declare(self) -> None:
        await self.membership.declare()

    def _on_nodes(self, nodes: Mapping[str, NodeEntry]) -> None:
        self.peers.replace(
            PeerNode(cluster=node.cluster, name=node.name, address=node.observer_address)
            for node in nodes.values()
            if node.observer_address
        )


def own_entry(cfg: ShimConfig) -> NodeEntry:
    """What this node says of itself; a wildcard observer address becomes the first internal address."""
    host, _, port = cfg.observer_listen.rpartition(":")
    host = host.strip("[]")
    if host in ("0.0.0.0", "::", ""):  # noqa: S104 - compared, not bound
        host = cfg.internal_ips[0] if cfg.internal_ips else "127.0.0.1"
    shown = f"[{host}]" if ":" in host else host
    return NodeEntry(
        cluster=cfg.cluster_name,
        name=cfg.node_name,
        internal_ips=cfg.internal_ips,
        pod_cidrs=cfg.pod_cidrs,
        observer_address=f"{shown}:{port}",
    )


def _due(moment: float | None, now: float) -> bool:
    return moment is not None and moment <= now


def _ipcache_call(channel: grpc.aio.Channel) -> grpc.aio.StreamStreamCall[Any, Any]:
    return identity_pb2_grpc.IdentityServiceStub(channel).SubscribeIpcache()


def _nodes_call(channel: grpc.aio.Channel) -> grpc.aio.StreamStreamCall[Any, Any]:
    return identity_pb2_grpc.IdentityServiceStub(channel).SubscribeNodes()


def _policies_call(channel: grpc.aio.Channel) -> grpc.aio.StreamStreamCall[Any, Any]:
    return policy_pb2_grpc.PolicyServiceStub(channel).SubscribeEndpointPolicies()
