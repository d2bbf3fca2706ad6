"""Both ends of a stream over real gRPC: mTLS, cuts, restarts, supersession, goodbye, wrong node."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from axoneme.lib import grpcsettings  # isort: skip  (before grpc)
import grpc
from prometheus_client import CollectorRegistry

from axoneme.api.identity.v1 import identity_pb2, identity_pb2_grpc
from axoneme.lib import grpcserver
from axoneme.lib.channel import ServiceChannel
from axoneme.lib.intent import Ack, Change, Failure, Hello, Interest, Limits, Request, Resync, Update
from axoneme.lib.intentstream import IntentClient, StreamHost, Timing, envelope
from axoneme.lib.intentstream import host as host_module
from axoneme.lib.tasks import TaskScope
from axoneme.lib.tls import TlsFiles
from tests.conftest import TRUST_DOMAIN
from tests.waiting import eventually

assert grpcsettings.ENVIRONMENT

QUICK = Timing(reconnect_first_seconds=0.02, reconnect_limit_seconds=0.1, goodbye_seconds=0.5)
GOODBYE = Failure("UNAVAILABLE", "DRAINING", "the service stops")


class NodeNames:
    """A codec for SubscribeNodes in which the value of `node:<name>` is the node's cluster."""

    def decode(self, request: identity_pb2.SubscribeNodesRequest) -> Request:
        kind = request.WhichOneof("kind")
        if kind == "hello":
            return envelope.hello_from_message(request.hello)
        if kind == "ack":
            return envelope.ack_from_message(request.ack)
        if kind == "resync":
            return envelope.resync_from_message(request.resync)
        raise ValueError("kind: not set")

    def encode(self, update: Update[str]) -> identity_pb2.SubscribeNodesResponse:
        return identity_pb2.SubscribeNodesResponse(
            header=envelope.header_to_message(update.header),
            upserts=[
                identity_pb2.Node(name=c.key, cluster=c.value) for c in update.changes if c.value is not None
            ],
            removed_nodes=[change.key for change in update.changes if change.value is None],
        )

    def weight(self, change: Change[str]) -> int:
        return len(change.key) + len(change.value or "")


class NodeNamesReader:
    """The other end of NodeNames; the cluster "unreadable" cannot be decoded."""

    def decode(
        self, response: identity_pb2.SubscribeNodesResponse, current: Callable[[str], str | None]
    ) -> Update[str]:
        refused = Failure("INVALID_ARGUMENT", "UNREADABLE", "no such cluster")
        changes = [
            Change(node.name, node.cluster) for node in response.upserts if node.cluster != "unreadable"
        ]
        return Update(
            envelope.header_from_message(response.header),
            tuple(changes + [Change(name, None) for name in response.removed_nodes]),
            {node.name: refused for node in response.upserts if node.cluster == "unreadable"},
        )

    def hello(self, hello: Hello) -> identity_pb2.SubscribeNodesRequest:
        return identity_pb2.SubscribeNodesRequest(hello=envelope.hello_to_message(hello))

    def ack(self, ack: Ack) -> identity_pb2.SubscribeNodesRequest:
        return identity_pb2.SubscribeNodesRequest(ack=envelope.ack_to_message(ack))

    def resync(self, resync: Resync) -> identity_pb2.SubscribeNodesRequest:
        return identity_pb2.SubscribeNodesRequest(resync=envelope.resync_to_message(resync))

    def interest(self, interest: Interest) -> identity_pb2.SubscribeNodesRequest:
        raise TypeError("this stream knows no interest")


@dataclass
class TableSink:
    """Keeps what it was told; `full` makes keys fail, `broken` makes the next call raise."""

    held: dict[str, str] = field(default_factory=dict)
    full: set[str] = field(default_factory=set)
    broken: bool = False
    calls: list[tuple[set[str], set[str], bool]] = field(default_factory=list)

    async def apply(
        self, upserts: Mapping[str, str], removals: Collection[str], *, complete: bool
    ) -> Mapping[str, Failure]:
        if self.broken:
            self.broken = False
            raise RuntimeError("the sink has a bug")
        self.calls.append((set(upserts), set(removals), complete))
        self.held.update(upserts)
        for key in removals:
            self.held.pop(key, None)
        return {
            key: Failure("RESOURCE_EXHAUSTED", "MAP_FULL", "no room") for key in self.full if key in self.held
        }


