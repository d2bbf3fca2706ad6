"""The parts of one shim and how they hang together; reads top to bottom. No rule lives here."""

from __future__ import annotations

import asyncio
import importlib
import logging
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
from prometheus_client import CollectorRegistry

from axoneme.api.clustermesh.v1 import clustermesh_pb2_grpc
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
from shim.cniserver import CniServer
from shim.collector import Collector
from shim.config import ShimConfig
from shim.cookies import CookieTable
from shim.datapath import Datapath
from shim.endpoints import EndpointTable
from shim.flownames import NodeNames
from shim.health.endpoint import HealthEndpoint
from shim.health.part import Health
from shim.holders import Holders, Host
from shim.inspection.endpointlog import EndpointLog
from shim.inspection.service import inspection
from shim.lateobserver import LateObserver
from shim.lb.balancer import LoadBalancer
from shim.lb.metrics import LbMetrics
from shim.lb.model import NodeView, Service
from shim.lb.naming import FrontendDirectory
from shim.lb.wire import ServicesCodec
from shim.links import LinkCheck
from shim.localendpoints import LocalEndpoints
from shim.localidentities import LocalIdentities
from shim.maps import layout, lb
from shim.maps.base import address_bytes
from shim.maps.node import LOCAL
from shim.membership import Membership
from shim.metrics import NodeMetrics
from shim.network import NetworkFacts
from shim.nodeipcache import IdentityEntry, IpcacheSink, NodeIpcache, PrefixEntry
from shim.nodemaps import NodeMaps
from shim.nodenetwork import NodeNetwork
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
COLLECTION_SECONDS = 60.0


