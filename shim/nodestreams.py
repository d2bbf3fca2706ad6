"""The intent streams of one node: from which service each comes, and into which sink it goes."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from axoneme.api.clustermesh.v1 import clustermesh_pb2_grpc
from axoneme.api.identity.v1 import identity_pb2_grpc
from axoneme.api.policy.v1 import policy_pb2_grpc
from axoneme.lib.channel import ServiceChannel
from axoneme.lib.intentstream import IntentClient, StreamState
from axoneme.lib.intentstream.timing import Timing
from axoneme.lib.policy.model import SubjectPolicy
from axoneme.lib.tasks import TaskScope
from shim.config import ShimConfig
from shim.dns.names import LearnedName, LearnedNames, NamesCodec, names_call
from shim.lb.balancer import LoadBalancer
from shim.lb.model import Service
from shim.lb.wire import ServicesCodec
from shim.nodeipcache import IdentityEntry, IpcacheSink, NodeIpcache, PrefixEntry
from shim.nodes import NodeSink
from shim.policies import PolicySink
from shim.routes import NodeEntry
from shim.wire import IpcacheCodec, NodesCodec, PoliciesCodec


@dataclass(frozen=True, slots=True, kw_only=True)
class Channels:
    """Ways to the services; a cluster without services to balance has no clustermesh, a node without a DNS
    proxy no fqdn."""

    identity: ServiceChannel
    policy: ServiceChannel
    clustermesh: ServiceChannel | None = None
    fqdn: ServiceChannel | None = None


class NodeStreams:
    """All streams of one node; `declare` tells the registry of this node on each connection."""

    def __init__(
        self,
        cfg: ShimConfig,
        channels: Channels,
        *,
        ipcache: NodeIpcache,
        nodes: NodeSink,
        policies: PolicySink,
        balancer: LoadBalancer,
        names: LearnedNames,
        declare: Callable[[], Awaitable[None]],
        rng: random.Random,
    ) -> None:
        self.ipcache = IntentClient[PrefixEntry | IdentityEntry](
            "SubscribeIpcache",
            channel=channels.identity,
            open_stream=_ipcache_call,
            codec=IpcacheCodec(),
            sink=IpcacheSink(ipcache),
            on_connect=declare,
            node_name=cfg.node_name,
            rng=rng,
        )
        self.nodes = IntentClient[NodeEntry](
            "SubscribeNodes",
            channel=channels.identity,
            open_stream=_nodes_call,
            codec=NodesCodec(),
            sink=nodes,
            node_name=cfg.node_name,
            rng=rng,
        )
        self.policy = IntentClient[SubjectPolicy](
            "SubscribeEndpointPolicies",
            channel=channels.policy,
            open_stream=_policies_call,
            codec=PoliciesCodec(),
            sink=policies,
            interest=True,
            node_name=cfg.node_name,
            rng=rng,
        )
        self.services: IntentClient[Service] | None = None
        if channels.clustermesh is not None:
            self.services = _services_stream(cfg, channels.clustermesh, balancer, rng)
        self.names: IntentClient[LearnedName] | None = None
        if channels.fqdn is not None:
            self.names = _names_stream(cfg, channels.fqdn, names, rng)

    def start(self, scope: TaskScope) -> None:
        """Begins to follow."""
        scope.start("ipcache stream", self.ipcache.run())
        scope.start("nodes stream", self.nodes.run())
        scope.start("policy stream", self.policy.run())
        if self.services is not None:
            scope.start("services stream", self.services.run())
        if self.names is not None:
            scope.start("names stream", self.names.run())

    def states(self) -> Sequence[StreamState]:
        """State of the streams; those of services and names only where there are some."""
        states = [self.ipcache.status(), self.nodes.status(), self.policy.status()]
        return [*states, *(one.status() for one in (self.services, self.names) if one is not None)]


def _services_stream(
    cfg: ShimConfig, channel: ServiceChannel, balancer: LoadBalancer, rng: random.Random
) -> IntentClient[Service]:
    return IntentClient[Service](
        "SubscribeServices",
        channel=channel,
        open_stream=_services_call,
        codec=ServicesCodec(cfg.cluster_name),
        sink=balancer,
        node_name=cfg.node_name,
        rng=rng,
    )


def _names_stream(
    cfg: ShimConfig, channel: ServiceChannel, names: LearnedNames, rng: random.Random
) -> IntentClient[LearnedName]:
    return IntentClient[LearnedName](
        "SubscribeNames",
        channel=channel,
        open_stream=names_call,
        codec=NamesCodec(),
        sink=names,
        node_name=cfg.node_name,
        rng=rng,
        timing=Timing(reconnect_first_seconds=0.1, reconnect_limit_seconds=1.0),
    )


def _ipcache_call(channel: grpc.aio.Channel) -> grpc.aio.StreamStreamCall[Any, Any]:
    return identity_pb2_grpc.IdentityServiceStub(channel).SubscribeIpcache()


def _nodes_call(channel: grpc.aio.Channel) -> grpc.aio.StreamStreamCall[Any, Any]:
    return identity_pb2_grpc.IdentityServiceStub(channel).SubscribeNodes()


def _services_call(channel: grpc.aio.Channel) -> grpc.aio.StreamStreamCall[Any, Any]:
    return clustermesh_pb2_grpc.ClusterMeshServiceStub(channel).SubscribeServices()


def _policies_call(channel: grpc.aio.Channel) -> grpc.aio.StreamStreamCall[Any, Any]:
    return policy_pb2_grpc.PolicyServiceStub(channel).SubscribeEndpointPolicies()