class Servicer(identity_pb2_grpc.IdentityServiceServicer):
    def __init__(self, host: StreamHost[str]) -> None:
        self.host = host

    async def SubscribeNodes(self, request_iterator: Any, context: Any) -> None:
        await self.host.serve(context)


def make_host(epoch: int = 7, **options: Any) -> StreamHost[str]:
    host: StreamHost[str] = StreamHost(
        "nodes",
        epoch=epoch,
        registry=CollectorRegistry(),
        **{"timing": QUICK, "codec": NodeNames(), **options},
    )
    host.set_ready(True)
    return host


Issue = Callable[[str], TlsFiles]


@contextlib.asynccontextmanager
async def served(host: StreamHost[str], issue: Issue, port: int = 0) -> AsyncIterator[int]:
    def register(server: grpc.aio.Server) -> list[str]:
        identity_pb2_grpc.add_IdentityServiceServicer_to_server(Servicer(host), server)
        return ["axoneme.api.identity.v1.IdentityService"]

    listener = grpcserver.Listener(f"127.0.0.1:{port}", issue("svc/identity"), TRUST_DOMAIN)
    async with grpcserver.serving([listener], register, drain_seconds=2.0) as server:
        server.on_drain(lambda: host.goodbye_all(GOODBYE))
        yield server.port


@contextlib.asynccontextmanager
async def subscribed(
    port: int, issue: Issue, sink: TableSink, *, node_name: str = "node1", certificate: str = "node/node1"
) -> AsyncIterator[IntentClient[str]]:
    targets = ServiceChannel([f"127.0.0.1:{port}"], issue(certificate), f"identity.{TRUST_DOMAIN}")
    async with targets, TaskScope("client") as scope:
        client: IntentClient[str] = IntentClient(
            "nodes",
            channel=targets,
            open_stream=lambda channel: identity_pb2_grpc.IdentityServiceStub(channel).SubscribeNodes(),
            codec=NodeNamesReader(),
            sink=sink,
            node_name=node_name,
            rng=random.Random(1),
            timing=QUICK,
        )
        scope.start("stream", client.run())
        yield client


async def test_snapshot_then_deltas_and_acks(tls_files: Issue) -> None:
    host, sink = make_host(limits=Limits(batch_resources=2)), TableSink()
    host.apply({"a": "east", "b": "east", "c": "east"}, (), store_revision=5)
    async with served(host, tls_files) as port, subscribed(port, tls_files, sink) as client:
        await asyncio.wait_for(client.wait_synced(), 5)
        assert sink.calls == [({"a", "b", "c"}, set(), True)]
        revision = host.apply({"a": "west"}, ["b"], store_revision=6)
        assert await host.wait_acknowledged(revision, timeout=5) == []
        assert sink.held == {"a": "west", "c": "east"}
        status = client.status()
        assert (status.synced, status.stale_seconds, status.revision, status.error) == (
            True,
            0.0,
            revision,
            "",
        )
        assert host.subscribers() == ["node1"]


async def test_nothing_flows_before_the_table_is_ready(tls_files: Issue) -> None:
    host, sink = make_host(), TableSink()
    host.set_ready(False)
    host.apply({"a": "east"}, (), store_revision=1)
    async with served(host, tls_files) as port, subscribed(port, tls_files, sink) as client:
        await eventually(lambda: client.status().error.startswith("connected"))
        assert await host.wait_acknowledged(host.table.revision, timeout=0.05) == ["node1"]
        assert not client.status().synced
        host.set_ready(True)
        await asyncio.wait_for(client.wait_synced(), 5)


