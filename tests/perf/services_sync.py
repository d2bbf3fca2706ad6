"""10,000 services of 5 backends each: start, first sync to a node, and what one change costs.

The service is this process, over the store in memory, on loopback with mTLS; the node is a bare end of the
protocol in the same process, which reads headers only. So CPU times hold a little of the node's own.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from axoneme.lib import grpcsettings  # isort: skip  (before grpc)

from axoneme.api.clustermesh.v1 import clustermesh_pb2 as pb
from axoneme.lib import certs
from axoneme.lib.channel import open_channel
from axoneme.lib.kvstore import layout
from axoneme.lib.kvstore.memory import MemoryStore
from services.clustermesh.model import Port, Service, ServiceKey
from services.clustermesh.records import encode_service, store_key
from tests.clustermeshservice import DOMAIN, RunningMesh, put_identity, put_workload, running_mesh
from tests.fanout import certificate, memory_folder, only_header
from tests.perf.result import Result

assert grpcsettings.ENVIRONMENT

SERVICES, BACKENDS = 10_000, 5
CHANGES, ROUNDS = 200, 5
FIRST_IDENTITY = 70_000
METHOD = "/axoneme.api.clustermesh.v1.ClusterMeshService/SubscribeServices"


@dataclass
class Figures:
    """What the run measured."""

    start: list[float] = field(default_factory=list)
    sync: list[float] = field(default_factory=list)
    sync_cpu: list[float] = field(default_factory=list)
    mebibytes: list[float] = field(default_factory=list)
    delay: list[float] = field(default_factory=list)
    change_cpu: list[float] = field(default_factory=list)
    burst_cpu: list[float] = field(default_factory=list)
    apply_cpu: list[float] = field(default_factory=list)


def run() -> Iterator[Result]:
    """The figures."""
    got = asyncio.run(_measure())
    size = f"{SERVICES:,} services of {BACKENDS} backends"
    yield Result(name=f"start of the service, {size}", unit="s", values=got.start)
    yield Result(name=f"first sync to one node, {size}", unit="s", values=got.sync)
    yield Result(name="CPU of it, both ends", unit="s", values=got.sync_cpu)
    yield Result(name="bytes of it", unit="MiB", values=got.mebibytes)
    yield Result(name="one workload changes: until the node has it", unit="ms", values=got.delay)
    yield Result(name="CPU of it", unit="ms", values=got.change_cpu)
    yield Result(name=f"CPU of each of {CHANGES} changes at once", unit="ms", values=got.burst_cpu)
    yield Result(name="CPU of one ApplyService with a node port", unit="ms", values=got.apply_cpu)


async def _measure() -> Figures:
    got = Figures()
    store = MemoryStore()
    await _fill(store)
    with tempfile.TemporaryDirectory(dir=memory_folder()) as folder:
        ca = Path(folder)
        certs.create_ca(ca, DOMAIN)
        issued: dict[str, Any] = {}

        def issue(role: str) -> Any:
            if role not in issued:
                issued[role] = certificate(ca, role)
            return issued[role]

        for _ in range(ROUNDS):
            begun = time.monotonic()
            async with running_mesh(store, issue) as mesh:
                got.start.append(time.monotonic() - begun)
                await _round(got, mesh, store)
    return got


async def _fill(store: MemoryStore) -> None:
    for number in range(SERVICES):
        await put_identity(store, FIRST_IDENTITY + number, app=f"a{number}")
        for backend in range(BACKENDS):
            await put_workload(store, _ip(number, backend), FIRST_IDENTITY + number, host="198.18.1.101")
        made = Service(
            key=ServiceKey("shop", f"s{number}"),
            cluster_ips=(f"10.96.{number // 250}.{number % 250 + 1}",),
            ports=(Port(name="http", port=80, target_port=8080),),
            selector=(("app", f"a{number}"),),
        )
        await store.put(store_key(made.key), encode_service(made))


def _ip(service: int, backend: int) -> str:
    return f"10.{backend}.{service // 250}.{service % 250 + 1}"


@dataclass
class BareNode:
    """A node's end: acknowledges what it reads, and counts it."""

    call: Any
    bytes: int = 0

    async def step(self) -> pb.SubscribeServicesResponse:
        """Takes one update in."""
        raw: bytes = await self.call.read()
        self.bytes += len(raw)
        header = only_header(raw).header
        request = pb.SubscribeServicesRequest()
        request.ack.nonce, request.ack.revision = header.nonce, header.revision
        await self.call.write(request)
        return pb.SubscribeServicesResponse(header=header)

    async def until(self, revision: int) -> None:
        """Takes updates in until the store's revision is reached."""
        while (await self.step()).header.store_revision < revision:
            pass


async def _round(got: Figures, mesh: RunningMesh, store: MemoryStore) -> None:
    target = f"127.0.0.1:{mesh.server.port}"
    async with open_channel(target, mesh.tls_files("node/n1"), f"clustermesh.{DOMAIN}") as channel:
        begun, cpu = time.monotonic(), time.process_time()
        call: Any = channel.stream_stream(
            METHOD, request_serializer=pb.SubscribeServicesRequest.SerializeToString
        )()
        node = BareNode(call)
        hello = pb.SubscribeServicesRequest()
        hello.hello.node_name = "n1"
        await call.write(hello)
        await call.initial_metadata()
        while not (await node.step()).header.snapshot_last:
            pass
        got.sync.append(time.monotonic() - begun)
        got.sync_cpu.append(time.process_time() - cpu)
        got.mebibytes.append(node.bytes / 2**20)
        await _changes(got, node, store)
        await _applies(got, mesh)
        call.cancel()


async def _changes(got: Figures, node: BareNode, store: MemoryStore) -> None:
    delays = []
    cpu = time.process_time()
    for number in range(CHANGES):
        begun = time.monotonic()
        await _flip(store, number)
        await node.until(await store.revision())
        delays.append((time.monotonic() - begun) * 1_000)
    got.change_cpu.append((time.process_time() - cpu) * 1_000 / CHANGES)
    got.delay.append(sorted(delays)[len(delays) // 2])
    cpu = time.process_time()
    for number in range(CHANGES):
        await _flip(store, number)
    await node.until(await store.revision())
    got.burst_cpu.append((time.process_time() - cpu) * 1_000 / CHANGES)


async def _flip(store: MemoryStore, number: int) -> None:
    """A workload goes, or comes back."""
    ip = f"10.200.{number // 250}.{number % 250 + 1}"
    if await store.get(layout.ip_key(ip)) is None:
        await put_workload(store, ip, FIRST_IDENTITY + number)
    else:
        await store.delete(layout.ip_key(ip))


async def _applies(got: Figures, mesh: RunningMesh) -> None:
    stub = mesh.stub()
    cpu = time.process_time()
    for number in range(CHANGES):
        made = pb.Service(namespace="new", name=f"n{number}", type=2, ports=[pb.ServicePort(port=80)])
        await stub.ApplyService(pb.ApplyServiceRequest(service=made))
    got.apply_cpu.append((time.process_time() - cpu) * 1_000 / CHANGES)
    for number in range(CHANGES):
        await stub.DeleteService(pb.DeleteServiceRequest(namespace="new", name=f"n{number}"))


if __name__ == "__main__":
    from tests.perf.result import table

    print(table(run()))
