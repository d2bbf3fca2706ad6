"""The edge of a real server: roles, statuses, limits, unix sockets, health, reflection, drain."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from axoneme.lib import channel, grpcserver, grpcsettings, rpcerrors  # isort: skip  (before grpc)
import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from prometheus_client import CollectorRegistry

from axoneme.api.identity.v1 import identity_pb2 as pb
from axoneme.api.identity.v1 import identity_pb2_grpc
from axoneme.lib.errors import AxonemeError, FieldViolation, InvalidArgument, Unavailable
from axoneme.lib.grpcserver import GrpcServer, Listener
from axoneme.lib.tls import TlsFiles
from tests.conftest import TRUST_DOMAIN
from tests.contract.identityserver import NAME, TinyIdentity, tiny_server
from tests.waiting import eventually

pytestmark = pytest.mark.usefixtures("engine")

Issue = Callable[[str], TlsFiles]
Stub = identity_pb2_grpc.IdentityServiceStub


@pytest.fixture
def servicer() -> TinyIdentity:
    return TinyIdentity()


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
async def server(
    tls_files: Issue, servicer: TinyIdentity, socket_directory: Path, registry: CollectorRegistry
) -> AsyncIterator[GrpcServer]:
    listeners = [
        Listener("127.0.0.1:0", tls_files("svc/identity"), TRUST_DOMAIN),
        Listener(f"unix://{socket_directory}/api.sock"),
    ]
    async with tiny_server(listeners, servicer, unary_seconds=0.3, registry=registry) as running:
        yield running


@pytest.fixture
async def as_role(server: GrpcServer, tls_files: Issue) -> AsyncIterator[Callable[[str], grpc.aio.Channel]]:
    opened: list[grpc.aio.Channel] = []

    def connect(role: str) -> grpc.aio.Channel:
        target = f"127.0.0.1:{server.port}"
        opened.append(channel.open_channel(target, tls_files(role), f"identity.{TRUST_DOMAIN}"))
        return opened[-1]

    yield connect
    for each in opened:
        await each.close()


Connect = Callable[[str], grpc.aio.Channel]


async def failure(call: object) -> AxonemeError:
    with pytest.raises(grpc.RpcError) as caught:
        await call  # type: ignore[misc]
    return rpcerrors.error_from_rpc(caught.value)


async def test_errors_arrive_with_reason_violations_and_delay(as_role: Connect) -> None:
    stub = Stub(as_role("user/reader/ann"))
    missing = await failure(stub.GetIdentity(pb.GetIdentityRequest(identity=1)))
    assert (missing.code, missing.reason, missing.message) == ("NOT_FOUND", "NOT_FOUND", "no identity 1")
    invalid = await failure(stub.GetIdentity(pb.GetIdentityRequest(identity=2)))
    assert isinstance(invalid, InvalidArgument)
    assert invalid.violations == (FieldViolation("identity", "2 is reserved; ask for one above 255"),)
    full = await failure(stub.GetIdentity(pb.GetIdentityRequest(identity=3)))
    assert (full.reason, full.retry_after_seconds) == ("POOL_EXHAUSTED", 7.5)


async def test_a_bug_is_bland_on_the_wire(as_role: Connect) -> None:
    stub = Stub(as_role("user/reader/ann"))
    for number in (4, 5):
        bug = await failure(stub.GetIdentity(pb.GetIdentityRequest(identity=number)))
        assert bug.code == "INTERNAL"
        assert "secret" not in bug.message


async def test_a_handler_may_abort_by_itself(as_role: Connect) -> None:
    error = await failure(Stub(as_role("user/reader/ann")).GetIdentity(pb.GetIdentityRequest(identity=8)))
    assert (error.code, error.message) == ("FAILED_PRECONDITION", "own words")


async def test_errors_of_a_bidirectional_stream(as_role: Connect, servicer: TinyIdentity) -> None:
    """An error after messages in both directions, and a node that speaks for another."""
    stub = Stub(as_role("node/node1"))
    for name, reason in (("node1", "SUPERSEDED"), ("node2", "WRONG_NODE")):
        stream = stub.SubscribeNodes()
        request = pb.SubscribeNodesRequest()
        request.hello.node_name = name
        await stream.write(request)
        if name == "node1":
            await stream.read()
            request.resync.reason = "TEST"
            await stream.write(request)
        error = await failure(stream.read())
        assert error.reason == reason
    await eventually(lambda: servicer.open_streams == 0)


async def test_no_deadline_means_a_limit(as_role: Connect, servicer: TinyIdentity) -> None:
    stub = Stub(as_role("user/reader/ann"))
    slow = await failure(stub.GetIdentity(pb.GetIdentityRequest(identity=6)))
    assert slow.code == "DEADLINE_EXCEEDED"
    servicer.release.set()
    await stub.GetIdentity(pb.GetIdentityRequest(identity=6), timeout=20)
    await stub.ListNodes(pb.ListNodesRequest(), timeout=20)
    assert servicer.remaining[-1] == pytest.approx(20, abs=5)


async def test_roles_decide(as_role: Connect) -> None:
    reader, node = Stub(as_role("user/reader/ann")), Stub(as_role("node/node1"))
    denied = await failure(reader.RegisterNode(pb.RegisterNodeRequest(node=pb.Node(name="node1"))))
    assert (denied.code, denied.reason) == ("PERMISSION_DENIED", "METHOD_NOT_ALLOWED")
    await node.RegisterNode(pb.RegisterNodeRequest(node=pb.Node(name="node1")))
    other = await failure(node.RegisterNode(pb.RegisterNodeRequest(node=pb.Node(name="node2"))))
    assert (other.code, other.reason) == ("PERMISSION_DENIED", "WRONG_NODE")


@pytest.mark.parametrize(
    ("method", "code"),
    [
        ("/axoneme.api.identity.v1.IdentityService/Unknown", "PERMISSION_DENIED"),
        ("/other.Service/Method", "PERMISSION_DENIED"),
        (f"{NAME}/ListNodes", "PERMISSION_DENIED"),
        (f"//{NAME}/ListNodes", "PERMISSION_DENIED"),
        (f"/{NAME}/listnodes", "PERMISSION_DENIED"),
        (f"/{NAME}/GetIdentity", "UNIMPLEMENTED"),
    ],
)
async def test_only_exact_methods_pass(tls_files: Issue, method: str, code: str) -> None:
    """A path without its slash, other case, unknown methods: refused; known but not served: said so."""

    class Nothing(identity_pb2_grpc.IdentityServiceServicer):
        pass

    def register(server: grpc.aio.Server) -> list[str]:
        identity_pb2_grpc.add_IdentityServiceServicer_to_server(Nothing(), server)
        return [NAME]

    listener = Listener("127.0.0.1:0", tls_files("svc/identity"), TRUST_DOMAIN)
    async with (
        grpcserver.serving([listener], register, drain_seconds=0.1) as running,
        channel.open_channel(
            f"127.0.0.1:{running.port}", tls_files("user/admin/root"), f"identity.{TRUST_DOMAIN}"
        ) as opened,
    ):
        error = await failure(opened.unary_unary(method)(b"", timeout=10))
    if not method.startswith("/"):
        assert error.code in {"PERMISSION_DENIED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE"}
    else:
        assert error.code == code


async def test_large_and_compressed_messages_are_refused(as_role: Connect) -> None:
    opened = as_role("user/reader/ann")
    large = pb.ListIdentitiesRequest(filter="x" * 1_100_000)
    error = await failure(Stub(opened).ListIdentities(large, timeout=10))
    assert error.code == "RESOURCE_EXHAUSTED"
    small = pb.ListIdentitiesRequest(filter="x" * 900_000)
    assert await Stub(opened).ListIdentities(small, timeout=10)
    compressed = await failure(
        Stub(opened).ListIdentities(small, timeout=10, compression=grpc.Compression.Gzip)
    )
    assert compressed.code in {"UNIMPLEMENTED", "INTERNAL"}


async def test_many_violations_fit_into_the_metadata(as_role: Connect) -> None:
    error = await failure(Stub(as_role("user/reader/ann")).GetIdentity(pb.GetIdentityRequest(identity=7)))
    assert error.code == "INVALID_ARGUMENT"
    assert error.violations[0].field == "spec.egress[0]"
    assert error.violations[-1].description.endswith("more")


async def test_unix_socket_is_private_and_means_local_admin(
    server: GrpcServer, socket_directory: Path
) -> None:
    path = socket_directory / "api.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    async with channel.open_channel(f"unix:{path}", None) as opened:
        answer = await Stub(opened).ListNodes(pb.ListNodesRequest(), timeout=10)
        assert answer.nodes[0].name == "local root"
        await Stub(opened).RegisterNode(pb.RegisterNodeRequest(node=pb.Node(name="any")), timeout=10)


@pytest.mark.root
async def test_unix_socket_refuses_another_user(server: GrpcServer, socket_directory: Path) -> None:
    path = socket_directory / "api.sock"
    await asyncio.to_thread(socket_directory.chmod, 0o755)
    code = "import socket,sys,os\nos.setgid(1000); os.setuid(65534)\ns=socket.socket(socket.AF_UNIX)\n"
    code += f"try:\n s.connect({str(path)!r})\nexcept PermissionError: sys.exit(7)\n"
    process = await asyncio.create_subprocess_exec("/usr/bin/env", "python3", "-c", code)
    assert await process.wait() == 7


async def test_health_by_name_and_watch(server: GrpcServer, as_role: Connect) -> None:
    stub = health_pb2_grpc.HealthStub(as_role("peer/west"))
    for name in ("", NAME):
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    unknown = await failure(stub.Check(health_pb2.HealthCheckRequest(service="nothing"), timeout=10))
    assert unknown.code == "NOT_FOUND"
    watch = stub.Watch(health_pb2.HealthCheckRequest(service=NAME))
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    server.set_serving(NAME, False)
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    watch.cancel()


@pytest.mark.parametrize("package", ["v1alpha", "v1"])
async def test_reflection_lists_services(as_role: Connect, package: str) -> None:
    method = f"/grpc.reflection.{package}.ServerReflection/ServerReflectionInfo"
    stream = as_role("user/reader/ann").stream_stream(
        method,
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )()
    await stream.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    answer = await stream.read()
    assert NAME in {service.name for service in answer.list_services_response.service}
    await stream.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol=NAME))
    assert (await stream.read()).file_descriptor_response.file_descriptor_proto
    await stream.done_writing()


async def test_drain_turns_health_off_and_says_goodbye(tls_files: Issue) -> None:
    servicer, said = TinyIdentity(), []
    listener = Listener("127.0.0.1:0", tls_files("svc/identity"), TRUST_DOMAIN)
    async with tiny_server([listener], servicer, drain_seconds=5.0) as running:
        opened = channel.open_channel(
            f"127.0.0.1:{running.port}", tls_files("user/reader/ann"), f"identity.{TRUST_DOMAIN}"
        )
        stream = Stub(opened).WatchIdentities(pb.WatchIdentitiesRequest())
        await stream.read()

        async def goodbye() -> None:
            said.append(servicer.open_streams)
            servicer.release.set()

        running.on_drain(goodbye)
    assert said == [1]
    assert await stream.read() is grpc.aio.EOF
    assert servicer.open_streams == 0
    await opened.close()


async def test_client_that_leaves_ends_the_handler(as_role: Connect, servicer: TinyIdentity) -> None:
    for method in ("WatchIdentities", "WatchNodes"):
        stream = getattr(Stub(as_role("user/reader/ann")), method)(getattr(pb, f"{method}Request")())
        await stream.read()
        assert servicer.open_streams == 1
        stream.cancel()
        await eventually(lambda: servicer.open_streams == 0)


async def test_calls_are_counted(as_role: Connect, registry: CollectorRegistry) -> None:
    stub = Stub(as_role("user/reader/ann"))
    await stub.ListNodes(pb.ListNodesRequest(), timeout=10)
    await failure(stub.AllocateIdentity(pb.AllocateIdentityRequest(), timeout=10))
    labels = {"method": f"/{NAME}/ListNodes", "code": "OK"}
    assert registry.get_sample_value("axoneme_grpc_call_seconds_count", labels) == 1
    assert registry.get_sample_value("axoneme_grpc_denied_total", {"reason": "METHOD_NOT_ALLOWED"}) == 1


async def test_tcp_needs_certificates_and_a_free_port(tls_files: Issue, server: GrpcServer) -> None:
    with pytest.raises(InvalidArgument):
        async with tiny_server([Listener("127.0.0.1:0")]):
            pass
    taken = Listener(f"127.0.0.1:{server.port}", tls_files("svc/identity"), TRUST_DOMAIN)
    with pytest.raises(Unavailable, match=str(server.port)):
        async with tiny_server([taken]):
            pass


async def test_silent_connection_is_closed(server: GrpcServer) -> None:
    """A peer that never says hello must not hold its connection for the default two minutes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    assert await asyncio.wait_for(reader.read(1), timeout=15) == b""
    writer.close()


def test_settings_of_servers_and_channels() -> None:
    """The figures that were measured to matter; unlimited sizes are refused."""
    server, client = dict(grpcsettings.SERVER_ARGUMENTS), dict(grpcsettings.CHANNEL_ARGUMENTS)
    assert server["grpc.server_handshake_timeout_ms"] == 5_000
    assert server["grpc.http2.ping_timeout_ms"] == 2_000
    assert client["grpc.http2.ping_timeout_ms"] == 3_000
    assert client["grpc.use_local_subchannel_pool"] == 1
    assert "grpc.max_connection_age_ms" not in server
    with pytest.raises(ValueError, match="limit"):
        grpcsettings.arguments(server, {"grpc.max_receive_message_length": -1})


def test_environment_forbids_tls_12() -> None:
    assert os.environ["GRPC_SSL_CIPHER_SUITES"] == "ECDHE-PSK-AES128-CBC-SHA"
    assert json.dumps(os.environ["GRPC_VERBOSITY"])
