"""Wrong certificates against a real server: all of them are refused, and the right one passes."""

from __future__ import annotations

import asyncio
import datetime as dt
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from axoneme.lib import channel, rpcerrors  # isort: skip  (before grpc)
import grpc
import grpc.aio
from cryptography.x509.oid import ExtendedKeyUsageOID

from axoneme.api.identity.v1 import identity_pb2 as pb
from axoneme.api.identity.v1 import identity_pb2_grpc
from axoneme.lib import certs
from axoneme.lib.errors import AxonemeError
from axoneme.lib.grpcserver import GrpcServer, Listener
from axoneme.lib.roles import parse_name_roles
from axoneme.lib.tls import TlsFiles
from tests.conftest import TRUST_DOMAIN
from tests.contract.badcerts import DAY, NOW, write_leaf
from tests.contract.identityserver import TinyIdentity, tiny_server
from tests.waiting import FakeClock, eventually

pytestmark = pytest.mark.usefixtures("engine")

READER = f"spiffe://{TRUST_DOMAIN}/user/reader/ann"
Issue = Callable[[str], TlsFiles]


@pytest.fixture
async def server(tls_files: Issue) -> AsyncIterator[GrpcServer]:
    names = parse_name_roles(["*.hubble-relay.cilium.io=user/reader/stock"])
    listener = Listener("127.0.0.1:0", tls_files("svc/identity"), TRUST_DOMAIN, names)
    async with tiny_server([listener]) as running:
        yield running


@pytest.fixture
def authority(ca_directory: Path) -> certs.Authority:
    return certs.load_ca(ca_directory)


async def call(server: GrpcServer, files: TlsFiles, ca: TlsFiles | None = None) -> str:
    """Name that the server sees. Raises AxonemeError."""
    if ca is not None:
        files = TlsFiles(ca.ca, files.cert, files.key)
    target = f"127.0.0.1:{server.port}"
    async with channel.open_channel(target, files, f"identity.{TRUST_DOMAIN}") as opened:
        try:
            answer = await identity_pb2_grpc.IdentityServiceStub(opened).ListNodes(
                pb.ListNodesRequest(), timeout=10
            )
        except grpc.RpcError as error:
            raise rpcerrors.error_from_rpc(error) from None
    return answer.nodes[0].name


@pytest.mark.parametrize(
    ("role", "name"),
    [("user/reader/ann", "user/reader/ann"), ("node/node1", "node/node1"), ("svc/relay", "svc/relay")],
)
async def test_right_certificate_passes(server: GrpcServer, tls_files: Issue, role: str, name: str) -> None:
    assert await call(server, tls_files(role)) == name


async def test_wrong_certificates_are_refused(
    server: GrpcServer, authority: certs.Authority, tls_files: Issue, tmp_path: Path
) -> None:
    """Whatever is wrong ends either at the handshake or as UNAUTHENTICATED with a reason."""
    good_ca = tls_files("user/reader/ann")
    other = certs.create_ca(tmp_path / "other", TRUST_DOMAIN)
    client, only_server = [ExtendedKeyUsageOID.CLIENT_AUTH], [ExtendedKeyUsageOID.SERVER_AUTH]
    handshake, unauthenticated = {"UNAVAILABLE"}, {"UNAUTHENTICATED"}
    cases: dict[str, tuple[TlsFiles, set[str]]] = {
        "other-ca": (write_leaf(other, tmp_path / "1", uris=[READER]), handshake),
        "expired": (write_leaf(authority, tmp_path / "2", uris=[READER], end=NOW - DAY / 2), handshake),
        "future": (write_leaf(authority, tmp_path / "3", uris=[READER], start=NOW + DAY / 2), handshake),
        "server-only": (write_leaf(authority, tmp_path / "4", uris=[READER], uses=only_server), handshake),
        "two-uris": (write_leaf(authority, tmp_path / "5", uris=[READER, READER + "2"]), unauthenticated),
        "no-uri": (write_leaf(authority, tmp_path / "6", dns=["ann.east.mesh"]), unauthenticated),
        "other-trust-domain": (
            write_leaf(authority, tmp_path / "7", uris=["spiffe://west.mesh/user/reader/ann"], uses=client),
            unauthenticated,
        ),
        "trust-domain-prefix": (
            write_leaf(authority, tmp_path / "8", uris=["spiffe://east.mesh.evil/user/admin/ann"]),
            unauthenticated,
        ),
        "root-path": (write_leaf(authority, tmp_path / "9", uris=["spiffe://east.mesh"]), unauthenticated),
        "unknown-role": (
            write_leaf(authority, tmp_path / "10", uris=["spiffe://east.mesh/user/root/ann"]),
            unauthenticated,
        ),
        "doubled-slash": (
            write_leaf(authority, tmp_path / "11", uris=["spiffe://east.mesh//user/admin/ann"]),
            unauthenticated,
        ),
        "other-scheme": (
            write_leaf(authority, tmp_path / "12", uris=["https://east.mesh/user/admin/ann"]),
            unauthenticated,
        ),
        "ca-leaf": (
            write_leaf(authority, tmp_path / "13", uris=[READER], is_ca=True),
            handshake | unauthenticated,
        ),
    }
    for name, (files, expected) in cases.items():
        with pytest.raises(AxonemeError) as caught:
            await call(server, files, good_ca)
        assert caught.value.code in expected, f"{name}: {caught.value!r}"


