"""A running identity service for tests: real gRPC with mTLS over a store of the test's choice."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

from axoneme.lib import grpcsettings  # isort: skip  (before grpc)
import grpc
from prometheus_client import CollectorRegistry

from axoneme.api.identity.v1 import identity_pb2 as pb
from axoneme.api.identity.v1 import identity_pb2_grpc
from axoneme.lib.channel import open_channel
from axoneme.lib.grpcserver import GrpcServer
from axoneme.lib.kvstore.port import Store
from axoneme.lib.tasks import TaskScope
from axoneme.lib.tls import TlsFiles
from services.identity.config import IdentityConfig
from services.identity.main import serving

assert grpcsettings.ENVIRONMENT

DOMAIN = "east.mesh"


@dataclass
class RunningIdentity:
    """The service and clients of it."""

    server: GrpcServer
    tls_files: Callable[[str], TlsFiles]
    channels: list[grpc.aio.Channel] = field(default_factory=list)

    def stub(self, role: str) -> Any:
        """A client with the certificate of a role."""
        target = f"127.0.0.1:{self.server.port}"
        channel = open_channel(target, self.tls_files(role), f"identity.{DOMAIN}")
        self.channels.append(channel)
        return identity_pb2_grpc.IdentityServiceStub(channel)

    async def register(self, name: str, number: int = 1, **fields: Any) -> Any:
        """Registers a node, and declares that it has no addresses."""
        stub = self.stub(f"node/{name}")
        node = pb.Node(name=name, internal_ips=[f"198.18.1.{100 + number}"], **fields)
        await stub.RegisterNode(pb.RegisterNodeRequest(node=node))
        await stub.PublishAddresses(pb.PublishAddressesRequest(node_name=name, complete=True))
        return stub


def test_config(tls_files: Callable[[str], TlsFiles], **changes: Any) -> IdentityConfig:
    """Settings of cluster east with fast timers."""
    files = tls_files("svc/identity")
    config = IdentityConfig(
        listen_address="127.0.0.1:0",
        metrics_address="",
        ca_file=files.ca,
        cert_file=files.cert,
        key_file=files.key,
        cluster_name="east",
        cluster_id=1,
        pod_cidr_pools=("10.1.0.0/16/24", "fd00:10:1::/48/64"),
        drain_seconds=0.2,
    )
    return replace(config, **changes)


test_config.__test__ = False  # type: ignore[attr-defined]


@contextlib.asynccontextmanager
async def running_identity(
    store: Store, tls_files: Callable[[str], TlsFiles], **changes: Any
) -> AsyncIterator[RunningIdentity]:
    """A service until the block ends."""
    config = test_config(tls_files, **changes)
    async with TaskScope("test") as scope, contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(config, store, scope, CollectorRegistry()))
        running = RunningIdentity(server, tls_files)
        try:
            yield running
        finally:
            for channel in running.channels:
                await channel.close()
