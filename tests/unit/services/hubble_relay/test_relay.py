"""The relay against real observers over mTLS: discovery, merge, silent and broken nodes, slow readers."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from axoneme.lib import grpcsettings  # isort: skip  (before grpc)
import grpc
from google.protobuf import field_mask_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry

from axoneme.api.hubble.flow import flow_pb2
from axoneme.api.hubble.observer import observer_pb2, observer_pb2_grpc
from axoneme.api.hubble.peer import peer_pb2, peer_pb2_grpc
from axoneme.api.hubble.relay import relay_pb2
from axoneme.lib import certs, grpcserver
from axoneme.lib.channel import open_channel
from axoneme.lib.errors import InvalidArgument
from axoneme.lib.tls import TlsFiles
from services.hubble_relay.config import RelayConfig
from services.hubble_relay.main import running, semantic_version
from services.hubble_relay.peers import PeerPool, PeerSource
from tests.conftest import TRUST_DOMAIN
from tests.contract.badcerts import write_leaf
from tests.waiting import eventually

assert grpcsettings.ENVIRONMENT

pytestmark = pytest.mark.usefixtures("engine")

Issue = Callable[[str], TlsFiles]


def flow_response(name: str, time_ns: int) -> observer_pb2.GetFlowsResponse:
    response = observer_pb2.GetFlowsResponse(node_name=name, flow=flow_pb2.Flow(node_name=name))
    response.time.FromNanoseconds(time_ns)
    response.flow.time.FromNanoseconds(time_ns)
    return response


@dataclass
class NodeObserver(observer_pb2_grpc.ObserverServicer, peer_pb2_grpc.PeerServicer):
    """A node that serves given flows; `silent` nodes never answer, `error` ones refuse."""

    name: str
    times: list[int] = field(default_factory=list)
    silent: bool = False
    error: str = ""
    endless: bool = False
    peers: list[peer_pb2.ChangeNotification] = field(default_factory=list)
    requests: list[observer_pb2.GetFlowsRequest] = field(default_factory=list)
    sent: int = 0
    released: asyncio.Event = field(default_factory=asyncio.Event)

    async def GetFlows(self, request: Any, context: Any) -> AsyncIterator[observer_pb2.GetFlowsResponse]:
        self.requests.append(request)
        if self.error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, self.error)
        if self.silent:
            await self.released.wait()
        for time_ns in self.times:
            yield flow_response(self.name, time_ns)
        while self.endless:
            self.sent += 1
            response = flow_response(self.name, self.sent)
            response.flow.Summary = "x" * 10_000
            yield response
        if request.follow:
            await self.released.wait()

    async def ServerStatus(self, request: Any, context: Any) -> observer_pb2.ServerStatusResponse:
        if self.silent:
            await self.released.wait()
        return observer_pb2.ServerStatusResponse(
            num_flows=2,
            max_flows=4095,
            seen_flows=9,
            uptime_ns=len(self.name),
            flows_rate=0.5,
            version="v0.1.0",
        )

    async def GetNamespaces(self, request: Any, context: Any) -> observer_pb2.GetNamespacesResponse:
        if self.silent:
            await self.released.wait()
        names = [("east", "default"), ("east", self.name.partition("/")[2])]
        return observer_pb2.GetNamespacesResponse(
            namespaces=[observer_pb2.Namespace(cluster=cluster, namespace=name) for cluster, name in names]
        )

    async def GetNodes(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    async def GetAgentEvents(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    async def GetDebugEvents(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    async def Notify(self, request: Any, context: Any) -> AsyncIterator[peer_pb2.ChangeNotification]:
        for change in self.peers:
            yield change
        await self.released.wait()


@contextlib.asynccontextmanager
async def served(node: NodeObserver, issue: Issue, port: int = 0) -> AsyncIterator[int]:
    def register(server: grpc.aio.Server) -> list[str]:
        observer_pb2_grpc.add_ObserverServicer_to_server(node, server)
        peer_pb2_grpc.add_PeerServicer_to_server(node, server)
        return ["observer.Observer", "peer.Peer"]

    files = issue(f"node/{node.name.partition('/')[2]}")
    listener = grpcserver.Listener(f"127.0.0.1:{port}", files, TRUST_DOMAIN)
    async with grpcserver.serving([listener], register, drain_seconds=0.1) as server:
        try:
            yield server.port
        finally:
            node.released.set()
            node.endless = False


def added(name: str, port: int, host: str = "127.0.0.1") -> peer_pb2.ChangeNotification:
    node = name.partition("/")[2]
    tls = peer_pb2.TLS(server_name=f"{node}.east.hubble-grpc.cilium.io")
    return peer_pb2.ChangeNotification(name=name, address=f"{host}:{port}", type=peer_pb2.PEER_ADDED, tls=tls)


@dataclass
class Relay:
    port: int
    pool: PeerPool
    source: PeerSource
    stub: observer_pb2_grpc.ObserverAsyncStub
    channel: grpc.aio.Channel


@contextlib.asynccontextmanager
async def relay(issue: Issue, *targets: str, **settings: Any) -> AsyncIterator[Relay]:
    files = issue("svc/relay")
    settings.setdefault("flow_server", grpcserver.DEFAULT_ENGINE)
    cfg = RelayConfig(
        listen_address="127.0.0.1:0",
        peer_service=targets,
        ca_file=files.ca,
        cert_file=files.cert,
        key_file=files.key,
        cluster_name="east",
        **{"sort_seconds": 0.1, "node_seconds": 0.5, "retry_seconds": 0.1, "drain_seconds": 0.1, **settings},
    )
    async with running(cfg, CollectorRegistry(), join_seconds=0.05) as (server, pool, source, _):
        channel = open_channel(f"127.0.0.1:{server.port}", issue("user/reader/ann"), f"relay.{TRUST_DOMAIN}")
        async with channel:
            yield Relay(server.port, pool, source, observer_pb2_grpc.ObserverStub(channel), channel)


@contextlib.asynccontextmanager
async def cluster(issue: Issue, *nodes: NodeObserver, **settings: Any) -> AsyncIterator[Relay]:
    """Serves nodes, lets the first one announce all, and waits until the relay has spoken with each."""
    async with contextlib.AsyncExitStack() as stack:
        ports = [await stack.enter_async_context(served(node, issue)) for node in nodes]
        nodes[0].peers += [added(node.name, port) for node, port in zip(nodes, ports, strict=True)]
        running_relay = await stack.enter_async_context(relay(issue, f"127.0.0.1:{ports[0]}", **settings))
        await eventually(lambda: ready(running_relay, {node.name for node in nodes}))
        yield running_relay


def ready(running_relay: Relay, names: set[str]) -> bool:
    states = {name: connection.state_name() for name, connection in running_relay.pool.connections.items()}
    return all(states.get(name) == "READY" for name in names)


async def all_responses(
    running_relay: Relay, request: observer_pb2.GetFlowsRequest
) -> tuple[list[tuple[str, int]], list[relay_pb2.NodeStatusEvent]]:
    flows, events = [], []
    async for response in running_relay.stub.GetFlows(request):
        if response.WhichOneof("response_types") == "node_status":
            events.append(response.node_status)
        else:
            flows.append((response.node_name, response.time.ToNanoseconds()))
    return flows, events


async def test_flows_of_all_nodes_in_time_order(tls_files: Issue) -> None:
    one, two = NodeObserver("east/node1", [10, 30, 50]), NodeObserver("east/node2", [20, 40])
    mask = field_mask_pb2.FieldMask(paths=["time", "IP", "Type", "source.pod_name", "Summary"])
    request = observer_pb2.GetFlowsRequest(number=2**64 - 1, field_mask=mask)
    async with cluster(tls_files, one, two) as running_relay:
        flows, events = await all_responses(running_relay, request)
    assert [time_ns for _, time_ns in flows] == [10, 20, 30, 40, 50]
    assert [(e.state_change, list(e.node_names)) for e in events] == [
        (relay_pb2.NODE_CONNECTED, ["east/node1", "east/node2"])
    ]
    assert one.requests == two.requests == [request]


async def test_silent_node_is_named_and_delays_by_its_deadline_only(tls_files: Issue) -> None:
    one, two = NodeObserver("east/node1", [10]), NodeObserver("east/node2", silent=True)
    async with cluster(tls_files, one, two) as running_relay:
        started = time.monotonic()
        flows, events = await all_responses(running_relay, observer_pb2.GetFlowsRequest(number=5))
        assert time.monotonic() - started < 3
        assert flows == [("east/node1", 10)]
        assert events[-1].state_change == relay_pb2.NODE_ERROR
        assert list(events[-1].node_names) == ["east/node2"]
        assert "did not answer within 0.5 s" in events[-1].message
        status = await running_relay.stub.ServerStatus(observer_pb2.ServerStatusRequest())
        assert list(status.unavailable_nodes) == ["east/node2"]
        nodes = await running_relay.stub.GetNodes(observer_pb2.GetNodesRequest())
        assert [node.state for node in nodes.nodes] == [relay_pb2.NODE_CONNECTED, relay_pb2.NODE_ERROR]
        assert "no answer" in nodes.nodes[1].version


async def test_bad_filter_is_one_error_event_for_all_nodes(tls_files: Issue) -> None:
    nodes = [NodeObserver(f"east/node{number}", error="invalid filter") for number in (1, 2)]
    async with cluster(tls_files, *nodes) as running_relay:
        flows, events = await all_responses(running_relay, observer_pb2.GetFlowsRequest(number=5))
    assert flows == []
    assert [sorted(event.node_names) for event in events[1:]] == [["east/node1", "east/node2"]]
    assert "INVALID_ARGUMENT" in events[1].message
    assert "invalid filter" in events[1].message


async def test_unary_calls_sum_and_join_the_nodes(tls_files: Issue) -> None:
    async with cluster(tls_files, NodeObserver("east/node1"), NodeObserver("east/node2")) as running_relay:
        call = running_relay.stub.ServerStatus(observer_pb2.ServerStatusRequest())
        status = await call
        assert (status.num_flows, status.max_flows, status.seen_flows, status.flows_rate) == (
            4,
            8190,
            18,
            1.0,
        )
        assert (status.num_connected_nodes.value, status.num_unavailable_nodes.value) == (2, 0)
        assert status.version.startswith("hubble-relay v")
        assert dict(await call.initial_metadata())["hubble-relay-version"].count(".") == 2
        namespaces = await running_relay.stub.GetNamespaces(observer_pb2.GetNamespacesRequest())
        assert [n.namespace for n in namespaces.namespaces] == ["default", "node1", "node2"]
        nodes = await running_relay.stub.GetNodes(observer_pb2.GetNodesRequest())
        assert [(n.name, n.tls.server_name) for n in nodes.nodes] == [
            ("east/node1", "node1.east.hubble-grpc.cilium.io"),
            ("east/node2", "node2.east.hubble-grpc.cilium.io"),
        ]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await running_relay.stub.GetAgentEvents(observer_pb2.GetAgentEventsRequest()).read()
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_unreachable_nodes_say_why_and_health_stays(tls_files: Issue, unused_tcp_port: int) -> None:
    one, two = NodeObserver("east/node1", [10]), NodeObserver("east/node2")
    async with served(two, tls_files) as two_port:
        wrong_name = added("east/node3", two_port)
        nowhere = added("east/node4", 4244, "no-such-host.invalid")
        one.peers += [wrong_name, nowhere, added("east/node5", unused_tcp_port)]
        async with cluster(tls_files, one) as running_relay:
            await eventually(
                lambda: sum(not c.available for c in running_relay.pool.connections.values()) == 3
            )
            answer = await running_relay.stub.GetNodes(observer_pb2.GetNodesRequest())
            reasons = {node.name: node.version for node in answer.nodes}
            assert "TLS" in reasons["east/node3"]
            assert "node3.east.hubble-grpc.cilium.io" in reasons["east/node3"]
            assert "DNS" in reasons["east/node4"]
            assert "port" in reasons["east/node5"]
            assert "refused" in reasons["east/node5"]
            flows, events = await all_responses(running_relay, observer_pb2.GetFlowsRequest(number=5))
            assert flows == [("east/node1", 10)]
            messages = {event.message: list(event.node_names) for event in events[1:]}
            assert sorted(message[:3] for message in messages) == ["DNS", "TLS", "por"]
            health = health_pb2_grpc.HealthStub(running_relay.channel)  # type: ignore[no-untyped-call]
            for name in ("", "observer.Observer", "hubble.server.Observer"):
                response = await health.Check(health_pb2.HealthCheckRequest(service=name))
                assert response.status == health_pb2.HealthCheckResponse.SERVING


async def test_follow_takes_in_nodes_that_come_back(tls_files: Issue) -> None:
    one, two = NodeObserver("east/node1", [10]), NodeObserver("east/node2", [20])
    async with contextlib.AsyncExitStack() as stack:
        one_port = await stack.enter_async_context(served(one, tls_files))
        first = contextlib.AsyncExitStack()
        two_port = await first.enter_async_context(served(two, tls_files))
        one.peers += [added("east/node1", one_port), added("east/node2", two_port)]
        running_relay = await stack.enter_async_context(relay(tls_files, f"127.0.0.1:{one_port}"))
        await eventually(lambda: ready(running_relay, {"east/node1", "east/node2"}))
        seen: list[tuple[str, int]] = []
        call = running_relay.stub.GetFlows(observer_pb2.GetFlowsRequest(follow=True, number=7))

        async def read_until(wanted: tuple[str, int]) -> None:
            while wanted not in seen:
                response = await asyncio.wait_for(call.read(), 10)
                seen.append((response.node_name, response.time.ToNanoseconds()))

        await read_until(("east/node2", 20))
        await first.aclose()
        again = NodeObserver("east/node2", [30])
        await stack.enter_async_context(served(again, tls_files, two_port))
        await read_until(("east/node2", 30))
        assert again.requests[0].since.ToNanoseconds() == 21
        assert again.requests[0].number == 0
        call.cancel()


async def test_slow_reader_holds_up_the_nodes_instead_of_the_memory(tls_files: Issue) -> None:
    node = NodeObserver("east/node1", endless=True)
    async with cluster(tls_files, node) as running_relay:
        call = running_relay.stub.GetFlows(observer_pb2.GetFlowsRequest(follow=True))
        await call.read()
        counts = [0]

        def settled() -> bool:
            counts.append(node.sent)
            return counts[-1] > 0 and len(counts) > 12 and counts[-1] == counts[-5]

        await eventually(settled)
        assert node.sent < 5_000
        call.cancel()


async def test_peer_service_fails_over_and_known_nodes_stay(tls_files: Issue, unused_tcp_port: int) -> None:
    one, two = NodeObserver("east/node1", [10]), NodeObserver("east/node2", [20])
    async with contextlib.AsyncExitStack() as stack:
        ports = [await stack.enter_async_context(served(node, tls_files)) for node in (one, two)]
        one.peers = [added("east/node1", ports[0]), added("east/node2", ports[1])]
        targets = (f"127.0.0.1:{unused_tcp_port}", f"127.0.0.1:{ports[0]}")
        running_relay = await stack.enter_async_context(relay(tls_files, *targets))
        await eventually(lambda: ready(running_relay, {"east/node1", "east/node2"}))
        one.peers = [added("east/node1", ports[0])]  # it restarts and does not know its neighbours yet
        one.released.set()
        await eventually(lambda: "refused" in running_relay.source.error)
        await eventually(lambda: "ended" in running_relay.source.error)
        assert ready(running_relay, {"east/node1", "east/node2"})


async def test_followed_queries_end_when_the_relay_stops(tls_files: Issue) -> None:
    node = NodeObserver("east/node1", [10])
    async with contextlib.AsyncExitStack() as stack:
        port = await stack.enter_async_context(served(node, tls_files))
        node.peers = [added("east/node1", port)]
        stopping = contextlib.AsyncExitStack()
        running_relay = await stopping.enter_async_context(
            relay(tls_files, f"127.0.0.1:{port}", drain_seconds=30.0)
        )
        await eventually(lambda: ready(running_relay, {"east/node1"}))
        channel = open_channel(
            f"127.0.0.1:{running_relay.port}", tls_files("user/reader/ann"), "relay.east.mesh"
        )
        async with channel:
            follow = observer_pb2.GetFlowsRequest(follow=True, number=1)
            call = observer_pb2_grpc.ObserverStub(channel).GetFlows(follow)
            while (await call.read()).node_name != "east/node1":
                continue
            started = time.monotonic()
            await stopping.aclose()
            assert time.monotonic() - started < 5
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await asyncio.wait_for(call.read(), 5)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_peer_that_went_away_is_not_asked(tls_files: Issue) -> None:
    one, two = NodeObserver("east/node1", [10]), NodeObserver("east/node2", [20])
    async with cluster(tls_files, one, two) as running_relay:
        await running_relay.pool.delete("east/node2")
        flows, events = await all_responses(running_relay, observer_pb2.GetFlowsRequest(number=1))
        assert flows == [("east/node1", 10)]
        assert [list(event.node_names) for event in events] == [["east/node1"]]


@pytest.mark.parametrize(
    ("version", "semantic"), [("0.1.0.dev0", "0.1.0"), ("1.2", "1.2.0"), ("1.2.3+local.1", "1.2.3")]
)
def test_semantic_version(version: str, semantic: str) -> None:
    assert semantic_version(version) == semantic


async def test_a_stock_certificate_gets_the_role_of_its_name(
    tls_files: Issue, ca_directory: Path, tmp_path: Path
) -> None:
    """Certificates of Cilium's own tools carry no URI: only a configured name makes them somebody."""
    name = "*.hubble-relay.cilium.io"
    stock = write_leaf(certs.load_ca(ca_directory), tmp_path / "stock", dns=[name])

    async def status(**settings: Any) -> observer_pb2.ServerStatusResponse:
        async with (
            relay(tls_files, "127.0.0.1:1", **settings) as running_relay,
            open_channel(f"127.0.0.1:{running_relay.port}", stock, "localhost") as channel,
        ):
            stub = observer_pb2_grpc.ObserverStub(channel)
            answer: observer_pb2.ServerStatusResponse = await stub.ServerStatus(
                observer_pb2.ServerStatusRequest(), timeout=10
            )
            return answer

    with pytest.raises(grpc.RpcError) as refused:
        await status()
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert (await status(certificate_names=(f"{name}=user/reader/stock",))).version
    with pytest.raises(InvalidArgument, match="certificate_names"):
        await status(certificate_names=("no role",))
