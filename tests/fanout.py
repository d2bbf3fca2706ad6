"""Many nodes on one policy stream: the publishing side as the policy service has it, and bare shims.

    FanOut: StreamHost + codec + interest checks ──mTLS──► BareShim × n (Hello, Interest, Ack; no kernel)

Subjects share the groups of a few rules, as in a cluster: a new peer of a rule changes all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from axoneme.lib import grpcsettings  # isort: skip  (before grpc)
import grpc
from prometheus_client import CollectorRegistry

from axoneme.api.intent.v1 import intent_pb2
from axoneme.api.policy.v1 import policy_pb2 as pb
from axoneme.api.policy.v1 import policy_pb2_grpc
from axoneme.lib import certs, grpcserver
from axoneme.lib.intent import Failure
from axoneme.lib.intentstream import StreamHost
from axoneme.lib.policy.groups import Group, GroupedContributions
from axoneme.lib.policy.model import (
    Action,
    Direction,
    Enforcement,
    Origin,
    Part,
    SubjectPolicy,
    one_port,
)
from axoneme.lib.policy.precedence import precedence
from axoneme.lib.policycodec import decode_change, decode_subject, encode_subject, host_key, subject_key
from axoneme.lib.roles import parse_role
from axoneme.lib.tls import TlsFiles
from services.policy.interest import AuthorisedStream
from services.policy.records.occupancy import SLAVE_PREFIX, Occupancy
from services.policy.wire import PolicyPublisherCodec

assert grpcsettings.ENVIRONMENT

TRUST_DOMAIN = "east.mesh"
SERVER_NAME = f"policy.{TRUST_DOMAIN}"
METHOD = "/axoneme.api.policy.v1.PolicyService/SubscribeEndpointPolicies"
FIRST_SUBJECT = 100_000
FIRST_PEER = 200_000
HEADER_TAG = 0x0A
GOODBYE = Failure("UNAVAILABLE", "DRAINING", "the service stops")


def node_name(index: int) -> str:
    return f"n{index}"


def subjects_of(index: int, subjects: int, per_node: int) -> list[int]:
    """Subjects that live on a node: the first one lives on all of them."""
    rest = range(per_node - 1)
    return [FIRST_SUBJECT, *(FIRST_SUBJECT + 1 + (index * 7 + one) % (subjects - 1) for one in rest)]


class Rules:
    """A few rules that every subject has; each is a group of two ports for its peers."""

    def __init__(self, rules: int, peers: int) -> None:
        self.revision = 1
        self.groups = [self._group(number, range(peers)) for number in range(rules)]
        self.origins = {one.origin_id: one for one in map(_origin, range(rules + 1))}

    def _group(self, rule: int, peers: Iterable[int]) -> Group:
        parts = tuple(
            Part(
                direction=Direction.INGRESS, ports=one_port(6, port), action=Action.ALLOW,
                precedence=precedence(action=Action.ALLOW), origins=frozenset({_origin(rule).origin_id}),
            )
            for port in (80, 443)
        )  # fmt: skip
        return Group(parts, (), frozenset(FIRST_PEER + peer for peer in peers))

    def add_peer(self, number: int) -> None:
        """One more peer in the first rule: a new group of the same parts."""
        first = self.groups[0]
        self.groups = [Group(first.parts, first.fixed, first.numbers | {number}), *self.groups[1:]]
        self.revision += 1

    def policy(self, extra: Iterable[Group] = ()) -> SubjectPolicy:
        """The policy of a subject that has these rules, and more groups of its own."""
        return SubjectPolicy(
            ingress=Enforcement.DEFAULT_DENY, egress=Enforcement.DEFAULT_ALLOW,
            contributions=GroupedContributions([*self.groups, *extra]),
            origins=self.origins, policy_revision=self.revision,
        )  # fmt: skip

    def own_group(self, number: int, port: int) -> Group:
        """A rule of one subject alone."""
        part = Part(
            direction=Direction.EGRESS, ports=one_port(6, port), action=Action.ALLOW,
            precedence=precedence(action=Action.ALLOW), origins=frozenset({max(self.origins)}),
        )  # fmt: skip
        return Group((part,), (), frozenset({number}))


def _origin(rule: int) -> Origin:
    return Origin.of(kind="CiliumNetworkPolicy", namespace="a", name=f"p{rule}", rule="spec.ingress[0]")


class FanOut(policy_pb2_grpc.PolicyServiceServicer):
    """The publishing side of one replica."""

    def __init__(self, **options: Any) -> None:
        self.codec = PolicyPublisherCodec()
        self.occupancy = Occupancy()
        self.moved = asyncio.Event()
        self.host: StreamHost[SubjectPolicy] = StreamHost(
            "SubscribeEndpointPolicies", epoch=7, codec=self.codec, interest=True, keep_sent=True,
            registry=CollectorRegistry(), **options,
        )  # fmt: skip

    async def SubscribeEndpointPolicies(self, _requests: object, context: Any) -> None:  # type: ignore[override]
        stream: Any = AuthorisedStream(context, may_see=self.occupancy.may_see, moved=self.moved.wait)
        await self.host.serve(stream)

    def claim(self, node: str, numbers: Iterable[int]) -> None:
        """What the identity service writes when endpoints of these identities start on a node."""
        for number in numbers:
            self.occupancy.put_slave(f"{SLAVE_PREFIX}k8s:app=a{number};/{node}", str(number).encode())

    def publish(self, policies: dict[int, SubjectPolicy]) -> int:
        """One revision."""
        upserts = {subject_key(number): policy for number, policy in policies.items()}
        return self.host.apply(upserts, (), store_revision=self.host.table.store_revision + 1)

    @contextlib.asynccontextmanager
    async def serving(self, tls: TlsFiles) -> AsyncIterator[int]:
        """Serves until the block ends; yields the port."""

        def register(server: grpc.aio.Server) -> list[str]:
            policy_pb2_grpc.add_PolicyServiceServicer_to_server(self, server)
            return ["axoneme.api.policy.v1.PolicyService"]

        listener = grpcserver.Listener("127.0.0.1:0", tls, TRUST_DOMAIN)
        async with grpcserver.serving([listener], register, drain_seconds=0.5) as server:
            server.on_drain(lambda: self.host.goodbye_all(GOODBYE))
            yield server.port


def fan_out(**options: Any) -> FanOut:
    """A publishing side; the other methods of the service are not served."""
    return FanOut(**options)  # type: ignore[abstract]


def memory_folder() -> str | None:
    """A folder in memory if there is one: a thousand certificates, each forced to disk, take a minute."""
    shared = Path("/dev/shm")
    return str(shared) if shared.is_dir() else None


def certificate(ca: Path, role: str) -> TlsFiles:
    """Certificate files of a role under a CA of `certs.create_ca`."""
    parsed = parse_role(role)
    directory = ca / role.replace("/", "-")
    directory.mkdir(mode=0o700)
    certs.issue(ca, parsed, parsed.name, directory, dns_sans=["localhost"], ip_sans=["127.0.0.1"])
    return TlsFiles(directory / "ca.crt", directory / "tls.crt", directory / "tls.key")


def only_header(raw: bytes) -> pb.SubscribeEndpointPoliciesResponse:
    """A response without its changes: all that a bare shim needs, at a cost that a node does not have."""
    length, shift, position = 0, 0, 1
    assert raw[0] == HEADER_TAG
    while True:
        byte = raw[position]
        length |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return pb.SubscribeEndpointPoliciesResponse.FromString(raw[: position + length])


@dataclass
class BareShim:
    """A node's end: says what a shim says, keeps nothing unless told to."""

    channel: grpc.aio.Channel
    node: str
    numbers: list[int]
    keep: bool = False
    policies: dict[str, SubjectPolicy] = field(default_factory=dict)
    deltas: int = 0
    updates: int = 0
    hosts: Iterable[str] = ()
    paused: asyncio.Event | None = None

    async def open(self) -> Any:
        """Hello and interest."""
        call: Any = self.channel.stream_stream(
            METHOD,
            request_serializer=pb.SubscribeEndpointPoliciesRequest.SerializeToString,
            response_deserializer=(
                pb.SubscribeEndpointPoliciesResponse.FromString if self.keep else only_header
            ),
        )()
        hello = intent_pb2.Hello(node_name=self.node)
        await call.write(pb.SubscribeEndpointPoliciesRequest(hello=hello))
        await call.initial_metadata()
        keys = [*map(subject_key, self.numbers), *map(host_key, self.hosts)]
        interest = pb.Interest(added=map(encode_subject, keys))
        await call.write(pb.SubscribeEndpointPoliciesRequest(interest=interest))
        return call

    async def follow(self, call: Any) -> None:
        """Takes updates in until goodbye."""
        while True:
            if self.paused is not None:
                await self.paused.wait()
            update = await call.read()
            if update is grpc.aio.EOF or update.header.HasField("goodbye"):
                await call.done_writing()
                return
            self.updates += 1
            if self.keep:
                self._take(update)
            header = update.header
            ack = intent_pb2.Ack(nonce=header.nonce, revision=header.revision)
            await call.write(pb.SubscribeEndpointPoliciesRequest(ack=ack))

    async def run(self, opened: Callable[[], object] = lambda: None) -> None:
        call = await self.open()
        opened()
        await self.follow(call)

    def has_taken(self, updates: int) -> bool:
        """Whether so many updates came in."""
        return self.updates >= updates

    def _take(self, update: pb.SubscribeEndpointPoliciesResponse) -> None:
        for change in update.changes:
            key = decode_subject(change.subject)
            self.deltas += not change.complete
            self.policies[key] = decode_change(change, self.policies.get(key))
        for subject in update.removed_subjects:
            self.policies.pop(decode_subject(subject), None)
