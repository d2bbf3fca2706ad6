"""IdentityService over gRPC: decode, call, encode. No rule lives here."""

# ruff: noqa: ARG002  the signatures are gRPC's
from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from axoneme.lib import grpcsettings  # isort: skip  (before grpc)
import grpc
from google.protobuf.duration_pb2 import Duration

from axoneme.api.identity.v1 import identity_pb2 as pb
from axoneme.api.identity.v1 import identity_pb2_grpc as pb_grpc
from axoneme.lib import identities
from axoneme.lib.errors import InvalidArgument, NotFound
from axoneme.lib.grpcserver import caller, require_node
from axoneme.lib.intentstream import StreamHost
from axoneme.lib.pagination import page
from axoneme.lib.requests import RequestLog
from services.identity import wire
from services.identity.addresses import AddressRegistry
from services.identity.mirror import Mirror
from services.identity.nodes import NodeRegistry
from services.identity.references import References
from services.identity.watch import Watched, watch
from services.identity.wire import IpcacheItem, NodeItem

assert grpcsettings.ENVIRONMENT

ACKNOWLEDGE_SECONDS = 1.0
Context = grpc.aio.ServicerContext[Any, Any]
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Writers:
    """Who writes what."""

    nodes: NodeRegistry
    references: References
    addresses: AddressRegistry