async def test_stock_client_maps_by_configured_name(
    server: GrpcServer, authority: certs.Authority, tls_files: Issue, tmp_path: Path
) -> None:
    files = write_leaf(authority, tmp_path / "stock", dns=["*.hubble-relay.cilium.io"])
    assert await call(server, files) == "user/reader/stock"


async def test_name_does_not_replace_a_wrong_uri(
    server: GrpcServer, authority: certs.Authority, tmp_path: Path
) -> None:
    dns = ["*.hubble-relay.cilium.io"]
    files = write_leaf(authority, tmp_path / "both", uris=["spiffe://west.mesh/svc/relay"], dns=dns)
    with pytest.raises(AxonemeError) as caught:
        await call(server, files)
    assert (caught.value.code, caught.value.reason) == ("UNAUTHENTICATED", "WRONG_TRUST_DOMAIN")


async def test_no_certificate_and_plaintext_are_refused(server: GrpcServer, tls_files: Issue) -> None:
    roots = tls_files("user/reader/ann").ca.read_bytes()
    name = (("grpc.ssl_target_name_override", f"identity.{TRUST_DOMAIN}"),)
    target = f"127.0.0.1:{server.port}"
    bare = grpc.ssl_channel_credentials(roots)
    for opened in (grpc.aio.secure_channel(target, bare, name), grpc.aio.insecure_channel(target)):
        async with opened:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await identity_pb2_grpc.IdentityServiceStub(opened).ListNodes(
                    pb.ListNodesRequest(), timeout=10
                )
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_wrong_server_name_is_refused(server: GrpcServer, tls_files: Issue) -> None:
    target = f"127.0.0.1:{server.port}"
    async with channel.open_channel(target, tls_files("user/reader/ann"), "policy.east.mesh") as opened:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await identity_pb2_grpc.IdentityServiceStub(opened).ListNodes(pb.ListNodesRequest(), timeout=10)
    assert "Hostname Verification" in str(caught.value.details())


@pytest.mark.parametrize(
    ("version", "passes"), [(ssl.TLSVersion.TLSv1_2, False), (ssl.TLSVersion.TLSv1_3, True)]
)
async def test_only_tls_13(
    server: GrpcServer, tls_files: Issue, version: ssl.TLSVersion, passes: bool
) -> None:
    files = tls_files("user/reader/ann")

    def shake() -> str | None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = context.maximum_version = version
        context.load_verify_locations(files.ca)
        context.load_cert_chain(files.cert, files.key)
        context.set_alpn_protocols(["h2"])
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as raw:
            try:
                with context.wrap_socket(raw, server_hostname=f"identity.{TRUST_DOMAIN}") as wrapped:
                    return wrapped.version()
            except (ssl.SSLError, ConnectionError):
                return None

    assert (await asyncio.to_thread(shake)) == ("TLSv1.3" if passes else None)


async def test_certificate_that_ends_is_refused_on_an_open_connection(
    tls_files: Issue, authority: certs.Authority, tmp_path: Path
) -> None:
    """The connection was made while it was good; the next call is refused all the same."""
    files = write_leaf(authority, tmp_path / "short", uris=[READER], end=NOW + DAY)
    clock = [dt.datetime.now(dt.UTC)]
    listener = Listener("127.0.0.1:0", tls_files("svc/identity"), TRUST_DOMAIN)
    async with (
        tiny_server([listener], now=lambda: clock[0]) as running,
        channel.open_channel(f"127.0.0.1:{running.port}", files, f"identity.{TRUST_DOMAIN}") as opened,
    ):
        stub = identity_pb2_grpc.IdentityServiceStub(opened)
        await stub.ListNodes(pb.ListNodesRequest(), timeout=10)
        clock[0] += 2 * DAY
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ListNodes(pb.ListNodesRequest(), timeout=10)
    error = rpcerrors.error_from_rpc(caught.value)
    assert (error.code, error.reason) == ("UNAUTHENTICATED", "CERTIFICATE_NOT_VALID")
    assert "ended at" in error.message