class Node:
    """Everything that lives as long as the shim."""

    def __init__(
        self,
        cfg: ShimConfig,
        *,
        datapath: Datapath,
        identity: ServiceChannel,
        policy: ServiceChannel,
        clustermesh: ServiceChannel | None = None,
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
        self._clustermesh_channel = clustermesh
        self._ready_problem: str | None = "the datapath is not ready; is the privileged helper running?"
        self._slow_due = 0.0

    # --- wiring, once the maps are open

    def _build(self) -> None:
        cfg, datapath, clock = self._cfg, self._datapath, self._clock
        self.ipcache_table = IpcacheTable(
            datapath.maps[layout.IPEXACT.name], datapath.maps[layout.IPCACHE.name]
        )
        tunnel = cfg.network.tunnel
        self.ipcache = NodeIpcache(
            self.ipcache_table, cluster_name=cfg.cluster_name, clock=clock, tunnel=tunnel
        )
        self.endpoint_map = EndpointMap(datapath.maps[layout.EP.name], clock=clock, audit=cfg.policy_audit)
        self._build_description()
        self.policies = PolicySink(
            holders=Holders(self.endpoints, self.endpoint_map.write, self.host),
            datapath=datapath,
            cookies=self.cookies,
            local=self.local,
            prefixes=self.ipcache,
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
            tunnel=tunnel,
            own_ips=cfg.internal_ips,
        )
        self.balancer = LoadBalancer(datapath, node=lb_view(cfg), endpoints=self.endpoints, clock=clock)
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
            first_generation=self._first_generation,
            check_host_ports=self.balancer.check_host_ports,
        )
        self.membership: Membership = Membership(
            own,
            services=self.services,
            workloads=self.workloads,
            ipcache=self.ipcache,
            datapath=datapath,
            set_routes=self._on_own_cidrs,
            checkpoint=self.checkpoint,
            rng=self._rng,
            health=cfg.health_port > 0,
            tunnel=tunnel,
        )
        self.health_endpoint = HealthEndpoint(self.workloads, self.policies)
        self.health = Health(cfg, datapath, self.health_endpoint, clock=clock, rng=self._rng)
        self._build_apis()

    def _build_description(self) -> None:
        """The maps that describe the node, and who fills them."""
        cfg, maps = self._cfg, self._datapath.maps
        self.node_maps = NodeMaps(cfg, maps, clock=self._clock)
        self.node_maps.load()
        self.local_endpoints = LocalEndpoints(maps[LOCAL.name], self.endpoints, clock=self._clock)
        self.local_endpoints.load()
        self.network = NodeNetwork(self._datapath, cfg.network, self._on_network)
        self.host = None
        if cfg.host_firewall:
            generation = self.node_maps.host_generation or self._first_generation()
            self.host = Host(cfg.node_name, generation=generation, write=self.node_maps.write_host)

    def _first_generation(self) -> int:
        return self._rng.randint(1, 0xFFFF_FFFF)

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
        self.services_stream: IntentClient[Service] | None = None
        if self._clustermesh_channel is not None:
            self.services_stream = IntentClient[Service](
                "SubscribeServices",
                channel=self._clustermesh_channel,
                open_stream=_services_call,
                codec=ServicesCodec(self._cfg.cluster_name),
                sink=self.balancer,
                node_name=name,
                rng=rng,
            )

    def _build_apis(self) -> None:
        cfg, datapath = self._cfg, self._datapath
        self.links = LinkCheck(self.workloads, clock=self._clock)
        self.audit = MapAudit(
            ipcache=self.ipcache,
            endpoint_map=self.endpoint_map,
            policies=self.policies,
            nodes=self.nodes,
            workloads=self.workloads,
            links=self.links,
            now=lambda: datetime.now(UTC),
            steps=(self.network.audit, self.node_maps.audit, self.local_endpoints.audit, self.balancer.audit),
        )
        problems = [
            self.network.problems,
            self.node_maps.problems,
            self.local_endpoints.problems,
            self.membership.problems,
            self.balancer.problems,
            self.health.problems,
        ]
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
            parts=[*problems, self.host.problems] if self.host is not None else problems,
        )
        self.collector = Collector(datapath.maps[layout.CT.name], datapath.maps[lb.NAT.name])
        self.endpoint_log = EndpointLog(self.endpoints, now=lambda: datetime.now(UTC))
        self.api = NodeService(
            inspection=inspection(
                datapath.maps,
                cookies=self.cookies,
                named=FrontendDirectory(self.balancer),
                log=self.endpoint_log,
                open_table=datapath.open_maglev_table,
            ),
            endpoints=self.endpoints,
            workloads=self.workloads,
            policies=self.policies,
            cookies=self.cookies,
            merge=self.ipcache.merge,
            ipcache_table=self.ipcache_table,
            audit=self.audit,
            status=self.status,
            health=self.health.report,
            requests=RequestLog(),
        )
        self.cni = CniServer(
            workloads=self.workloads,
            endpoints=self.endpoints,
            datapath=self._datapath,
            not_ready=self.not_ready,
            state_directory=cfg.state_directory,
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
        LbMetrics(self._registry, self.balancer)

    # --- life

    async def restore(self) -> None:
        """Takes over what an earlier life left in the state file and in the kernel."""
        state = self._state_file.load()
        self.cookies.load(state.cookies)
        self._build()
        self.workloads.released = set(state.released)
        self.ipcache.load()
        self.local.load(state.local_identities, self.ipcache.holds)
        await self._restore_host()
        await self._probe_features()
        await self.network.bring_up()
        await self.nodes.load()
        if state.pod_cidrs:
            stored = NodeEntry(
                cluster=self._cfg.cluster_name,
                name=self._cfg.node_name,
                pod_cidrs=state.pod_cidrs,
                router_ips=state.router_ips,
            )
            self.membership.node = replace(self.membership.node, health_ips=state.health_ips)
            await self.membership.take_over(stored)
        await self.balancer.restore(state.last_backend_id, state.last_set_id)
        await self.workloads.restore(state.endpoints, state.last_endpoint_id)
        self.local_endpoints.settle()
        if self._clustermesh_channel is None:
            await self.balancer.without_services()
        if state.pod_cidrs:
            self.membership.choose_health_ips()
        await self.health_endpoint.prepare()
        await self.policies.resume()
        self._describe_nodes()
        self._ready_problem = None

    async def _restore_host(self) -> None:
        """The host's policy of an earlier life stays in force; its subject is asked for with all others."""
        if self.host is None:
            return
        if await self.policies.adopt(self.host.endpoint):
            self.host.adopted()
        await self.policy_stream.change_interest(added=[self.host.key])

    async def _probe_features(self) -> None:
        """What the kernel can do; told to the registry, so that nothing else is asked of this node."""
        try:
            self.status.features = await self._datapath.features()
        except AxonemeError as error:
            logger.warning("features not probed", extra={log.ERROR: log.clip(error)})
            return
        self.node_maps.set_features(self.status.features)
        self.balancer.set_features(self.status.features)
        await self.membership.set_features(self.status.features)

    def start(self, scope: TaskScope) -> None:
        """Starts everything that runs on its own."""
        scope.start("ipcache stream", self.ipcache_stream.run())
        scope.start("nodes stream", self.nodes_stream.run())
        scope.start("policy stream", self.policy_stream.run())
        if self.services_stream is not None:
            scope.start("services stream", self.services_stream.run())
        scope.start("load balancing", self.balancer.keep())
        scope.start("node lease", self.membership.keep())
        self.health.start(scope)
        scope.start("map audit", self.audit.keep(self._cfg.audit_seconds, rng=self._rng, sleep=asyncio.sleep))
        collecting = self.collector.keep(COLLECTION_SECONDS, rng=self._rng, sleep=asyncio.sleep)
        scope.start("collection", collecting)
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
        if _due(self.node_maps.next_due(), now):
            self.node_maps.flush()
        if _due(self.local_endpoints.reconciler.next_due(), now):
            self.local_endpoints.reconciler.flush()
        if _due(self.nodes.routes.next_due(), now):
            await self.nodes.retry()
            await self.nodes_stream.report_failures(self.nodes.failures())
        if _due(self.balancer.next_due(), now):
            await self.balancer.retry()
        if self.services_stream is not None:
            await self.services_stream.report_failures(self.balancer.failures())
        if await self.policies.retry_due():
            await self.policy_stream.report_failures(dict(self.policies.failures))

    async def _maintain_slowly(self) -> None:
        await self.network.retry()
        await self.health.follow(self.membership.node)
        if not self.status.features:
            await self._probe_features()
        await self.cni.work_off_notes()
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
                health_ips=self.membership.node.health_ips,
                endpoints=tuple(self.endpoints),
                last_endpoint_id=self.workloads.numbers.last_given,
                released=tuple(sorted(self.workloads.released)),
                cookies=self.cookies.dump(),
                local_identities=self.local.dump(),
                last_backend_id=self.balancer.books.last_backend.last,
                last_set_id=self.balancer.books.last_set.last,
            )
        )

    def not_ready(self) -> str | None:
        """Why new endpoints cannot be served yet."""
        return self._ready_problem or self.status.not_ready()

    def streams(self) -> Sequence[StreamState]:
        """State of the streams; that of services only where there are some."""
        streams = [self.ipcache_stream.status(), self.nodes_stream.status(), self.policy_stream.status()]
        return streams if self.services_stream is None else [*streams, self.services_stream.status()]

    async def _declare(self) -> None:
        await self.membership.declare()

    def _on_network(self, facts: NetworkFacts) -> None:
        self.node_maps.set_network(facts)
        self.health.set_network(facts)

    async def _on_own_cidrs(self, cidrs: tuple[str, ...]) -> None:
        await self.nodes.set_own_cidrs(cidrs)
        self._describe_nodes()

    def _describe_nodes(self) -> None:
        nodes = self.nodes
        own = self.membership.node
        self.node_maps.set_nodes(nodes.nodes.values(), own, complete=nodes.complete)
        self.health.set_nodes(nodes.nodes.values(), own)

    def _on_nodes(self, nodes: Mapping[str, NodeEntry]) -> None:
        self._describe_nodes()
        self.peers.replace(
            PeerNode(cluster=node.cluster, name=node.name, address=node.observer_address)
            for node in nodes.values()
            if node.observer_address
        )