class IdentityServicer(pb_grpc.IdentityServiceServicer):
    """The service of one cluster."""

    def __init__(
        self,
        mirror: Mirror,
        writers: Writers,
        ipcache: StreamHost[IpcacheItem],
        nodes: StreamHost[NodeItem],
        requests: RequestLog,
        *,
        cluster_id: int,
        heard: Callable[[], None],
    ) -> None:
        self._mirror, self._write, self._ipcache, self._nodes = mirror, writers, ipcache, nodes
        self._requests, self._cluster_id, self._heard = requests, cluster_id, heard
        self._state = mirror.state
        self._watched_identities = Watched(
            mirror.identities, lambda: self._state.identities, self._identity, pb.WatchIdentitiesResponse
        )
        self._watched_nodes = Watched(
            mirror.nodes,
            lambda: self._state.nodes,
            self._node,
            pb.WatchNodesResponse,
            shown_key=lambda key: key.partition("/")[2],
        )
        self._watched_addresses = Watched(
            mirror.addresses, lambda: self._state.addresses, self._address, pb.WatchAddressesResponse
        )

    # --- identities

    async def AllocateIdentity(
        self, request: pb.AllocateIdentityRequest, context: Context
    ) -> pb.AllocateIdentityResponse:
        self._admit(context, request.node_name)

        async def allocate() -> pb.AllocateIdentityResponse:
            found, labels = await self._write.references.allocate(
                request.labels, request.node_name, dry=request.validate_only
            )
            message = wire.identity_message(found.number, labels)
            return pb.AllocateIdentityResponse(
                identity=message, allocated=found.allocated, revision=found.revision
            )

        return await self._once(context, "AllocateIdentity", request, allocate)

    async def ReleaseIdentity(
        self, request: pb.ReleaseIdentityRequest, context: Context
    ) -> pb.ReleaseIdentityResponse:
        self._admit(context, request.node_name)

        async def release() -> pb.ReleaseIdentityResponse:
            revision = await self._write.references.release(
                request.identity, request.node_name, dry=request.validate_only
            )
            return pb.ReleaseIdentityResponse(revision=revision)

        return await self._once(context, "ReleaseIdentity", request, release)

    async def GetIdentity(self, request: pb.GetIdentityRequest, context: Context) -> pb.GetIdentityResponse:
        self._mirror.check_ready()
        message = self._identity(request.identity)
        if message is None:
            await self._mirror.catch_up()
            message = self._identity(request.identity)
        if message is None:
            raise NotFound(f"identity {request.identity} does not exist")
        return pb.GetIdentityResponse(identity=message, revision=self._state.revision)

    async def ListIdentities(
        self, request: pb.ListIdentitiesRequest, context: Context
    ) -> pb.ListIdentitiesResponse:
        self._mirror.check_ready()
        numbers = [*identities.RESERVED, *sorted(self._state.identities)]
        messages = [message for number in numbers if (message := self._identity(number)) is not None]
        if request.filter:
            messages = [m for m in messages if any(request.filter in label for label in m.labels)]
        chosen, token = page(messages, lambda m: f"{m.identity:010d}", request.page_size, request.page_token)
        return pb.ListIdentitiesResponse(
            identities=chosen, next_page_token=token, revision=self._state.revision
        )

    async def WatchIdentities(
        self, request: pb.WatchIdentitiesRequest, context: Context
    ) -> AsyncIterator[pb.WatchIdentitiesResponse]:
        async for step in watch(self._mirror, self._watched_identities, request.revision):
            yield step

    def _identity(self, number: int) -> pb.Identity | None:
        reserved = identities.RESERVED.get(number)
        if reserved is not None:
            return wire.identity_message(number, reserved[1])
        row = self._state.identities.get(number)
        return wire.identity_message(number, row.value) if row else None

    # --- nodes

    async def RegisterNode(
        self, request: pb.RegisterNodeRequest, context: Context
    ) -> pb.RegisterNodeResponse:
        self._admit(context, request.node.name)

        async def register() -> pb.RegisterNodeResponse:
            wanted = wire.node_of(request.node, self._state.cluster, self._cluster_id)
            found = await self._write.nodes.register(
                wanted, expected_revision=request.expected_revision, dry=request.validate_only
            )
            return pb.RegisterNodeResponse(
                node=wire.node_message(found.node, found.record_revision),
                lease_ttl=self._lease_ttl(),
                revision=found.revision,
            )

        return await self._once(context, "RegisterNode", request, register)

    async def RenewNode(self, request: pb.RenewNodeRequest, context: Context) -> pb.RenewNodeResponse:
        self._admit(context, request.node_name)
        await self._write.nodes.renew(request.node_name)
        return pb.RenewNodeResponse(lease_ttl=self._lease_ttl())

    async def DeleteNode(self, request: pb.DeleteNodeRequest, context: Context) -> pb.DeleteNodeResponse:
        self._admit(context, request.node_name)

        async def delete() -> pb.DeleteNodeResponse:
            revision = await self._write.nodes.delete(
                request.node_name,
                expected_revision=request.expected_revision,
                dry=request.validate_only,
            )
            return pb.DeleteNodeResponse(revision=revision)

        return await self._once(context, "DeleteNode", request, delete)

    async def ListNodes(self, request: pb.ListNodesRequest, context: Context) -> pb.ListNodesResponse:
        self._mirror.check_ready()
        names = sorted(name for name in self._state.nodes if request.filter in name.partition("/")[2])
        chosen, token = page(names, str, request.page_size, request.page_token)
        messages = [message for name in chosen if (message := self._node(name)) is not None]
        return pb.ListNodesResponse(nodes=messages, next_page_token=token, revision=self._state.revision)

    async def WatchNodes(
        self, request: pb.WatchNodesRequest, context: Context
    ) -> AsyncIterator[pb.WatchNodesResponse]:
        async for step in watch(self._mirror, self._watched_nodes, request.revision):
            yield step

    def _node(self, key: str) -> pb.Node | None:
        row, record = self._state.nodes.get(key), self._state.records.get(key.partition("/")[2])
        return wire.node_message(row.value, record.mod_revision if record else 0) if row else None

    # --- addresses

    async def PublishAddresses(
        self, request: pb.PublishAddressesRequest, context: Context
    ) -> pb.PublishAddressesResponse:
        self._admit(context, request.node_name)

        async def publish() -> pb.PublishAddressesResponse:
            wanted = wire.addresses_of(request.addresses)
            revision = await self._write.addresses.publish(
                request.node_name, wanted, complete=request.complete, dry=request.validate_only
            )
            if request.validate_only:
                return pb.PublishAddressesResponse(revision=revision)
            late = await self._ipcache.wait_acknowledged(
                self._mirror.ipcache_revision, timeout=ACKNOWLEDGE_SECONDS
            )
            return pb.PublishAddressesResponse(revision=revision, acknowledged=not late)

        return await self._once(context, "PublishAddresses", request, publish)

    async def WithdrawAddresses(
        self, request: pb.WithdrawAddressesRequest, context: Context
    ) -> pb.WithdrawAddressesResponse:
        self._admit(context, request.node_name)

        async def withdraw() -> pb.WithdrawAddressesResponse:
            revision = await self._write.addresses.withdraw(
                request.node_name, request.ips, dry=request.validate_only
            )
            return pb.WithdrawAddressesResponse(revision=revision)

        return await self._once(context, "WithdrawAddresses", request, withdraw)

    async def ListAddresses(
        self, request: pb.ListAddressesRequest, context: Context
    ) -> pb.ListAddressesResponse:
        self._mirror.check_ready()
        wanted = request.filter
        ips = sorted(
            ip
            for ip, row in self._state.addresses.items()
            if not wanted or wanted in ip or wanted in row.value.namespace or wanted in row.value.pod_name
        )
        chosen, token = page(ips, str, request.page_size, request.page_token)
        return pb.ListAddressesResponse(
            addresses=[message for ip in chosen if (message := self._address(ip)) is not None],
            next_page_token=token,
            revision=self._state.revision,
        )

    async def WatchAddresses(
        self, request: pb.WatchAddressesRequest, context: Context
    ) -> AsyncIterator[pb.WatchAddressesResponse]:
        async for step in watch(self._mirror, self._watched_addresses, request.revision):
            yield step

    def _address(self, ip: str) -> pb.Address | None:
        row = self._state.addresses.get(ip)
        return wire.address_message(row.value, self._state.owner_of(ip)) if row else None

    # --- streams

    async def SubscribeIpcache(  # type: ignore[override]  # reads and writes through the context
        self, requests: Any, context: Context
    ) -> None:
        await self._ipcache.serve(context)

    async def SubscribeNodes(  # type: ignore[override]
        self, requests: Any, context: Context
    ) -> None:
        await self._nodes.serve(context)

    # --- for all

    def _admit(self, context: Context, node_name: str) -> None:
        """A node acts for itself, and not before etcd was read once."""
        if not node_name:
            raise InvalidArgument.of_field("node_name", "is empty; name the node")
        require_node(context, node_name)
        if caller(context).kind == "node":
            self._heard()
        self._mirror.check_ready()

    async def _once(
        self, context: Context, method: str, request: Any, operation: Callable[[], Awaitable[Answer]]
    ) -> Answer:
        content = request.SerializeToString(deterministic=True)
        # A caller that hangs up must not leave half of a write behind.
        work = self._requests.run(caller(context), method, request.request_id, operation, content=content)
        return await asyncio.shield(work)

    def _lease_ttl(self) -> Duration:
        return Duration(seconds=self._write.nodes.lease_seconds)
