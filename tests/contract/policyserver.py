"""A policy service in this process, on loopback with mTLS, over any store."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import grpc
from prometheus_client import CollectorRegistry

from axoneme.api.policy.v1 import policy_pb2 as pb
from axoneme.api.policy.v1 import policy_pb2_grpc
from axoneme.lib import grpcserver
from axoneme.lib.channel import open_channel
from axoneme.lib.intent import Failure
from axoneme.lib.intentstream.host import StreamHost
from axoneme.lib.kvstore.port import Store
from axoneme.lib.labels import LabelSet
from axoneme.lib.policy.model import SubjectPolicy
from axoneme.lib.policycodec import decode_change, decode_subject
from axoneme.lib.requests import RequestLog
from axoneme.lib.tasks import TaskScope
from axoneme.lib.tls import TlsFiles
from services.policy.occupancy import IDENTITY_PREFIX, SLAVE_PREFIX
from services.policy.server import PolicyServicer
from services.policy.state import PolicyState
from services.policy.store import PolicyStore
from services.policy.wire import PolicyPublisherCodec

Issue = Callable[[str], TlsFiles]
TRUST_DOMAIN = "east.mesh"


@dataclass
class RunningPolicy:
    """The parts that tests look at."""

    state: PolicyState
    store: Store
    port: int
    issue: Issue

    @contextlib.asynccontextmanager
    async def client(self, role: str) -> AsyncIterator[policy_pb2_grpc.PolicyServiceAsyncStub]:
        """A stub with the certificate of a role."""
        channel = open_channel(f"127.0.0.1:{self.port}", self.issue(role), "policy.east.mesh")
        async with channel:
            stub: Any = policy_pb2_grpc.PolicyServiceStub(channel)
            yield stub

    async def add_identity(self, number: int, labels: LabelSet, *nodes: str) -> None:
        """What the identity service writes."""
        await self.store.put(f"{IDENTITY_PREFIX}{number}", labels.key.encode())
        for node in nodes:
            await self.claim(number, labels, node)

    async def claim(self, number: int, labels: LabelSet, node: str) -> None:
        """The slave key of a node."""
        await self.store.put(f"{SLAVE_PREFIX}{labels.key}/{node}", str(number).encode())


@contextlib.asynccontextmanager
async def running_policy(store: Store, issue: Issue) -> AsyncIterator[RunningPolicy]:
    """Serve until the block ends."""
    registry = CollectorRegistry()
    host: StreamHost[SubjectPolicy] = StreamHost(
        "SubscribeEndpointPolicies",
        epoch=7,
        codec=PolicyPublisherCodec(),
        interest=True,
        keep_sent=True,
        registry=registry,
        store_revision_now=store.revision,
    )
    state = PolicyState(cluster_name="east", host=host, registry=registry)
    servicer = PolicyServicer(state=state, store=PolicyStore(store), kvstore=store, log=RequestLog())

    def register(server: grpc.aio.Server) -> list[str]:
        policy_pb2_grpc.add_PolicyServiceServicer_to_server(servicer, server)
        return ["axoneme.api.policy.v1.PolicyService"]

    listener = grpcserver.Listener("127.0.0.1:0", issue("svc/policy"), TRUST_DOMAIN)
    async with (
        TaskScope("test policy") as scope,
        grpcserver.serving([listener], register, drain_seconds=0.1, registry=registry) as server,
    ):
        server.on_drain(lambda: host.goodbye_all(Failure("UNAVAILABLE", "DRAINING", "test ends")))
        scope.start("watch", state.run(store))
        assert await state.wait_revision(0, 5)
        yield RunningPolicy(state, store, server.port, issue)


class NodeStream:
    """A shim's end of the stream, by hand: keeps what it was told, acknowledges unless told not to."""

    def __init__(self, stub: policy_pb2_grpc.PolicyServiceAsyncStub, node: str) -> None:
        self._call: Any = stub.SubscribeEndpointPolicies()  # type: ignore[call-arg]
        self._node = node
        self.policies: dict[str, SubjectPolicy] = {}
        self.deltas = 0

    async def start(self, *subjects: int) -> None:
        """Hello and the first interest."""
        hello = pb.SubscribeEndpointPoliciesRequest()
        hello.hello.node_name = self._node
        await self._call.write(hello)
        await self._call.initial_metadata()
        await self.interest(*subjects)

    async def interest(self, *subjects: int) -> None:
        """Declare subjects."""
        request = pb.SubscribeEndpointPoliciesRequest()
        request.interest.SetInParent()
        for subject in subjects:
            request.interest.added.add(identity=subject)
        await self._call.write(request)

    async def step(self, *, acknowledge: bool = True) -> pb.SubscribeEndpointPoliciesResponse:
        """Take one update in."""
        update = await self._call.read()
        assert update is not grpc.aio.EOF, await self._call.code()
        for change in update.changes:
            key = decode_subject(change.subject)
            self.deltas += not change.complete
            self.policies[key] = decode_change(change, self.policies.get(key))
        for subject in update.removed_subjects:
            self.policies.pop(decode_subject(subject), None)
        if acknowledge:
            ack = pb.SubscribeEndpointPoliciesRequest()
            ack.ack.nonce, ack.ack.revision = update.header.nonce, update.header.revision
            await self._call.write(ack)
        return update

    async def until(self, done: Callable[[dict[str, SubjectPolicy]], bool]) -> None:
        """Take updates in until something holds."""
        while not done(self.policies):
            await self.step()

    def cancel(self) -> None:
        """Break the stream."""
        self._call.cancel()
