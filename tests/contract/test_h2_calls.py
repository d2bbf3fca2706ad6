"""gRPC over our own HTTP/2, seen from the wire: heads, statuses, windows, deadlines, slow readers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from axoneme.lib import channel, edge, grpcserver  # isort: skip  (before grpc)
import grpc
import grpc.aio
from prometheus_client import CollectorRegistry

from axoneme.api.identity.v1 import identity_pb2 as pb
from axoneme.api.identity.v1 import identity_pb2_grpc
from axoneme.lib.h2server import H2Server, Limits, frames
from axoneme.lib.h2server.faults import ErrorCode
from axoneme.lib.roles import LOCAL_ADMIN
from axoneme.lib.tls import TlsFiles
from tests.conftest import TRUST_DOMAIN
from tests.contract.identityserver import NAME, TinyIdentity, tiny_server
from tests.contract.rawhttp2 import RawClient, raw_client
from tests.waiting import eventually

Issue = Callable[[str], TlsFiles]
LIST_NODES, GET_IDENTITY, WATCH = f"/{NAME}/ListNodes", f"/{NAME}/GetIdentity", f"/{NAME}/WatchIdentities"
LARGE = pb.WatchIdentitiesResponse(bookmark=True).SerializeToString() + b"\xa2\x06\x90\x4e" + bytes(10_000)
"""10 kB, most of them in a field that the client does not know."""


class Endless(TinyIdentity):
    """Streams as fast as it can, one by one or in lists."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = 0
        self.ended = False

    async def WatchIdentities(self, request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            while True:
                self.sent += 1
                yield LARGE
        finally:
            self.ended = True

    async def WatchNodes(self, request: Any, context: Any) -> AsyncIterator[Any]:  # type: ignore[override]
        nodes = [pb.WatchNodesResponse(bookmark=True).SerializeToString()] * 3
        yield nodes
        yield [pb.WatchNodesResponse(bookmark=True), *nodes]


@contextlib.asynccontextmanager
async def plain_server(servicer: TinyIdentity, **limits: Any) -> AsyncIterator[tuple[int, H2Server]]:
    """The server alone, by plaintext, with limits of one's own."""
    guard = edge.Edge(lambda _: LOCAL_ADMIN, edge.EdgeMetrics.of(CollectorRegistry()))
    server = H2Server(guard, Limits(**limits))
    identity_pb2_grpc.add_IdentityServiceServicer_to_server(servicer, server)  # type: ignore[arg-type]
    port = server.add_tcp("127.0.0.1:0", None)
    await server.start()
    try:
        yield port, server
    finally:
        await server.stop(0.1)


@pytest.fixture
async def client() -> AsyncIterator[RawClient]:
    async with plain_server(TinyIdentity()) as (port, _), raw_client(port, None) as opened:
        opened.greet()
        yield opened


@pytest.mark.parametrize(
    ("changed", "status", "message"),
    [
        ({}, "0", ""),
        ({"grpc_encoding": "gzip"}, "12", "compression gzip"),
        ({"grpc_encoding": "identity"}, "0", ""),
        ({"te": ""}, "13", "te: trailers"),
        ({"grpc_timeout": "123456789S"}, "13", "grpc-timeout"),
        ({"grpc_timeout": "5x"}, "13", "grpc-timeout"),
        ({"grpc_timeout": "10S"}, "0", ""),
        ({"x_long": "y" * 9_000}, "8", "metadata"),
        ({"x-bin": "!"}, "13", "base64"),
        ({"content-type": "application/grpc+proto"}, "0", ""),
        ({":path": "/no.Service/Method"}, "7", "may not call"),
    ],
)
async def test_heads_are_checked(
    client: RawClient, changed: dict[str, str], status: str, message: str
) -> None:
    client.call(1, LIST_NODES, **changed)
    fields = await client.fields(1)
    assert fields[":status"] == "200"
    assert fields["content-type"] == "application/grpc"
    assert fields["grpc-status"] == status
    assert message in fields.get("grpc-message", "")


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({":method": "GET"}, "405"),
        ({"content-type": "text/html"}, "415"),
        ({"content-type": "application/grpc-web"}, "415"),
        ({"content-type": ""}, "415"),
    ],
)
async def test_what_is_no_grpc_gets_an_http_status(
    client: RawClient, changed: dict[str, str], status: str
) -> None:
    client.call(1, LIST_NODES, **changed)
    assert (await client.fields(1))[":status"] == status


@pytest.mark.parametrize(
    "changed", [{"te": "gzip"}, {"connection": "close"}, {"X-Upper": "1"}, {":path": ""}, {":other": "1"}]
)
async def test_malformed_heads_reset_their_stream_only(client: RawClient, changed: dict[str, str]) -> None:
    client.call(1, LIST_NODES, **changed)
    reset = await client.until(frames.RST_STREAM, 1)
    assert int.from_bytes(reset.payload, "big") == ErrorCode.PROTOCOL_ERROR
    client.call(3, LIST_NODES)
    assert (await client.fields(3))["grpc-status"] == "0"


async def test_messages_are_percent_encoded(client: RawClient) -> None:
    client.call(1, GET_IDENTITY, pb.GetIdentityRequest(identity=7).SerializeToString())
    fields = await client.fields(1)
    assert fields["grpc-status"] == "3"
    assert fields["grpc-message"].startswith("%C3%BC%C3%BC")
    assert fields["grpc-status-details-bin"]


async def test_ping_is_answered_and_settings_are_acknowledged(client: RawClient) -> None:
    client.writer.write(frames.frame(frames.PING, 0, 0, b"12345678"))
    assert (await client.until(frames.PING, flags=frames.ACK)).payload == b"12345678"
    await client.until(frames.SETTINGS, flags=frames.ACK)


