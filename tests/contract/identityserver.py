"""A small identity server behind the real edge, for tests of the edge."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from axoneme.lib import grpcserver  # isort: skip  (before grpc)
import grpc
import grpc.aio

from axoneme.api.identity.v1 import identity_pb2 as pb
from axoneme.api.identity.v1 import identity_pb2_grpc
from axoneme.lib import errors

MANY_FAULTS = [
    errors.FieldViolation(f"spec.egress[{number}]", "not supported: ä " * 20) for number in range(500)
]
NAME = "axoneme.api.identity.v1.IdentityService"


class TinyIdentity(identity_pb2_grpc.IdentityServiceServicer):
    """Answers a few methods in ways that tests ask for."""

    def __init__(self) -> None:
        self.open_streams = 0
        self.release = asyncio.Event()
        self.remaining: list[float | None] = []
        self.labels = "tiny"

    async def ListNodes(self, request: pb.ListNodesRequest, context: Any) -> pb.ListNodesResponse:
        self.remaining.append(context.time_remaining())
        return pb.ListNodesResponse(nodes=[pb.Node(name=str(grpcserver.caller(context)))])

    async def GetIdentity(self, request: pb.GetIdentityRequest, context: Any) -> pb.GetIdentityResponse:
        kinds: dict[int, Exception] = {
            1: errors.NotFound("no identity 1"),
            2: errors.InvalidArgument.of_field("identity", "2 is reserved; ask for one above 255"),
            3: errors.PoolExhausted("all numbers are taken", retry_after_seconds=7.5),
            4: RuntimeError("secret detail"),
            5: TimeoutError("inner"),
            7: errors.InvalidArgument("ü" * 5_000, violations=MANY_FAULTS),
        }
        if request.identity in kinds:
            raise kinds[request.identity]
        if request.identity == 8:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "own words")
        if request.identity == 6:
            await self.release.wait()
        return pb.GetIdentityResponse(identity=pb.Identity(identity=request.identity))

    async def ListIdentities(self, request: Any, context: Any) -> pb.ListIdentitiesResponse:
        return pb.ListIdentitiesResponse(identities=[pb.Identity(labels=["x" * 1_000])] * 10)

    async def RegisterNode(self, request: pb.RegisterNodeRequest, context: Any) -> pb.RegisterNodeResponse:
        grpcserver.require_node(context, request.node.name)
        return pb.RegisterNodeResponse()

    async def WatchIdentities(self, request: Any, context: Any) -> AsyncIterator[pb.WatchIdentitiesResponse]:
        self.open_streams += 1
        try:
            yield pb.WatchIdentitiesResponse(bookmark=True)
            await self.release.wait()
        finally:
            self.open_streams -= 1

    async def WatchNodes(self, request: Any, context: Any) -> None:
        """Writes as fast as it can."""
        self.open_streams += 1
        try:
            while True:
                await context.write(pb.WatchNodesResponse(bookmark=True))
        finally:
            self.open_streams -= 1

    async def SubscribeNodes(self, requests: Any, context: Any) -> None:
        self.open_streams += 1
        try:
            while (request := await context.read()) is not grpc.aio.EOF:
                if request.HasField("resync"):
                    raise errors.Superseded("a newer stream took over")
                grpcserver.require_node(context, request.hello.node_name)
                await context.write(pb.SubscribeNodesResponse())
        finally:
            self.open_streams -= 1


@contextlib.asynccontextmanager
async def tiny_server(
    listeners: Sequence[grpcserver.Listener], servicer: TinyIdentity | None = None, **options: Any
) -> AsyncIterator[grpcserver.GrpcServer]:
    """Serves TinyIdentity."""

    def register(server: grpc.aio.Server) -> list[str]:
        identity_pb2_grpc.add_IdentityServiceServicer_to_server(servicer or TinyIdentity(), server)
        return [NAME]

    options.setdefault("drain_seconds", 0.2)
    async with grpcserver.serving(listeners, register, **options) as server:
        server.set_serving("", True)
        yield server
