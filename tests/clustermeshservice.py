"""A running clustermesh service for tests: real gRPC with mTLS over a store of the test's choice."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from axoneme.lib import grpcsettings  # isort: skip  (before grpc)
import grpc
from prometheus_client import CollectorRegistry

from axoneme.api.clustermesh.v1 import clustermesh_pb2 as pb
from axoneme.api.clustermesh.v1 import clustermesh_pb2_grpc
from axoneme.lib.channel import open_channel
from axoneme.lib.grpcserver import GrpcServer
from axoneme.lib.kvstore import layout
from axoneme.lib.kvstore.port import Store
from axoneme.lib.tasks import TaskScope
from axoneme.lib.tls import TlsFiles
from services.clustermesh.config import ClusterMeshConfig
from services.clustermesh.main import serving
from services.clustermesh.state import MeshState

assert grpcsettings.ENVIRONMENT

DOMAIN = "east.mesh"
CLUSTER = "east"
ADMIN, READER = "user/admin/root", "user/reader/ann"


@dataclass
class RunningMesh:
    """The service and clients of it."""

    server: GrpcServer
    state: MeshState
    store: Store
    registry: CollectorRegistry
    tls_files: Callable[[str], TlsFiles]
    channels: list[grpc.aio.Channel] = field(default_factory=list)

    def stub(self, role: str = ADMIN) -> Any:
        """A client with the certificate of a role."""
        target = f"127.0.0.1:{self.server.port}"
        channel = open_channel(target, self.tls_files(role), f"clustermesh.{DOMAIN}")
        self.channels.append(channel)
        return clustermesh_pb2_grpc.ClusterMeshServiceStub(channel)

    async def apply(self, service: pb.Service, **fields: Any) -> pb.ApplyServiceResponse:
        """Applies as an admin."""
        request = pb.ApplyServiceRequest(service=service, **fields)
        answer: pb.ApplyServiceResponse = await self.stub().ApplyService(request)
        return answer

    async def get(self, name: str) -> pb.Service:
        """The service `namespace/name` as a reader sees it."""
        namespace, _, short = name.partition("/")
        answer = await self.stub(READER).GetService(pb.GetServiceRequest(namespace=namespace, name=short))
        found: pb.Service = answer.service
        return found

    async def caught_up(self) -> None:
        """Waits until everything that is in the store is in the state."""
        await self.state.catch_up(self.store)


def service(name: str, *ports: pb.ServicePort, **fields: Any) -> pb.Service:
    """A service `namespace/name`, with port 80 when none is given."""
    namespace, _, short = name.partition("/")
    return pb.Service(namespace=namespace, name=short, ports=ports or [pb.ServicePort(port=80)], **fields)


def selecting(**labels: str) -> pb.BackendSource:
    """A selector as the source of backends."""
    return pb.BackendSource(selector=pb.LabelMatch(match_labels=labels))


def listing(*ips: str) -> pb.BackendSource:
    """Addresses as the source of backends."""
    return pb.BackendSource(addresses=pb.BackendList(backends=[pb.Backend(ip=ip) for ip in ips]))


async def put_identity(store: Store, number: int, namespace: str = "shop", **labels: str) -> None:
    """What the identity service writes."""
    pairs = {**labels, "io.kubernetes.pod.namespace": namespace, "io.cilium.k8s.policy.cluster": CLUSTER}
    text = "".join(f"k8s:{key}={value};" for key, value in sorted(pairs.items()))
    await store.put(layout.master_key(number), text.encode())


async def put_workload(
    store: Store,
    ip: str,
    identity: int,
    *,
    host: str = "",
    ports: Mapping[str, int] | Iterable[tuple[str, int]] = (),
    lease: int = 0,
) -> None:
    """What the identity service writes about an endpoint; ports are TCP's."""
    named = [{"Name": name, "Port": port, "Protocol": "TCP"} for name, port in dict(ports).items()]
    value = {"IP": ip, "HostIP": host or None, "ID": identity, "NamedPorts": named}
    await store.put(layout.ip_key(ip), json.dumps(value).encode(), lease=lease)


async def put_node(store: Store, name: str, *ips: str, features: Mapping[str, str] | None = None) -> None:
    """What the identity service writes about a node."""
    addresses = [{"Type": "InternalIP", "IP": ip} for ip in ips]
    value = {"Name": name, "Cluster": CLUSTER, "IPAddresses": addresses, "AxonemeFeatures": features}
    await store.put(layout.node_key(CLUSTER, name), json.dumps(value).encode())


def mesh_config(tls_files: Callable[[str], TlsFiles], **changes: Any) -> ClusterMeshConfig:
    """Settings of cluster east."""
    files = tls_files("svc/clustermesh")
    config = ClusterMeshConfig(
        listen_address="127.0.0.1:0",
        metrics_address="",
        ca_file=files.ca,
        cert_file=files.cert,
        key_file=files.key,
        cluster_name=CLUSTER,
        service_cidrs=("10.96.0.0/16", "fd00:96::/112"),
        drain_seconds=0.2,
    )
    return replace(config, **changes)


@contextlib.asynccontextmanager
async def running_mesh(
    store: Store, tls_files: Callable[[str], TlsFiles], **changes: Any
) -> AsyncIterator[RunningMesh]:
    """A service that is ready, until the block ends."""
    config = mesh_config(tls_files, **changes)
    registry = CollectorRegistry()
    async with TaskScope("test") as scope, contextlib.AsyncExitStack() as stack:
        server, state = await stack.enter_async_context(serving(config, store, scope, registry))
        assert await state.reached(0, 10)
        running = RunningMesh(server, state, store, registry, tls_files)
        try:
            yield running
        finally:
            for channel in running.channels:
                await channel.close()


class NodeStream:
    """A shim's end of SubscribeServices, by hand: keeps what it was told and acknowledges it."""

    def __init__(self, stub: Any, node: str) -> None:
        self._call: Any = stub.SubscribeServices()
        self._node = node
        self.services: dict[str, pb.Service] = {}
        self.updates: list[pb.SubscribeServicesResponse] = []

    async def start(self, **hello: int) -> None:
        """Says hello."""
        request = pb.SubscribeServicesRequest()
        request.hello.node_name = self._node
        for name, value in hello.items():
            setattr(request.hello, name, value)
        await self._call.write(request)
        await self._call.initial_metadata()

    async def step(self, *, acknowledge: bool = True) -> pb.SubscribeServicesResponse:
        """Takes one update in."""
        update: pb.SubscribeServicesResponse = await self._call.read()
        assert update is not grpc.aio.EOF, await self._call.code()
        self.updates.append(update)
        if update.header.snapshot_part == 1:
            self.services.clear()
        for one in update.upserts:
            self.services[f"{one.namespace}/{one.name}"] = one
        for name in update.removed_services:
            self.services.pop(name, None)
        if acknowledge:
            request = pb.SubscribeServicesRequest()
            request.ack.nonce, request.ack.revision = update.header.nonce, update.header.revision
            await self._call.write(request)
        return update

    async def until(self, done: Callable[[dict[str, pb.Service]], bool]) -> None:
        """Takes updates in until something holds."""
        while not done(self.services):
            await self.step()

    def cancel(self) -> None:
        """Breaks the stream."""
        self._call.cancel()