async def test_restart_with_a_new_epoch_writes_only_what_differs(tls_files: Issue) -> None:
    first, sink = make_host(1), TableSink()
    first.apply({"a": "east", "b": "east"}, (), store_revision=1)
    async with contextlib.AsyncExitStack() as stack:
        async with served(first, tls_files) as port:
            client = await stack.enter_async_context(subscribed(port, tls_files, sink))
            await asyncio.wait_for(client.wait_synced(), 5)
        await eventually(lambda: "DRAINING" in client.status().error or client.status().stale_seconds > 0)
        assert sink.held == {"a": "east", "b": "east"}  # fail static
        second = make_host(2)
        second.apply({"a": "east", "c": "east"}, (), store_revision=2)
        await stack.enter_async_context(served(second, tls_files, port))
        await eventually(lambda: client.status().epoch == 2)
        await eventually(lambda: client.status().stale_seconds == 0)
        assert sink.calls[-1] == ({"c"}, {"b"}, True)


async def test_cut_stream_resumes_from_the_change_log(tls_files: Issue) -> None:
    host, sink = make_host(), TableSink()
    host.apply({"a": "east"}, (), store_revision=1)
    async with served(host, tls_files) as port, subscribed(port, tls_files, sink) as client:
        await asyncio.wait_for(client.wait_synced(), 5)
        assert client._call is not None
        client._call.cancel()
        host.apply({"b": "east"}, (), store_revision=2)
        await eventually(lambda: sink.held == {"a": "east", "b": "east"})
        assert [complete for _, _, complete in sink.calls] == [True, False]


async def test_newest_stream_of_a_node_wins(tls_files: Issue) -> None:
    host, sink, other_sink = make_host(), TableSink(), TableSink()
    async with served(host, tls_files) as port, subscribed(port, tls_files, sink) as client:
        await asyncio.wait_for(client.wait_synced(), 5)
        async with subscribed(port, tls_files, other_sink) as other:
            await asyncio.wait_for(other.wait_synced(), 5)
            await eventually(
                lambda: "newer stream" in client.status().error or "newer" in other.status().error
            )
            assert host.subscribers() == ["node1"]


async def test_wrong_node_is_refused_before_any_data(tls_files: Issue) -> None:
    host, sink = make_host(), TableSink()
    host.apply({"a": "east"}, (), store_revision=1)
    async with (
        served(host, tls_files) as port,
        subscribed(port, tls_files, sink, node_name="node2") as client,
    ):
        await eventually(lambda: client.status().error.startswith("PERMISSION_DENIED"))
        assert sink.calls == []
        assert host.subscribers() == []


async def test_failures_reach_the_host_and_heal(tls_files: Issue) -> None:
    host, sink = make_host(), TableSink(full={"a"})
    host.apply({"a": "east", "b": "unreadable"}, (), store_revision=1)
    async with served(host, tls_files) as port, subscribed(port, tls_files, sink) as client:
        await eventually(lambda: set(host.failures().get("node1", {})) == {"a", "b"})
        assert await host.wait_acknowledged(host.table.revision, timeout=1) == []
        assert await host.wait_acknowledged(host.table.revision, keys=["a"], timeout=0.05) == ["node1"]
        sink.full.clear()
        await client.report_failures({})
        await eventually(lambda: set(host.failures()["node1"]) == {"b"})
        host.apply({"b": "east"}, (), store_revision=2)
        await eventually(lambda: host.failures() == {} and sink.held["b"] == "east")


async def test_broken_sink_is_told_everything_again(tls_files: Issue) -> None:
    host, sink = make_host(), TableSink()
    host.apply({"a": "east"}, (), store_revision=1)
    async with served(host, tls_files) as port, subscribed(port, tls_files, sink) as client:
        await asyncio.wait_for(client.wait_synced(), 5)
        sink.broken = True
        host.apply({"b": "east"}, (), store_revision=2)
        await eventually(lambda: sink.calls[-1] == ({"a", "b"}, set(), True))


async def test_drain_says_goodbye_in_less_time_than_it_has(tls_files: Issue) -> None:
    host, sink = make_host(), TableSink()
    async with contextlib.AsyncExitStack() as stack:
        async with served(host, tls_files) as port:
            client = await stack.enter_async_context(subscribed(port, tls_files, sink))
            await asyncio.wait_for(client.wait_synced(), 5)
            started = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - started < 1.9
        await eventually(lambda: client.status().stale_seconds > 0)


