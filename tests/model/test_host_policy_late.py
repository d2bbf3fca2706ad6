"""Advisory CVE-2024-42488 down to the kernel: the map of a node's host, whatever comes last.

The class is a host firewall that never closed because the node's labels came after its policies. The engine
alone is in `test_policy_advisories_late`; here its answers go through the shim into `axoneme_policy[0]`.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from typing import Final

from axoneme.lib.labels import RESERVED, Label, LabelSet
from axoneme.lib.policy.model import SubjectPolicy
from axoneme.lib.policycodec import host_key
from services.policy.inputs import Node, PolicySettings
from services.policy.resolution.engine import PolicyEngine
from shim.endpoints import EndpointState
from shim.maps import layout
from shim.maps.layout import HOST_ENDPOINT_ID
from tests.model.advisorycases import TCP80, address, ccnp, everywhere, parsed, single
from tests.unit.shim.memorynode import MemoryNode

NODE: Final = "n1"
ROLE: Final = Label("node", "role", "edge")


class World:
    """A policy service and a node whose shim has a host firewall."""

    def __init__(self, family: int, cluster: str) -> None:
        self.engine = PolicyEngine(PolicySettings(cluster_name=cluster, host_firewall=True))
        self.node = MemoryNode(host=True)
        self.interested = False
        self._spec = {
            "nodeSelector": {"matchLabels": {"role": "edge"}},
            "ingress": [{"fromCIDR": [single(address(family))], "toPorts": TCP80}],
        }

    async def learn_node(self) -> None:
        if NODE not in self.engine.nodes:
            self.engine.put_node(_node())

    async def learn_labels(self) -> None:
        self.engine.put_node(_node(ROLE))

    async def lose_labels(self) -> None:
        self.engine.put_node(_node())

    async def learn_policy(self) -> None:
        self.engine.put_policy(parsed(ccnp(self._spec, name="host")))

    async def lose_policy(self) -> None:
        self.engine.remove_policy(parsed(ccnp(self._spec, name="host")).key)

    async def open_map(self) -> None:
        """The shim comes: it asks for the subject, and gets what there is."""
        self.interested = True
        await self._send(self.engine.host(NODE))

    async def drain(self) -> None:
        """What changed goes to the node, as the stream would bring it."""
        changed = self.engine.drain(1).upserts
        if host_key(NODE) in changed and self.interested:
            await self._send(self.engine.host(NODE))

    async def _send(self, policy: SubjectPolicy | None) -> None:
        if policy is not None:
            assert not await self.node.policies.apply({host_key(NODE): policy}, (), complete=False)

    def held(self) -> set[tuple[object, ...]] | None:
        """The host's map in the kernel; a prefix stands for itself, since its number may differ."""
        held = self.node.policies.map_of(HOST_ENDPOINT_ID)
        if held is None:
            return None
        named = {number: prefix for prefix, number in self.node.ipcache._placed.items()}
        rows = [(layout.policy_key_from_bytes(k), layout.PolicyEntry.unpack(v)) for k, v in held.items()]
        return {
            (key.direction, key.ports, named.get(key.identity, key.identity), entry.action, entry.precedence)
            for key, entry in rows
        }


def _node(*labels: Label) -> Node:
    found = sorted((Label(RESERVED, "host", ""), *labels), key=lambda label: label.key)
    return Node(name=NODE, labels=LabelSet(tuple(found)))


Step = Callable[[World], Awaitable[None]]
STEPS: Final[tuple[Step, ...]] = (World.learn_labels, World.learn_policy, World.learn_node, World.open_map)


@everywhere
async def test_every_order_of_arrival_closes_the_host(family: int, cluster: str) -> None:
    """In each of the 24 orders of {labels, policy, node, firewall map}, drained between any two or not."""
    expected = None
    for order in itertools.permutations(STEPS):
        for drained_between in (False, True):
            world = World(family, cluster)
            for step in order:
                await step(world)
                if drained_between:
                    await world.drain()
            await world.drain()
            content = world.held()
            expected = expected or content
            assert content is not None
            assert content == expected
            assert world.node.host is not None
            assert world.node.host.endpoint.state is EndpointState.READY


@everywhere
async def test_labels_and_policies_come_and_go(family: int, cluster: str) -> None:
    """The host is closed exactly while both are there; each change raises the generation."""
    world = World(family, cluster)
    for step in STEPS:
        await step(world)
    await world.drain()
    closed = world.held()
    for lose, learn in ((World.lose_labels, World.learn_labels), (World.lose_policy, World.learn_policy)):
        generations = len(world.node.host_generations)
        await lose(world)
        await world.drain()
        assert world.held() != closed
        await learn(world)
        await world.drain()
        assert world.held() == closed
        assert len(world.node.host_generations) >= generations + 2
    assert len(set(world.node.host_generations)) == len(world.node.host_generations)
