"""The look at attached programs: what is missing comes back at once, is counted and named."""

from __future__ import annotations

import asyncio

import pytest

from axoneme.lib.errors import Unavailable
from shim.datapath import InterfaceState
from shim.endpoints import Endpoint
from shim.links import REMEMBER_SECONDS, LinkCheck
from shim.memorydatapath import MemoryDatapath
from shim.network import NetworkFacts, NetworkSettings
from shim.nodenetwork import NodeNetwork
from tests.unit.shim.memorynode import MemoryNode, wanted


def strip(node: MemoryNode, endpoint: Endpoint) -> None:
    """Takes the programs off, as somebody who removes a pin does."""
    node.datapath._interfaces[endpoint.endpoint_id] = InterfaceState(ifindex=endpoint.ifindex, attached=False)


async def attached(node: MemoryNode, endpoint: Endpoint) -> bool:
    return (await node.datapath.interfaces())[endpoint.endpoint_id].attached


async def test_missing_programs_are_attached_again_counted_and_named() -> None:
    node = MemoryNode()
    one, two = [await node.workloads.add(wanted(name)) for name in ("a", "b")]
    links = LinkCheck(node.workloads, clock=node.clock)
    assert await links.run() == []
    strip(node, one)
    assert await links.run() == [f"programs: {one.interface_name}: missing, attached again"]
    assert await attached(node, one)
    assert links.repairs == 1
    node.clock.advance(30)
    problem = links.problems()[0]
    assert f"{one.interface_name} (default/a)" in problem
    assert "30 s ago" in problem
    assert two.interface_name not in problem
    node.clock.advance(REMEMBER_SECONDS)
    assert links.problems() == []


async def test_it_looks_at_its_interval() -> None:
    node = MemoryNode()
    endpoint = await node.workloads.add(wanted())
    links = LinkCheck(node.workloads, clock=node.clock)
    looking = asyncio.ensure_future(links.keep(10.0, sleep=node.clock.sleep))
    await asyncio.sleep(0)
    strip(node, endpoint)
    node.clock.advance(9.9)
    await settle()
    assert not await attached(node, endpoint)
    node.clock.advance(0.2)
    await settle()
    assert await attached(node, endpoint)
    looking.cancel()


async def test_an_endpoint_that_is_being_made_or_removed_is_left_alone() -> None:
    node = MemoryNode()
    endpoint = await node.workloads.add(wanted())
    strip(node, endpoint)
    links = LinkCheck(node.workloads, clock=node.clock)
    async with node.workloads.locks.of(endpoint.name):
        assert await links.run() == []
    assert links.problems() == []


async def test_what_cannot_be_checked_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    node = MemoryNode()
    endpoint = await node.workloads.add(wanted())
    strip(node, endpoint)
    links = LinkCheck(node.workloads, clock=node.clock)

    async def refuse(*_: object) -> None:
        raise Unavailable("no helper")

    for name in ("attach", "interfaces"):
        with monkeypatch.context() as patch:
            patch.setattr(node.datapath, name, refuse)
            with pytest.raises(Unavailable):
                await links.run()
            assert "cannot be checked: no helper" in links.problems()[0]
    await links.run()
    assert links.repairs == 1


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_after_a_failure_it_looks_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    node = MemoryNode()
    endpoint = await node.workloads.add(wanted())
    strip(node, endpoint)
    links = LinkCheck(node.workloads, clock=node.clock)

    async def refuse() -> None:
        raise Unavailable("no helper")

    looking = asyncio.ensure_future(links.keep(10.0, sleep=node.clock.sleep))
    await asyncio.sleep(0)
    with monkeypatch.context() as patch:
        patch.setattr(node.datapath, "interfaces", refuse)
        node.clock.advance(10.1)
        await settle()
    assert links.problems()
    node.clock.advance(1.1)
    await settle()
    assert await attached(node, endpoint)
    looking.cancel()


class Stripped(MemoryDatapath):
    """Says of its network what a test wants to have been put back."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: tuple[str, ...] = ()

    async def set_up_network(self, settings: NetworkSettings) -> NetworkFacts:
        found, self.taken = self.taken, ()
        return NetworkFacts(uplink="eth0", repaired=found)


async def test_the_nodes_own_programs_come_back_with_the_same_look() -> None:
    node, datapath = MemoryNode(), Stripped()
    network = NodeNetwork(datapath, NetworkSettings(), lambda _: None)
    links = LinkCheck(node.workloads, network, clock=node.clock)
    datapath.taken = ("uplink: axoneme_from_netdev",)
    assert await links.run() == [], "the network was not made yet"
    await network.bring_up()
    assert await links.run() == []
    looking = asyncio.ensure_future(links.keep(10.0, sleep=node.clock.sleep))
    await asyncio.sleep(0)
    datapath.taken = ("uplink: axoneme_from_netdev", "dns_proxy: IPv4 rule")
    node.clock.advance(10.1)
    await settle()
    looking.cancel()
    assert not datapath.taken
    assert links.repairs == 2
    assert [problem.partition(";")[0] for problem in links.problems()] == [
        "somebody took dns_proxy: IPv4 rule",
        "somebody took uplink: axoneme_from_netdev",
    ]


async def test_a_network_that_cannot_be_checked_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    node, datapath = MemoryNode(), Stripped()
    endpoint = await node.workloads.add(wanted())
    network = NodeNetwork(datapath, NetworkSettings(), lambda _: None)
    await network.bring_up()
    links = LinkCheck(node.workloads, network, clock=node.clock)
    strip(node, endpoint)

    async def refuse(_: object) -> None:
        raise Unavailable("no helper")

    monkeypatch.setattr(datapath, "set_up_network", refuse)
    with pytest.raises(Unavailable):
        await links.run()
    assert "cannot be checked: no helper" in links.problems()[0]
    assert await attached(node, endpoint), "the endpoints come first"
