"""One change, many nodes: over real gRPC with mTLS, a connection and a certificate for each node."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from axoneme.lib import certs
from axoneme.lib.channel import open_channel
from axoneme.lib.intent import Ack, Change, Hello, IntentTable, Interest, Limits, Subscription
from axoneme.lib.policy.model import SubjectPolicy
from axoneme.lib.policycodec import host_key, subject_key
from axoneme.lib.tasks import TaskScope
from services.policy.wire import PolicyPublisherCodec
from tests.conftest import scaled
from tests.fanout import (
    FIRST_PEER,
    FIRST_SUBJECT,
    SERVER_NAME,
    TRUST_DOMAIN,
    BareShim,
    FanOut,
    Rules,
    certificate,
    fan_out,
    memory_folder,
    node_name,
    subjects_of,
)
from tests.waiting import eventually

SHIMS = scaled(50, 1_000)
KEEPING = 50  # of them decode what they get; the others only acknowledge it
SUBJECTS, PER_NODE = 60, 20
CHANGES = scaled(5, 20)
SECONDS = 60.0


@pytest.fixture
def ca() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=memory_folder()) as folder:
        certs.create_ca(Path(folder), TRUST_DOMAIN)
        yield Path(folder)


@dataclass
class Cluster:
    """A replica and the nodes that listen to it."""

    service: FanOut
    rules: Rules
    shims: list[BareShim]

    async def publish(self, policies: dict[int, SubjectPolicy]) -> None:
        """Returns once every node has acknowledged."""
        revision = self.service.publish(policies)
        assert await self.service.host.wait_acknowledged(revision, timeout=SECONDS) == []

    def everyone(self) -> dict[int, SubjectPolicy]:
        return {FIRST_SUBJECT + number: self.rules.policy() for number in range(SUBJECTS)}

    def assert_held(self) -> None:
        """Each node holds what the table says of its subjects, and nothing else."""
        for shim in filter(lambda one: one.keep, self.shims):
            keys = {subject_key(number) for number in shim.numbers}
            assert shim.policies == {key: self.service.host.table.get(key) for key in keys}


@contextlib.asynccontextmanager
async def cluster(ca: Path, shims: int, hosts: Iterable[str] = ()) -> AsyncIterator[Cluster]:
    """Everything connected; no update was sent yet."""
    service = fan_out()
    made = Cluster(service, Rules(3, 5), [])
    async with (
        service.serving(certificate(ca, "svc/policy")) as port,
        contextlib.AsyncExitStack() as stack,
        TaskScope("shims") as scope,
    ):
        for index in range(shims):
            node, numbers = node_name(index), subjects_of(index, SUBJECTS, PER_NODE)
            service.claim(node, numbers)
            tls = certificate(ca, f"node/{node}")
            channel = await stack.enter_async_context(open_channel(f"127.0.0.1:{port}", tls, SERVER_NAME))
            shim = BareShim(channel, node, numbers, keep=index % (shims // KEEPING or 1) == 0, hosts=hosts)
            made.shims.append(shim)
            scope.start(node, shim.follow(await shim.open()), critical=False)
        yield made


async def test_a_change_is_serialised_once_for_all_nodes(ca: Path) -> None:
    """Content at every node, and how often the encoder ran."""
    async with cluster(ca, SHIMS) as one:
        made = one.service.codec.bodies
        one.service.publish(one.everyone())
        one.service.host.set_ready(True)
        await one.publish({})
        one.assert_held()
        assert made.made == len({number for shim in one.shims for number in shim.numbers})
        for number in range(CHANGES):
            before = made.made
            await one.publish(
                {FIRST_SUBJECT: one.rules.policy([one.rules.own_group(FIRST_PEER, 8_000 + number)])}
            )
            assert made.made == before + 1
        one.assert_held()
        assert {shim.deltas for shim in one.shims if shim.keep} == {CHANGES}
        assert {shim.updates for shim in one.shims} == {CHANGES + 1}
        before = made.made
        one.rules.add_peer(FIRST_PEER + 99)
        shared = one.rules.policy()
        await one.publish(dict.fromkeys(one.everyone(), shared))
        # Each subject had a policy object of its own, so each difference is one body, for all nodes.
        assert made.made - before <= SUBJECTS
        one.assert_held()


async def test_a_slow_node_gets_the_newest_once_and_holds_up_nobody(ca: Path) -> None:
    """The window closes; what changes meanwhile is coalesced by subject and comes as one difference."""
    async with cluster(ca, 3) as one:
        slow = one.shims[0]
        one.service.publish(one.everyone())
        one.service.host.set_ready(True)
        await one.publish({})
        slow.paused = asyncio.Event()
        burst, revision = scaled(30, 300), 0
        for number in range(burst):
            own = one.rules.own_group(FIRST_PEER, 9_000 + number)
            revision = one.service.publish({FIRST_SUBJECT: one.rules.policy([own])})
            for shim in one.shims[1:]:
                await eventually(partial(shim.has_taken, number + 2))
        received = slow.updates
        slow.paused.set()
        assert await one.service.host.wait_acknowledged(revision, timeout=SECONDS) == []
        one.assert_held()
        window = one.service.host.table.limits.window
        assert slow.updates - received <= window + 2
        assert {shim.updates for shim in one.shims[1:]} == {burst + 1}


def test_subscribers_hold_references_only() -> None:
    """What was sent is remembered by reference: memory does not grow with subscribers × sizes of policies."""
    codec, rules = PolicyPublisherCodec(), Rules(4, 50)
    table: IntentTable[SubjectPolicy] = IntentTable(epoch=1, keep_sent=True)
    keys = [subject_key(number) for number in range(100)]
    subscriptions = []
    for number in range(scaled(20, 200)):
        subscription = Subscription(table, interest=True, weigh=codec.weight)
        subscription.receive(Hello(node_name=f"n{number}"))
        subscription.receive(Interest(added=tuple(keys)))
        subscriptions.append(subscription)

    def settle() -> None:
        for subscription in subscriptions:
            while (update := subscription.next_update()) is not None:
                codec.encode(update)
                subscription.receive(Ack(nonce=update.header.nonce, revision=update.header.revision))

    for turn in range(5):
        rules.add_peer(FIRST_PEER + 1_000 + turn)
        table.apply({key: rules.policy() for key in keys}, (), store_revision=turn + 1)
        settle()
        gc.collect()
        held = sum(isinstance(one, SubjectPolicy) for one in gc.get_objects())
        assert held <= 2 * len(keys) + 10, "an old version is kept alive"
        for subscription in subscriptions:
            assert all(subscription._sent[key] is table.get(key) for key in keys)
        assert len(codec.bodies) <= len(keys)
    assert codec.bodies.made == 5 * len(keys)


async def test_a_node_gets_its_own_host_policy_alone(ca: Path) -> None:
    """Both nodes ask for both hosts."""
    async with cluster(ca, 2, hosts=["n0", "n1"]) as one:
        one.service.host.set_ready(True)
        own = {
            node: one.rules.policy([one.rules.own_group(FIRST_PEER, int(node[1:]))]) for node in ("n0", "n1")
        }
        upserts = {host_key(node): policy for node, policy in own.items()}
        revision = one.service.host.apply(upserts, (), store_revision=1)
        assert await one.service.host.wait_acknowledged(revision, timeout=SECONDS) == []
        for shim in one.shims:
            expected = {host_key(shim.node): own[shim.node]}
            await eventually(partial(shim.policies.__eq__, expected))


def test_a_batch_ends_at_its_weight() -> None:
    """The weight is that of the serialised change, so updates stay below gRPC's limit."""
    codec, rules = PolicyPublisherCodec(), Rules(1, 2_000)
    table: IntentTable[SubjectPolicy] = IntentTable(epoch=1, keep_sent=True, limits=Limits(window=100))
    policy = rules.policy()
    table.apply({subject_key(number): policy for number in range(40)}, (), store_revision=1)
    subscription = Subscription(table, weigh=codec.weight)
    subscription.receive(Hello(node_name="n"))
    sizes = []
    while (update := subscription.next_update()) is not None:
        sizes.append(len(codec.encode(update)))
    size = codec.weight(Change(subject_key(0), policy))
    assert len(sizes) > 1
    assert max(sizes) < table.limits.batch_bytes + 2 * size
    assert codec.bodies.made == 1