async def test_deadline_of_the_client_ends_the_handler() -> None:
    servicer = TinyIdentity()
    async with plain_server(servicer) as (port, _), raw_client(port, None) as client:
        client.greet()
        client.call(1, WATCH, grpc_timeout="200m")
        await client.until(frames.DATA, 1)
        assert servicer.open_streams == 1
        assert (await client.fields(1))["grpc-status"] == "4"
        assert servicer.open_streams == 0


async def test_windows_are_kept_and_a_reader_that_stops_is_cut() -> None:
    """Exactly the window arrives, the handler stands still, and after the stall time the status says why."""
    servicer = Endless()
    async with plain_server(servicer, stall_seconds=0.3) as (port, _), raw_client(port, None) as client:
        client.greet(window=1_000)
        client.call(1, WATCH)
        fields = await client.fields(1)
        data = sum(len(one.payload) for one in client.frames if one.kind == frames.DATA)
        assert data == 1_000
        assert fields["grpc-status"] == "8"
        assert "the reader took less" in fields["grpc-message"]
        assert servicer.sent <= 1 + Limits().stream_buffer_bytes // len(LARGE) + 1


async def test_a_grown_window_goes_on() -> None:
    async with plain_server(Endless()) as (port, _), raw_client(port, None) as reader:
        reader.greet(window=100)
        reader.call(1, WATCH)
        await reader.until(frames.DATA, 1)
        reader.writer.write(frames.window_update(1, 50))

        def received() -> int:
            return sum(len(one.payload) for one in reader.frames if one.kind == frames.DATA)

        while received() < 150:
            assert await reader.read()
        assert received() == 150


async def test_more_calls_than_allowed_are_refused() -> None:
    servicer = TinyIdentity()
    async with plain_server(servicer, streams=2) as (port, _), raw_client(port, None) as client:
        client.greet()
        for stream_id in (1, 3, 5):
            client.call(stream_id, WATCH)
        reset = await client.until(frames.RST_STREAM, 5)
        assert int.from_bytes(reset.payload, "big") == ErrorCode.REFUSED_STREAM
        client.writer.write(frames.rst_stream(1, ErrorCode.CANCEL))
        await eventually(lambda: servicer.open_streams == 1)
        client.call(7, WATCH)
        await client.until(frames.DATA, 7)


async def test_a_client_that_does_not_answer_is_cut() -> None:
    limits = {"keepalive_seconds": 0.1, "keepalive_timeout_seconds": 0.1}
    async with plain_server(TinyIdentity(), **limits) as (port, _), raw_client(port, None) as client:
        client.greet()
        client.call(1, WATCH)
        await client.until_closed()
        assert any(one.kind == frames.PING for one in client.frames)


async def test_connections_are_limited() -> None:
    async with plain_server(TinyIdentity(), connections=1) as (port, _), raw_client(port, None) as first:
        first.greet()
        await first.until(frames.SETTINGS)
        async with raw_client(port, None) as second:
            second.greet()
            await second.until_closed()
        first.call(1, LIST_NODES)
        assert (await first.fields(1))["grpc-status"] == "0"


async def test_stop_says_goaway_and_ends_calls_as_unavailable() -> None:
    async with plain_server(TinyIdentity()) as (port, server), raw_client(port, None) as client:
        client.greet()
        client.call(1, WATCH)
        await client.until(frames.DATA, 1)
        stopping = asyncio.ensure_future(server.stop(0.2))
        await client.until(frames.GOAWAY)
        assert client.goaway_code() == ErrorCode.NO_ERROR
        assert (await client.fields(1))["grpc-status"] == "14"
        await client.until_closed()
        await stopping


async def test_a_handler_may_yield_lists_under_both_servers(tls_files: Issue, engine: str) -> None:
    listener = grpcserver.Listener("127.0.0.1:0", tls_files("svc/identity"), TRUST_DOMAIN)
    async with tiny_server([listener], Endless(), engine=engine) as server:
        target = f"127.0.0.1:{server.port}"
        async with channel.open_channel(
            target, tls_files("user/reader/ann"), f"identity.{TRUST_DOMAIN}"
        ) as opened:
            stream = identity_pb2_grpc.IdentityServiceStub(opened).WatchNodes(pb.WatchNodesRequest())
            received = [message.bookmark async for message in stream]
    assert received == [True] * 7


async def drained(stream: Any) -> None:
    while await stream.read() is not grpc.aio.EOF:
        pass


async def test_a_grpc_client_that_does_not_read_is_told_why() -> None:
    """Its library takes in a window, the handler stands still, and after what came follows the status."""
    servicer = Endless()
    async with (
        plain_server(servicer, stall_seconds=0.5) as (port, _),
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as opened,
    ):
        stream = identity_pb2_grpc.IdentityServiceStub(opened).WatchIdentities(pb.WatchIdentitiesRequest())
        await stream.read()
        await eventually(lambda: servicer.ended)
        assert servicer.sent * len(LARGE) < 64 * 2**20
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await drained(stream)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_answers_that_nobody_takes_are_not_kept() -> None:
    """Handlers that have ended: their streams count as open, and are cut like those that still run."""
    limits = {"stall_seconds": 0.3, "streams": 5}
    async with plain_server(TinyIdentity(), **limits) as (port, _), raw_client(port, None) as client:
        client.greet(window=10)
        for stream_id in range(1, 13, 2):
            client.call(stream_id, f"/{NAME}/ListIdentities")
        reset = await client.until(frames.RST_STREAM, 11)
        assert int.from_bytes(reset.payload, "big") == ErrorCode.REFUSED_STREAM
        for stream_id in range(1, 11, 2):
            await client.until(frames.HEADERS, stream_id, frames.END_STREAM)
