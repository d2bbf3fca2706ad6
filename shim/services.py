"""The services that a shim calls, as it sees them: typed calls with deadlines, errors of
`axoneme.lib.errors`.

One unavailable target moves the channel on to the next. In a test a fake takes the place of this class.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import grpc

from axoneme.api.identity.v1 import identity_pb2, identity_pb2_grpc
from axoneme.api.policy.v1 import policy_pb2, policy_pb2_grpc
from axoneme.lib.channel import ServiceChannel
from axoneme.lib.errors import Unavailable
from axoneme.lib.labels import LabelSet
from axoneme.lib.rpcerrors import error_from_rpc
from shim.endpoints import Endpoint
from shim.namedports import named_ports_message
from shim.routes import NodeEntry
from shim.wire import node_entry, node_message

T = TypeVar("T")

CALL_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """What the identity service gave this node."""

    node: NodeEntry
    lease_ttl_seconds: float


class ControlPlane(Protocol):
    """Unary calls of a shim. Every method may raise AxonemeError."""

    async def register(self, node: NodeEntry) -> Registration:
        """Declares this node."""

    async def renew(self) -> float:
        """Keeps the node's leases; returns their time to live in seconds."""

    async def allocate_identity(self, labels: LabelSet, request_id: str) -> int:
        """The number of a label set."""

    async def release_identity(self, identity: int) -> None:
        """Drops this node's reference."""

    async def await_identity(self, identity: int, labels: LabelSet) -> bool:
        """Whether every node whose maps the number changes has acknowledged within 1 s."""

    async def publish(self, endpoints: Sequence[Endpoint], host_ip: str, *, complete: bool) -> bool:
        """Publishes addresses; whether every connected node holds them."""

    async def withdraw(self, ips: Sequence[str]) -> None:
        """Withdraws addresses."""


class Services:
    """The calls over gRPC."""

    def __init__(self, identity: ServiceChannel, policy: ServiceChannel, *, node_name: str) -> None:
        self._identity_channel, self._policy_channel = identity, policy
        self._node_name = node_name

    async def register(self, node: NodeEntry) -> Registration:
        """Wanted PodCIDRs go in, given ones come back."""
        request = identity_pb2.RegisterNodeRequest(node=node_message(node))
        answer = await self._identity(lambda stub: stub.RegisterNode(request, timeout=CALL_SECONDS))
        ttl = answer.lease_ttl.ToTimedelta().total_seconds()
        return Registration(node=node_entry(answer.node), lease_ttl_seconds=ttl)

    async def renew(self) -> float:
        """Raises NotFound when the leases are gone: declare everything again."""
        request = identity_pb2.RenewNodeRequest(node_name=self._node_name)
        answer = await self._identity(lambda stub: stub.RenewNode(request, timeout=CALL_SECONDS))
        return answer.lease_ttl.ToTimedelta().total_seconds()

    async def allocate_identity(self, labels: LabelSet, request_id: str) -> int:
        """Idempotent by labels."""
        request = identity_pb2.AllocateIdentityRequest(
            request_id=request_id,
            labels=[_full(label) for label in labels.texts()],
            node_name=self._node_name,
        )
        answer = await self._identity(lambda stub: stub.AllocateIdentity(request, timeout=CALL_SECONDS))
        return answer.identity.identity

    async def release_identity(self, identity: int) -> None:
        """Idempotent."""
        request = identity_pb2.ReleaseIdentityRequest(identity=identity, node_name=self._node_name)
        await self._identity(lambda stub: stub.ReleaseIdentity(request, timeout=CALL_SECONDS))

    async def await_identity(self, identity: int, labels: LabelSet) -> bool:
        """Waits 1 s at most, as the service does by itself."""
        request = policy_pb2.AwaitIdentityRequest(
            identity=identity, labels=[_full(label) for label in labels.texts()]
        )
        request.timeout.FromMilliseconds(1000)
        answer = await self._policy(lambda stub: stub.AwaitIdentity(request, timeout=CALL_SECONDS))
        return answer.acknowledged

    async def publish(self, endpoints: Sequence[Endpoint], host_ip: str, *, complete: bool) -> bool:
        """One call, since only a whole list can be complete; max_addresses_per_node bounds it there."""
        addresses = [
            identity_pb2.Address(
                ip=ip,
                identity=e.identity,
                host_ip=host_ip,
                namespace=e.namespace,
                pod_name=e.pod_name,
                named_ports=named_ports_message(e.named_ports),
            )
            for e in endpoints
            for ip in e.ips
        ]
        request = identity_pb2.PublishAddressesRequest(
            node_name=self._node_name, addresses=addresses, complete=complete
        )
        answer = await self._identity(lambda stub: stub.PublishAddresses(request, timeout=CALL_SECONDS))
        return answer.acknowledged

    async def withdraw(self, ips: Sequence[str]) -> None:
        """Idempotent."""
        request = identity_pb2.WithdrawAddressesRequest(node_name=self._node_name, ips=ips)
        await self._identity(lambda stub: stub.WithdrawAddresses(request, timeout=CALL_SECONDS))

    async def _identity(
        self, call: Callable[[identity_pb2_grpc.IdentityServiceAsyncStub], Awaitable[T]]
    ) -> T:
        channel = self._identity_channel
        return await _called(channel, lambda: call(identity_pb2_grpc.IdentityServiceStub(channel.current())))

    async def _policy(self, call: Callable[[policy_pb2_grpc.PolicyServiceAsyncStub], Awaitable[T]]) -> T:
        channel = self._policy_channel
        return await _called(channel, lambda: call(policy_pb2_grpc.PolicyServiceStub(channel.current())))


async def _called(channel: ServiceChannel, call: Callable[[], Awaitable[T]]) -> T:
    try:
        return await call()
    except grpc.RpcError as error:
        meant = error_from_rpc(error)
        if isinstance(meant, Unavailable) and len(channel.targets) > 1:
            channel.move_on()
        raise meant from error


def _full(text: str) -> str:
    return text if "=" in text else f"{text}="
