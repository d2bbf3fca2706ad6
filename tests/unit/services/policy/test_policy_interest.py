"""Who may see which subject: claimed identities, reserved numbers, the own host."""

from __future__ import annotations

import asyncio
from typing import Any

from axoneme.lib import grpcsettings  # isort: skip  (before grpc)
import grpc

from axoneme.api.intent.v1 import intent_pb2
from axoneme.api.policy.v1 import policy_pb2 as pb
from axoneme.lib import identities
from axoneme.lib.policycodec import subject_keys
from axoneme.lib.tasks import TaskScope
from services.policy.interest import AuthorisedStream
from services.policy.records.occupancy import SLAVE_PREFIX, Occupancy

assert grpcsettings.ENVIRONMENT


class Node:
    """A stream whose messages tests put in, and the state behind it."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[Any] = asyncio.Queue()
        self.occupancy = Occupancy()
        self._moved = asyncio.Event()
        self.stream = AuthorisedStream(self, may_see=self.occupancy.may_see, moved=lambda: self._moved.wait())  # type: ignore[arg-type]
        hello = intent_pb2.Hello(node_name="n1")
        self.messages.put_nowait(pb.SubscribeEndpointPoliciesRequest(hello=hello))

    async def read(self) -> Any:
        return await self.messages.get()

    def say(self, *added: pb.Subject, removed: tuple[pb.Subject, ...] = ()) -> None:
        interest = pb.Interest(added=added, removed=removed)
        self.messages.put_nowait(pb.SubscribeEndpointPoliciesRequest(interest=interest))

    def claim(self, number: int, node: str = "n1") -> None:
        self.occupancy.put_slave(f"{SLAVE_PREFIX}k8s:app=a{number};/{node}", str(number).encode())
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    async def heard(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The next interest that the host gets."""
        while (message := await asyncio.wait_for(self.stream.read(), 5)).WhichOneof("kind") != "interest":
            pass
        return subject_keys(message.interest.added), subject_keys(message.interest.removed)


async def test_claimed_and_reserved_pass_and_others_wait() -> None:
    node = Node()
    node.claim(70_000)
    node.say(pb.Subject(identity=70_000), pb.Subject(identity=70_001), pb.Subject(identity=identities.INIT))
    assert await node.heard() == (("subject:70000", f"subject:{identities.INIT}"), ())
    node.claim(70_001, "n2")  # another node's claim is none of this node's
    async with TaskScope("reader") as scope:
        reading = scope.start("read", node.heard(), critical=False)
        await asyncio.sleep(0)
        assert not reading.done()
        node.claim(70_001)
        assert await reading == (("subject:70001",), ())


async def test_what_is_dropped_while_it_waits_never_comes() -> None:
    node = Node()
    node.say(pb.Subject(identity=70_001))
    assert await node.heard() == ((), ())
    node.say(removed=(pb.Subject(identity=70_001),))
    assert await node.heard() == ((), ("subject:70001",))
    node.claim(70_001)
    node.say(pb.Subject(identity=identities.INIT))
    assert await node.heard() == ((f"subject:{identities.INIT}",), ())


async def test_a_node_sees_its_own_host_only() -> None:
    """The host policy of another node is left out at once: it would never be allowed."""
    node = Node()
    node.say(pb.Subject(host_of_node="n1"), pb.Subject(host_of_node="n2"), pb.Subject(host_of_node="n"))
    assert await node.heard() == (("host:n1",), ())
    assert not node.stream._held


async def test_messages_pass_while_interest_waits_and_afterwards() -> None:
    """A read that began while interest was held back is not lost when the interest is released."""
    node = Node()
    node.say(pb.Subject(identity=70_001))
    assert await node.heard() == ((), ())
    ack = pb.SubscribeEndpointPoliciesRequest(ack=intent_pb2.Ack(nonce=1))
    async with TaskScope("reader") as scope:
        reading = scope.start("read", node.stream.read(), critical=False)
        await asyncio.sleep(0)
        node.claim(70_001)
        released = await asyncio.wait_for(reading, 5)
        assert subject_keys(released.interest.added) == ("subject:70001",)
        for _ in range(2):
            node.messages.put_nowait(ack)
            assert await asyncio.wait_for(node.stream.read(), 5) == ack
    node.messages.put_nowait(grpc.aio.EOF)
    assert await asyncio.wait_for(node.stream.read(), 5) is grpc.aio.EOF
