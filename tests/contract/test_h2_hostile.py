"""HTTP/2 of a client that means harm: the connection ends, the memory stays, others are served meanwhile.

The inputs are those of RELIABILITY.md 3e, from a client that holds a certificate.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from axoneme.lib import channel, grpcserver, rpcerrors  # isort: skip  (before grpc)
import grpc
import grpc.aio
from hpack.hpack import Encoder

from axoneme.api.identity.v1 import identity_pb2 as pb
from axoneme.api.identity.v1 import identity_pb2_grpc
from axoneme.lib.h2server import frames
from axoneme.lib.h2server.faults import ErrorCode
from axoneme.lib.tls import TlsFiles
from tests.conftest import TRUST_DOMAIN
from tests.contract.identityserver import NAME, TinyIdentity, tiny_server
from tests.contract.rawhttp2 import RawClient, raw_client, request_fields

Issue = Callable[[str], TlsFiles]
LIST_NODES = f"/{NAME}/ListNodes"
CALM = ErrorCode.ENHANCE_YOUR_CALM
MEMORY_MIB = 64
BATCH = 200


@pytest.fixture
async def port(tls_files: Issue) -> AsyncIterator[int]:
    listener = grpcserver.Listener("127.0.0.1:0", tls_files("svc/identity"), TRUST_DOMAIN)
    async with tiny_server([listener], TinyIdentity(), engine="h2") as server:
        yield server.port


@pytest.fixture
async def attacker(port: int, tls_files: Issue) -> AsyncIterator[RawClient]:
    async with raw_client(port, tls_files("user/reader/eve")) as client:
        yield client


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextlib.asynccontextmanager
async def neighbour(port: int, files: TlsFiles) -> AsyncIterator[list[float]]:
    """Calls all the time from another connection; gives the seconds that each call took."""
    seconds: list[float] = []

    async def ask(stub: identity_pb2_grpc.IdentityServiceAsyncStub) -> None:
        while True:
            begun = time.monotonic()
            await stub.ListNodes(pb.ListNodesRequest(), timeout=10)
            seconds.append(time.monotonic() - begun)

    async with channel.open_channel(f"127.0.0.1:{port}", files, f"identity.{TRUST_DOMAIN}") as opened:
        stub = identity_pb2_grpc.IdentityServiceStub(opened)
        await stub.ListNodes(pb.ListNodesRequest(), timeout=10)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(ask(stub))
            yield seconds
            await stub.ListNodes(pb.ListNodesRequest(), timeout=10)
            task.cancel()


def batched(pieces: Iterator[bytes]) -> Iterator[bytes]:
    while joined := b"".join(itertools.islice(pieces, BATCH)):
        yield joined


def rapid_reset() -> Iterator[bytes]:
    encoder = Encoder()
    for stream_id in range(1, 80_000, 2):
        block = encoder.encode(request_fields(LIST_NODES))
        yield frames.frame(frames.HEADERS, frames.END_HEADERS, stream_id, block)
        yield frames.rst_stream(stream_id, ErrorCode.CANCEL)


def continuations(size: int, count: int) -> Iterator[bytes]:
    yield frames.frame(frames.HEADERS, 0, 1, Encoder().encode(request_fields(LIST_NODES)))
    for _ in range(count):
        yield frames.frame(frames.CONTINUATION, 0, 1, b"\0" * size)


def header_bomb() -> Iterator[bytes]:
    """A field of 4,000 bytes in the table, then said again a thousand times by one byte each."""
    block = Encoder().encode(request_fields(LIST_NODES)) + b"\x40\x01x\x7f\xa1\x1e" + b"y" * 4_000
    yield frames.frame(frames.HEADERS, frames.END_HEADERS, 1, block + b"\xbe" * 1_000)


ATTACKS: dict[str, tuple[Callable[[], Iterator[bytes]], ErrorCode]] = {
    "rapid reset": (rapid_reset, CALM),
    "continuation": (lambda: continuations(16_000, 20_000), CALM),
    "empty continuation": (lambda: continuations(0, 100_000), CALM),
    "settings": (lambda: (frames.settings({}) for _ in range(100_000)), CALM),
    "ping": (lambda: (frames.frame(frames.PING, 0, 0, bytes(8)) for _ in range(100_000)), CALM),
    "window": (lambda: (frames.window_update(0, 1) for _ in range(1_000_000)), CALM),
    "priority": (lambda: (frames.frame(frames.PRIORITY, 0, 1, bytes(5)) for _ in range(100_000)), CALM),
    "unknown": (lambda: (frames.frame(99, 0, 1, b"x") for _ in range(100_000)), CALM),
    "header bomb": (header_bomb, CALM),
    "long frame": (lambda: iter([b"\xff" * 100]), ErrorCode.FRAME_SIZE_ERROR),
    "push": (lambda: iter([frames.frame(frames.PUSH_PROMISE, 4, 1, bytes(4))]), ErrorCode.PROTOCOL_ERROR),
    "idle stream": (lambda: iter([frames.frame(frames.DATA, 0, 5, b"x")]), ErrorCode.PROTOCOL_ERROR),
    "even stream": (lambda: iter([frames.frame(frames.HEADERS, 4, 2, b"")]), ErrorCode.PROTOCOL_ERROR),
    "bad hpack": (
        lambda: iter([frames.frame(frames.HEADERS, 4, 1, b"\xff" * 9)]),
        ErrorCode.COMPRESSION_ERROR,
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
async def test_floods_end_their_connection_only(
    port: int, attacker: RawClient, tls_files: Issue, name: str
) -> None:
    make, code = ATTACKS[name]
    pieces = await asyncio.to_thread(lambda: list(batched(make())))  # its cost is not the server's
    before = resident_mib()
    async with neighbour(port, tls_files("user/reader/ann")) as seconds:
        attacker.greet()
        async with asyncio.TaskGroup() as group:
            group.create_task(attacker.send(pieces))
            await attacker.until_closed()
    assert attacker.goaway_code() in (code, None)  # None: the kernel dropped it with what was not read
    assert max(seconds, default=0) < 1
    assert resident_mib() - before < MEMORY_MIB


async def test_garbage_after_the_handshake_is_cut(attacker: RawClient) -> None:
    attacker.writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await attacker.until_closed()


async def test_another_protocol_by_alpn_is_cut(port: int, tls_files: Issue) -> None:
    async with raw_client(port, tls_files("user/reader/eve"), alpn="http/1.1") as client:
        client.greet()
        await client.until_closed()


@pytest.mark.slow
async def test_silence_after_tls_is_cut(attacker: RawClient) -> None:
    begun = time.monotonic()
    await attacker.until_closed()
    assert time.monotonic() - begun < 10


@pytest.mark.slow
async def test_silent_connections_keep_nobody_out(port: int, tls_files: Issue) -> None:
    """400 connections that never shake hands: others get in at once, and all are closed after 5 s."""
    opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(400)]
    async with neighbour(port, tls_files("user/reader/ann")) as seconds:
        ends = (reader.read(1) for reader, _ in opened)
        ended = await asyncio.wait_for(asyncio.gather(*ends, return_exceptions=True), 20)
    assert all(one == b"" or isinstance(one, ConnectionError) for one in ended)
    assert max(seconds) < 1
    for _, writer in opened:
        writer.close()


async def test_a_message_of_100_mb_is_refused_at_its_prefix(port: int, tls_files: Issue) -> None:
    target, before = f"127.0.0.1:{port}", resident_mib()
    options = (
        ("grpc.max_send_message_length", -1),
        ("grpc.ssl_target_name_override", f"identity.{TRUST_DOMAIN}"),
    )
    files = tls_files("user/reader/eve")
    credentials = grpc.ssl_channel_credentials(
        files.ca.read_bytes(), files.key.read_bytes(), files.cert.read_bytes()
    )
    body = bytes(100 * 2**20)
    async with grpc.aio.secure_channel(target, credentials, options) as opened:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await opened.unary_unary(f"/{NAME}/ListIdentities")(body, timeout=20)
    assert rpcerrors.error_from_rpc(caught.value).code == "RESOURCE_EXHAUSTED"
    assert resident_mib() - before < 100 + 200 + MEMORY_MIB  # the body and the client's copies of it