def lb_view(cfg: ShimConfig) -> NodeView:
    """This node as load balancing sees it."""
    return NodeView(
        node_name=cfg.node_name,
        addresses=tuple(map(address_bytes, cfg.internal_ips)),
        algorithm=cfg.lb_algorithm,
        maglev_table_size=cfg.maglev_table_size,
        forwarding=cfg.lb_forwarding,
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
        labels=cfg.node_labels,
    )


def _due(moment: float | None, now: float) -> bool:
    return moment is not None and moment <= now


def _ipcache_call(channel: grpc.aio.Channel) -> grpc.aio.StreamStreamCall[Any, Any]:
    return identity_pb2_grpc.IdentityServiceStub(channel).SubscribeIpcache()


def _nodes_call(channel: grpc.aio.Channel) -> grpc.aio.StreamStreamCall[Any, Any]:
    return identity_pb2_grpc.IdentityServiceStub(channel).SubscribeNodes()


def _services_call(channel: grpc.aio.Channel) -> grpc.aio.StreamStreamCall[Any, Any]:
    return clustermesh_pb2_grpc.ClusterMeshServiceStub(channel).SubscribeServices()


def _policies_call(channel: grpc.aio.Channel) -> grpc.aio.StreamStreamCall[Any, Any]:
    return policy_pb2_grpc.PolicyServiceStub(channel).SubscribeEndpointPolicies()
