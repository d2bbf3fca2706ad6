"""Services from the publisher of the clustermesh service to the maps of a node, over real gRPC."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from axoneme.lib import grpcsettings  # isort: skip  (before grpc)
import grpc
from prometheus_client import CollectorRegistry

from axoneme.api.clustermesh.v1 import clustermesh_pb2_grpc
from axoneme.lib import grpcserver
from axoneme.lib.channel import ServiceChannel
from axoneme.lib.intentstream import IntentClient, StreamHost, Timing
from axoneme.lib.tasks import TaskScope
from axoneme.lib.tls import TlsFiles
from services.clustermesh import model
from services.clustermesh.streamcodec import ServicesCodec as PublisherCodec
from services.clustermesh.streamcodec import stream_key, stream_value
from services.clustermesh.view import View
from shim.lb import model as shim_model
from shim.lb.wire import ServicesCodec
from shim.maps import lb
from tests.conftest import TRUST_DOMAIN
from tests.unit.shim.lb.lbnode import CLUSTER, EXTERNAL, PODS, LbNode
from tests.waiting import eventually

assert grpcsettings.ENVIRONMENT

QUICK = Timing(reconnect_first_seconds=0.02, reconnect_limit_seconds=0.1, goodbye_seconds=0.5)
Issue = Callable[[str], TlsFiles]
families = pytest.mark.parametrize("family", [4, 6])


class Servicer(clustermesh_pb2_grpc.ClusterMeshServiceServicer):
    def __init__(self, host: StreamHost[bytes]) -> None:
        self.host = host

    async def SubscribeServices(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]
        await self.host.serve(context)


@contextlib.asynccontextmanager
async def subscribed(
    node: LbNode, host: StreamHost[bytes], issue: Issue
) -> AsyncIterator[IntentClient[shim_model.Service]]:
    def register(server: grpc.aio.Server) -> list[str]:
        clustermesh_pb2_grpc.add_ClusterMeshServiceServicer_to_server(Servicer(host), server)  # type: ignore[abstract]
        return ["axoneme.api.clustermesh.v1.ClusterMeshService"]

    listener = grpcserver.Listener("127.0.0.1:0", issue("svc/clustermesh"), TRUST_DOMAIN)
    async with grpcserver.serving([listener], register, drain_seconds=2.0) as server:
        targets = ServiceChannel(
            [f"127.0.0.1:{server.port}"], issue("node/node1"), f"clustermesh.{TRUST_DOMAIN}"
        )
        async with targets, TaskScope("client") as scope:
            client = IntentClient[shim_model.Service](
                "SubscribeServices",
                channel=targets,
                open_stream=lambda channel: clustermesh_pb2_grpc.ClusterMeshServiceStub(
                    channel
                ).SubscribeServices(),
                codec=ServicesCodec("east"),
                sink=node.balancer,
                node_name="node1",
                rng=random.Random(1),
                timing=QUICK,
            )
            scope.start("stream", client.run())
            yield client


def make_host() -> StreamHost[bytes]:
    host: StreamHost[bytes] = StreamHost(
        "services", epoch=7, registry=CollectorRegistry(), timing=QUICK, codec=PublisherCodec()
    )
    host.set_ready(True)
    return host


def view(family: int, *numbers: int, **fields: Any) -> View:
    service = model.Service(
        key=model.ServiceKey("default", "web"),
        type=model.ServiceType.LOAD_BALANCER,
        cluster_ips=(CLUSTER[family].format(1),),
        load_balancer_ips=(EXTERNAL[family].format(1),),
        ports=(model.Port(name="http", port=80, target_port_name="web", node_port=30_080),),
        external_traffic_policy=model.TrafficPolicy.LOCAL,
        **fields,
    )
    backends = tuple(
        model.Backend(ip=PODS[family].format(n), node_name=f"node{n}", ports=(("http", 8000 + n),))
        for n in numbers
    )
    return View(service, 3, backends)


def target(family: int, number: int) -> str:
    ip = PODS[family].format(number)
    return f"[{ip}]:{8000 + number}/tcp" if family == 6 else f"{ip}:{8000 + number}/tcp"


@families
async def test_from_the_publisher_to_the_maps(family: int, tls_files: Issue) -> None:
    node, host = LbNode(), make_host()
    await node.balancer.restore()
    key = stream_key(model.ServiceKey("default", "web"))
    host.apply({key: stream_value(view(family, 1, 2), "east")}, (), store_revision=5)
    async with subscribed(node, host, tls_files) as client:
        await asyncio.wait_for(client.wait_synced(), 10)
        cluster = f"[{CLUSTER[6].format(1)}]:80/tcp" if family == 6 else f"{CLUSTER[4].format(1)}:80/tcp"
        balanced = f"[{EXTERNAL[6].format(1)}]:80/tcp" if family == 6 else f"{EXTERNAL[4].format(1)}:80/tcp"
        shown = node.shown()
        assert shown[cluster, "inside"].backends == (target(family, 1), target(family, 2))
        assert shown[balanced, "outside"].backends == (target(family, 1),)
        assert shown[balanced, "outside"].flags == lb.LB_LOCAL_ONLY
        revision = host.apply({key: stream_value(view(family, 2), "east")}, (), store_revision=6)
        assert await host.wait_acknowledged(revision, timeout=10) == []
        assert node.shown()[balanced, "outside"].backends == ()
        revision = host.apply({}, [key], store_revision=7)
        assert await host.wait_acknowledged(revision, timeout=10) == []
        assert node.shown() == {}


@families
async def test_a_service_that_does_not_fit_is_told(family: int, tls_files: Issue) -> None:
    node, host = LbNode(sizes={lb.LB_SLOTS.name: 1}), make_host()
    await node.balancer.restore()
    key = stream_key(model.ServiceKey("default", "web"))
    host.apply({key: stream_value(view(family, 1, 2), "east")}, (), store_revision=5)
    async with subscribed(node, host, tls_files) as client:
        await asyncio.wait_for(client.wait_synced(), 10)
        assert client.status().failures[key].reason == "MAP_FULL"
        assert node.shown() == {}
        revision = host.apply({key: stream_value(view(family, 1), "east")}, (), store_revision=6)
        await host.wait_acknowledged(revision, timeout=10)
        await eventually(lambda: not client.status().failures)
        assert len(node.shown()) > 0