@pytest.mark.parametrize("method", ["WatchIdentities", "WatchNodes", "SubscribeNodes"])
async def test_stream_ends_when_its_certificate_ends(tls_files: Issue, method: str) -> None:
    """Idle, writing and bidirectional streams: re-checked every 10 s of an injected clock."""
    clock, wall = FakeClock(), [dt.datetime.now(dt.UTC)]
    listener = Listener("127.0.0.1:0", tls_files("svc/identity"), TRUST_DOMAIN)
    servicer = TinyIdentity()
    async with (
        tiny_server(
            [listener], servicer, now=lambda: wall[0], sleep=clock.sleep, reload_seconds=1e9
        ) as running,
        channel.open_channel(
            f"127.0.0.1:{running.port}", tls_files("node/node1"), f"identity.{TRUST_DOMAIN}"
        ) as opened,
    ):
        stub = identity_pb2_grpc.IdentityServiceStub(opened)
        if method == "SubscribeNodes":
            stream = stub.SubscribeNodes()
            hello = pb.SubscribeNodesRequest()
            hello.hello.node_name = "node1"
            await stream.write(hello)
        else:
            stream = getattr(stub, method)(getattr(pb, f"{method}Request")())
        await stream.read()
        await eventually(lambda: clock.sleepers == 2)
        clock.advance(10.0)
        await eventually(lambda: clock.sleepers == 2)
        assert servicer.open_streams == 1
        wall[0] += dt.timedelta(days=4_000)
        clock.advance(10.0)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await drained(stream)
        error = rpcerrors.error_from_rpc(caught.value)
        assert (error.code, error.reason) == ("UNAUTHENTICATED", "CERTIFICATE_NOT_VALID")
        await eventually(lambda: servicer.open_streams == 0)


async def drained(stream: Any) -> None:
    """Reads until the stream ends."""
    while await stream.read() is not grpc.aio.EOF:
        pass


async def test_denied_certificate_loses_its_next_call(tls_files: Issue) -> None:
    denied: set[str] = set()
    listener = Listener("127.0.0.1:0", tls_files("svc/identity"), TRUST_DOMAIN)
    async with tiny_server([listener], denied=lambda: denied) as running:
        assert await call(running, tls_files("user/reader/ann"))
        denied.add(READER)
        with pytest.raises(AxonemeError) as caught:
            await call(running, tls_files("user/reader/ann"))
        assert caught.value.reason == "CERTIFICATE_DENIED"
        assert await call(running, tls_files("node/node1"))


def replace(files: TlsFiles, ca_directories: list[Path], role: tuple[str, str], names: list[str]) -> None:
    """A new leaf from the first CA, in place, trusting all of the CAs."""
    directory = files.cert.parent
    certs.issue(ca_directories[0], role[0], role[1], directory, dns_sans=names)
    bundle = b"".join((ca / "ca.crt").read_bytes() for ca in ca_directories)
    certs.write_public(files.ca, bundle)


async def test_ca_rotation_without_a_failed_call(tmp_path: Path) -> None:
    """Trust both, renew both sides, trust only the new one: no call fails; then the old leaf is refused."""
    old, new = tmp_path / "old", tmp_path / "new"
    certs.create_ca(old, TRUST_DOMAIN)
    certs.create_ca(new, TRUST_DOMAIN)
    sides = {}
    for role, name in (("svc", "identity"), ("user/reader", "ann"), ("user/reader", "eve")):
        directory = tmp_path / name
        certs.issue(old, role, name, directory)
        sides[name] = TlsFiles(directory / "ca.crt", directory / "tls.crt", directory / "tls.key")
    clock = FakeClock()
    listener = Listener("127.0.0.1:0", sides["identity"], TRUST_DOMAIN)
    async with tiny_server([listener], reload_seconds=0.05) as running:
        target = f"127.0.0.1:{running.port}"
        certs_seen = set()
        async with channel.ServiceChannel(
            [target], sides["ann"], f"identity.{TRUST_DOMAIN}", clock=clock
        ) as service:
            for authorities in ([old, new], [new, old], [new]):
                replace(sides["identity"], authorities, ("svc", "identity"), [])
                await asyncio.to_thread(running.reload_certificates)
                for _ in range(5):
                    stub = identity_pb2_grpc.IdentityServiceStub(service.current())
                    await stub.ListNodes(pb.ListNodesRequest(), timeout=10)
                replace(sides["ann"], authorities, ("user/reader", "ann"), [])
                clock.advance(2.0)
                certs_seen.add(id(service.current()))
                for _ in range(5):
                    stub = identity_pb2_grpc.IdentityServiceStub(service.current())
                    await stub.ListNodes(pb.ListNodesRequest(), timeout=10)
        assert len(certs_seen) > 1
        with pytest.raises(AxonemeError):
            await call(running, sides["eve"], sides["ann"])


async def test_open_connection_of_a_removed_ca_is_refused(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    certs.create_ca(old, TRUST_DOMAIN)
    certs.create_ca(new, TRUST_DOMAIN)
    certs.issue(old, "svc", "identity", tmp_path / "s")
    certs.issue(old, "user/reader", "eve", tmp_path / "e")
    serving = TlsFiles(tmp_path / "s/ca.crt", tmp_path / "s/tls.crt", tmp_path / "s/tls.key")
    eve = TlsFiles(tmp_path / "e/ca.crt", tmp_path / "e/tls.crt", tmp_path / "e/tls.key")
    async with (
        tiny_server([Listener("127.0.0.1:0", serving, TRUST_DOMAIN)]) as running,
        channel.open_channel(f"127.0.0.1:{running.port}", eve, f"identity.{TRUST_DOMAIN}") as opened,
    ):
        stub = identity_pb2_grpc.IdentityServiceStub(opened)
        await stub.ListNodes(pb.ListNodesRequest(), timeout=10)
        replace(serving, [new], ("svc", "identity"), [])
        assert running.reload_certificates()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ListNodes(pb.ListNodesRequest(), timeout=10)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
