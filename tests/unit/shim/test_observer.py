"""The Observer API over a real gRPC connection on a unix socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from axoneme.lib import grpcserver  # isort: skip  (before grpc)
import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from grpc_health.v1 import health_pb2, health_pb2_grpc

from axoneme.api.hubble.flow import flow_pb2
from axoneme.api.hubble.observer import observer_pb2, observer_pb2_grpc
from axoneme.api.hubble.peer import peer_pb2, peer_pb2_grpc
from axoneme.lib import certs
from axoneme.lib.channel import open_channel
from axoneme.lib.tls import TlsFiles
from shim.flows.decode import timestamp
from shim.flows.feed import FlowFeed
from shim.observer import ObserverService
from shim.peer import PeerNode, PeerService, PeerTable, tls_server_name
from tests.unit.shim.flows.scene import BOOT_OFFSET_NS, Clock, event, events, make_feed

MASK = ["time", "verdict", "IP", "l4", "source.identity", "source.pod_name", "Type", "Summary", "is_reply"]


class Node:
    """A served observer and its parts."""

    def __init__(self, capacity: int = 64) -> None:
        self.feed, decoder, self.clock = make_feed(capacity)
        self.service = ObserverService(
            self.feed, decoder, version="0.1.0", boot_clock_ns=self.clock, started_ns=1_000_000_000
        )
        self.stub: Any = None

    async def flows(self, **request: Any) -> list[observer_pb2.GetFlowsResponse]:
        return [response async for response in self.stub.GetFlows(observer_pb2.GetFlowsRequest(**request))]

    async def ports(self, **request: Any) -> list[int]:
        return [r.flow.l4.TCP.source_port for r in await self.flows(**request)]


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    node = Node()
    address = f"unix://{tmp_path}/observer.sock"
    async with (
        grpcserver.serving([grpcserver.Listener(address)], node.service.add_to, drain_seconds=0.0),
        grpc.aio.insecure_channel(address) as channel,
    ):
        node.stub = observer_pb2_grpc.ObserverStub(channel)
        yield node


def fill(feed: FlowFeed, numbers: Iterator[int] | range, **values: Any) -> None:
    feed.append(events(*[event(time_ns=n * 1_000_000, source_port=n, **values) for n in numbers]))


async def test_last_first_and_all(node: Node) -> None:
    fill(node.feed, range(10))
    assert await node.ports(number=3) == [7, 8, 9]
    assert await node.ports(number=3, first=True) == [0, 1, 2]
    assert await node.ports(number=2**64 - 1) == list(range(10))
    assert await node.ports() == list(range(10))


async def test_an_empty_store_answers_at_once(node: Node) -> None:
    assert await node.flows(number=20) == []
    assert await node.flows(first=True) == []


async def test_filters_count_matches_only(node: Node) -> None:
    fill(node.feed, range(10))
    fill(node.feed, range(10, 14), verdict=flow_pb2.DROPPED, drop_reason=133)
    dropped = flow_pb2.FlowFilter(verdict=[flow_pb2.DROPPED])
    assert await node.ports(number=2, whitelist=[dropped]) == [12, 13]
    assert await node.ports(number=3, blacklist=[dropped]) == [7, 8, 9]
    web = flow_pb2.FlowFilter(source_pod=["shop/web"])
    assert await node.ports(number=2, whitelist=[web]) == [12, 13]
    assert await node.ports(number=2, whitelist=[flow_pb2.FlowFilter(source_pod=["shop/api"])]) == []


async def test_time_range(node: Node) -> None:
    fill(node.feed, range(10))
    since, until = timestamp(BOOT_OFFSET_NS + 4_000_000), timestamp(BOOT_OFFSET_NS + 6_000_000)
    assert await node.ports(since=since) == [4, 5, 6, 7, 8, 9]
    assert await node.ports(since=since, until=until) == [4, 5, 6]
    assert await node.ports(until=until, number=2) == [5, 6]
    assert await node.ports(since=since, first=True, number=2) == [4, 5]


async def test_follow_delivers_what_arrives(node: Node) -> None:
    fill(node.feed, range(3))
    call = node.stub.GetFlows(observer_pb2.GetFlowsRequest(follow=True, number=1))
    assert (await call.read()).flow.l4.TCP.source_port == 2
    fill(node.feed, range(3, 5))
    assert [(await call.read()).flow.l4.TCP.source_port for _ in range(2)] == [3, 4]
    call.cancel()


async def test_follow_alone_starts_at_the_end(node: Node) -> None:
    fill(node.feed, range(3))
    call = node.stub.GetFlows(observer_pb2.GetFlowsRequest(follow=True))
    await call.initial_metadata()
    await asyncio.wait_for(call.wait_for_connection(), 5)
    fill(node.feed, range(3, 4))
    assert (await call.read()).flow.l4.TCP.source_port == 3
    call.cancel()


async def test_follow_ends_at_until(node: Node) -> None:
    until = timestamp(BOOT_OFFSET_NS + node.clock.now_ns - 1)
    assert await node.flows(follow=True, until=until) == []


async def test_a_reader_that_was_overtaken_is_told_how_much(node: Node) -> None:
    fill(node.feed, range(2))
    call = node.stub.GetFlows(observer_pb2.GetFlowsRequest(follow=True, number=1))
    assert (await call.read()).flow.l4.TCP.source_port == 1
    fill(node.feed, range(2, 102))
    lost = await call.read()
    assert lost.lost_events.source == flow_pb2.HUBBLE_RING_BUFFER
    assert lost.lost_events.num_events_lost == 36
    assert (await call.read()).flow.l4.TCP.source_port == 38
    call.cancel()


async def test_losses_of_the_datapath_stand_where_they_happened(node: Node) -> None:
    fill(node.feed, range(2))
    node.clock.now_ns += 5
    node.feed.add_lost(7)
    fill(node.feed, range(2, 4))
    responses = await node.flows()
    assert [response.WhichOneof("response_types") for response in responses] == [
        "flow",
        "flow",
        "lost_events",
        "flow",
        "flow",
    ]
    lost = responses[2].lost_events
    assert (lost.source, lost.num_events_lost) == (flow_pb2.PERF_EVENT_RING_BUFFER, 7)
    assert lost.last == timestamp(BOOT_OFFSET_NS + node.clock.now_ns)
    assert not lost.HasField("cpu")


async def test_follow_tells_losses_of_the_datapath(node: Node) -> None:
    call = node.stub.GetFlows(observer_pb2.GetFlowsRequest(follow=True))
    await call.initial_metadata()
    node.feed.add_lost(3)
    assert (await call.read()).lost_events.num_events_lost == 3
    node.feed.add_lost(0)
    fill(node.feed, range(1))
    assert (await call.read()).HasField("flow")
    call.cancel()


async def test_the_field_mask_keeps_the_outer_time_and_node(node: Node) -> None:
    fill(node.feed, range(5, 6))
    (response,) = await node.flows(field_mask=FieldMask(paths=MASK))
    assert response.node_name == "east/node1"
    assert response.time == timestamp(BOOT_OFFSET_NS + 5_000_000)
    assert response.flow.source.pod_name == "web-1"
    assert response.flow.source.namespace == ""
    assert response.flow.Summary == "TCP Flags: SYN"
    assert response.flow.HasField("is_reply")
    (bare,) = await node.flows(field_mask=FieldMask(paths=["verdict"]))
    assert bare.time == response.time
    assert not bare.flow.HasField("IP")


@pytest.mark.parametrize(
    ("request_fields", "code", "text"),
    [
        ({"first": True, "follow": True}, "INVALID_ARGUMENT", "first: cannot be specified with follow"),
        ({"field_mask": FieldMask(paths=["nonsense"])}, "INVALID_ARGUMENT", "'nonsense' is not a field"),
        ({"whitelist": [flow_pb2.FlowFilter(source_ip=["x"])]}, "INVALID_ARGUMENT", "whitelist[0].source_ip"),
        ({"blacklist": [flow_pb2.FlowFilter(http_path=["("])]}, "INVALID_ARGUMENT", "blacklist[0].http_path"),
    ],
)
async def test_bad_requests_are_refused_by_name(
    node: Node, request_fields: Any, code: str, text: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await node.flows(**request_fields)
    assert caught.value.code() == grpc.StatusCode[code]
    assert text in (caught.value.details() or "")


async def test_status(node: Node) -> None:
    fill(node.feed, range(100))
    status = await node.stub.ServerStatus(observer_pb2.ServerStatusRequest())
    assert (status.num_flows, status.max_flows, status.seen_flows) == (64, 64, 100)
    assert status.uptime_ns == 9_000_000_000
    assert status.version == "axoneme v0.1.0"
    assert status.flows_rate == pytest.approx(64 / (10 - 0.036), rel=0.01)
    assert not status.HasField("num_connected_nodes")


async def test_status_of_an_empty_store(node: Node) -> None:
    assert (await node.stub.ServerStatus(observer_pb2.ServerStatusRequest())).flows_rate == 0


async def test_namespaces(node: Node) -> None:
    fill(node.feed, range(3))
    answer = await node.stub.GetNamespaces(observer_pb2.GetNamespacesRequest())
    assert [(n.cluster, n.namespace) for n in answer.namespaces] == [("east", "shop")]


async def test_the_version_header(node: Node) -> None:
    call = node.stub.GetFlows(observer_pb2.GetFlowsRequest())
    assert ("hubble-server-version", "0.1.0") in [tuple(pair) for pair in await call.initial_metadata()]


async def test_what_a_node_does_not_answer(node: Node) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="relay"):
        await node.stub.GetNodes(observer_pb2.GetNodesRequest())
    call = node.stub.GetAgentEvents(observer_pb2.GetAgentEventsRequest())
    with pytest.raises(grpc.aio.AioRpcError, match="records flows only"):
        await call.read()


def test_the_clock_of_tests_stands() -> None:
    assert Clock()() == Clock()()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TlsFiles]:
    ca = tmp_path_factory.mktemp("certificates")
    certs.create_ca(ca / "ca", "east.mesh")
    files = {}
    for role, name in (("node", "node1"), ("svc", "relay"), ("svc", "identity")):
        out = ca / name
        certs.issue(ca / "ca", role, name, out)
        files[name] = TlsFiles(out / "ca.crt", out / "tls.crt", out / "tls.key")
    return files


async def test_the_relay_reads_flows_and_peers_over_mutual_tls(certificates: dict[str, TlsFiles]) -> None:
    node, table = Node(), PeerTable()
    table.upsert(PeerNode(cluster="east", name="node1", address="192.0.2.1"))
    fill(node.feed, range(2))
    listener = grpcserver.Listener("127.0.0.1:0", certificates["node1"], "east.mesh")

    def register(server: grpc.aio.Server) -> list[str]:
        return [*node.service.add_to(server), *PeerService(table).add_to(server)]

    async with grpcserver.serving([listener], register, drain_seconds=0.0) as server:
        server.set_serving("", True)
        target = f"127.0.0.1:{server.port}"
        async with open_channel(target, certificates["relay"], tls_server_name("node1", "east")) as channel:
            call = peer_pb2_grpc.PeerStub(channel).Notify(peer_pb2.NotifyRequest())
            assert (await call.read()).tls.server_name == "node1.east.hubble-grpc.cilium.io"
            node.stub = observer_pb2_grpc.ObserverStub(channel)
            assert await node.ports(number=1) == [1]
            health = health_pb2_grpc.HealthStub(channel)
            answer = await health.Check(health_pb2.HealthCheckRequest(service="hubble.server.Observer"))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        async with open_channel(
            target, certificates["identity"], tls_server_name("node1", "east")
        ) as channel:
            node.stub = observer_pb2_grpc.ObserverStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await node.flows(number=1)
            assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
