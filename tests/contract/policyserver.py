"""A policy service in this process, on loopback with mTLS, over any store."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
from prometheus_client import CollectorRegistry

from axoneme.api.policy.v1 import policy_pb2 as pb
from axoneme.api.policy.v1 import policy_pb2_grpc
from axoneme.lib import grpcserver
from axoneme.lib.channel import open_channel
from axoneme.lib.intent import Failure
from axoneme.lib.intentstream.host import StreamHost
from axoneme.lib.kvstore import layout
from axoneme.lib.kvstore.port import Store
from axoneme.lib.labels import LabelSet
from axoneme.lib.policy.dnsrules import DnsRules
from axoneme.lib.policy.model import SubjectPolicy
from axoneme.lib.policycodec import decode_change, decode_subject
from axoneme.lib.policycodec.dnsstream import DnsRulesPublisher
from axoneme.lib.requests import RequestLog
from axoneme.lib.tasks import TaskScope
from axoneme.lib.tls import TlsFiles
from services.policy.records.occupancy import IDENTITY_PREFIX, SLAVE_PREFIX
from services.policy.records.reporter import ProgressReporter
from services.policy.server import PolicyServicer
from services.policy.settings import PolicySettings
from services.policy.state import PolicyState
from services.policy.store import PolicyStore
from services.policy.wire import PolicyPublisherCodec

Issue = Callable[[str], TlsFiles]
TRUST_DOMAIN = "east.mesh"
CLUSTER = "east"
SETTINGS = PolicySettings(cluster_name=CLUSTER)


@dataclass
class RunningPolicy:
    """The parts that tests look at."""

    state: PolicyState
    store: Store
    port: int
    issue: Issue
    reporter: ProgressReporter
    """Reports nothing by itself: tests take its steps."""

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

    async def add_address(
        self, ip: str, number: int, pod: str = "", *, ports: Mapping[str, int] | None = None
    ) -> None:
        """What a node writes about an endpoint; `pod` is namespace/name, ports are TCP's."""
        namespace, _, name = pod.partition("/")
        named = [{"Name": key, "Port": port, "Protocol": "TCP"} for key, port in (ports or {}).items()]
        value = {"IP": ip, "ID": number, "K8sNamespace": namespace, "K8sPodName": name, "NamedPorts": named}
        await self.store.put(f"{layout.IPS}{ip}", json.dumps(value).encode())

    async def add_node(self, name: str, *addresses: str, **labels: str) -> None:
        """What a node writes about itself."""
        found = [{"Type": "InternalIP", "IP": one} for one in addresses]
        value = {"Name": name, "Cluster": CLUSTER, "Labels": labels, "IPAddresses": found}
        await self.store.put(layout.node_key(CLUSTER, name), json.dumps(value).encode())

    async def caught_up(self) -> None:
        """Wait until everything that is in the store is in the state."""
        assert await self.state.wait_revision(await self.store.revision(), 10)

    async def claim(self, number: int, labels: LabelSet, node: str) -> None:
        """The slave key of a node."""
        await self.store.put(f"{SLAVE_PREFIX}{labels.key}/{node}", str(number).encode())


@contextlib.asynccontextmanager
async def running_policy(
    store: Store, issue: Issue, *, settings: PolicySettings = SETTINGS, replica: str = "first", epoch: int = 7
) -> AsyncIterator[RunningPolicy]:
    """Serve until the block ends."""
    registry = CollectorRegistry()
    host: StreamHost[SubjectPolicy] = StreamHost(
        "SubscribeEndpointPolicies",
        epoch=epoch,
        codec=PolicyPublisherCodec(),
        interest=True,
        keep_sent=True,
        registry=registry,
        store_revision_now=store.revision,
    )
    dns_host: StreamHost[DnsRules] = StreamHost(
        "SubscribeDnsRules",
        epoch=epoch,
        codec=DnsRulesPublisher(),
        interest=True,
        registry=registry,
        store_revision_now=store.revision,
    )
    state = PolicyState(settings=settings, host=host, dns_host=dns_host, registry=registry, replica=replica)
    reporter = ProgressReporter(store, replica=replica, progress=state.own_progress)
    servicer = PolicyServicer(state=state, store=PolicyStore(store), kvstore=store, log=RequestLog())

    def register(server: grpc.aio.Server) -> list[str]:
        policy_pb2_grpc.add_PolicyServiceServicer_to_server(servicer, server)
        return ["axoneme.api.policy.v1.PolicyService"]

    listener = grpcserver.Listener("127.0.0.1:0", issue("svc/policy"), TRUST_DOMAIN)
    async with (
        TaskScope("test policy") as scope,
        grpcserver.serving([listener], register, drain_seconds=0.1, registry=registry) as server,
    ):
        for one in (host, dns_host):
            server.on_drain(partial(one.goodbye_all, Failure("UNAVAILABLE", "DRAINING", "test ends")))
        scope.start("watch", state.run(store))
        assert await state.wait_revision(0, 5)
        yield RunningPolicy(state, store, server.port, issue, reporter)


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

    async def step(
        self, *, acknowledge: bool = True, failures: Mapping[str, str] | None = None
    ) -> pb.SubscribeEndpointPoliciesResponse:
        """Take one update in; `failures` are reported for subjects (key → reason)."""
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
            for key, message in (failures or {}).items():
                failed = ack.ack.failures.add(key=key)
                failed.failure.code, failed.failure.reason = "RESOURCE_EXHAUSTED", "MAP_FULL"
                failed.failure.message = message
            await self._call.write(ack)
        return update

    async def until(self, done: Callable[[dict[str, SubjectPolicy]], bool]) -> None:
        """Take updates in until something holds."""
        while not done(self.policies):
            await self.step()

    def cancel(self) -> None:
        """Break the stream."""
        self._call.cancel()