async def test_silent_subscriber_is_cut(tls_files: Issue) -> None:
    host = make_host(timing=Timing(stall_seconds=0.1, goodbye_seconds=0.2))
    async with served(host, tls_files) as port:
        targets = ServiceChannel([f"127.0.0.1:{port}"], tls_files("node/node1"), f"identity.{TRUST_DOMAIN}")
        async with targets:
            call = identity_pb2_grpc.IdentityServiceStub(targets.current()).SubscribeNodes()
            await call.write(NodeNamesReader().hello(Hello(node_name="node1")))
            assert (await call.read()).header.snapshot_last
            assert (await call.read()).header.goodbye.reason == "STALLED"
            await call.done_writing()
            assert await call.code() == grpc.StatusCode.ABORTED


async def test_replica_behind_the_subscriber_sends_it_elsewhere(tls_files: Issue) -> None:
    host = make_host(timing=Timing(catch_up_seconds=0.1, goodbye_seconds=0.2))
    host.apply({"a": "east"}, (), store_revision=5)
    async with served(host, tls_files) as port:
        targets = ServiceChannel([f"127.0.0.1:{port}"], tls_files("node/node1"), f"identity.{TRUST_DOMAIN}")
        async with targets:
            stub = identity_pb2_grpc.IdentityServiceStub(targets.current())
            late = stub.SubscribeNodes()
            await late.write(NodeNamesReader().hello(Hello(node_name="node1", store_revision=9)))
            assert (await late.read()).header.goodbye.reason == "STORE_BEHIND"
            waiting = stub.SubscribeNodes()
            await waiting.write(NodeNamesReader().hello(Hello(node_name="node1", store_revision=6)))
            await eventually(lambda: host.subscribers() == ["node1"])
            host.apply({}, (), store_revision=6)
            assert (await waiting.read()).header.snapshot_last


@pytest.mark.parametrize("requests", [[], [identity_pb2.SubscribeNodesRequest()]])
async def test_stream_without_hello_is_refused(tls_files: Issue, requests: list[Any]) -> None:
    async with served(make_host(), tls_files) as port:
        targets = ServiceChannel([f"127.0.0.1:{port}"], tls_files("node/node1"), f"identity.{TRUST_DOMAIN}")
        async with targets:
            call = identity_pb2_grpc.IdentityServiceStub(targets.current()).SubscribeNodes()
            for request in requests:
                await call.write(request)
            await call.done_writing()
            assert await call.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_a_snapshot_holds_its_slot_until_it_is_acknowledged(
    tls_files: Issue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_module, "CONCURRENT_SNAPSHOTS", 1)
    host = make_host(timing=Timing(snapshot_slot_seconds=30.0, goodbye_seconds=0.2))
    host.apply({"a": "east"}, (), store_revision=1)
    reader = NodeNamesReader()
    async with served(host, tls_files) as port, contextlib.AsyncExitStack() as stack:
        calls = []
        for name in ("node1", "node2"):
            tls = tls_files(f"node/{name}")
            targets = ServiceChannel([f"127.0.0.1:{port}"], tls, f"identity.{TRUST_DOMAIN}")
            await stack.enter_async_context(targets)
            call = identity_pb2_grpc.IdentityServiceStub(targets.current()).SubscribeNodes()
            await call.write(reader.hello(Hello(node_name=name)))
            await call.initial_metadata()
            calls.append(call)
        first, second = calls
        update = await first.read()
        waiting = asyncio.ensure_future(second.read())
        host.apply({"a": "west"}, (), store_revision=2)
        changed = await first.read()  # a delta needs no slot
        assert not waiting.done()
        for each in (update, changed):
            await first.write(reader.ack(Ack(nonce=each.header.nonce)))
        assert (await asyncio.wait_for(waiting, 5)).header.snapshot_last


async def test_what_is_serialised_already_passes(tls_files: Issue) -> None:
    class Serialised(NodeNames):
        def encode(self, update: Update[str]) -> Any:
            return super().encode(update).SerializeToString()

    host, sink = make_host(codec=Serialised()), TableSink()
    host.apply({"a": "east"}, (), store_revision=1)
    async with served(host, tls_files) as port, subscribed(port, tls_files, sink):
        await eventually(lambda: sink.held == {"a": "east"})
