"""A node's health addresses and features on their way into the registry, and labels with them."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from axoneme.lib import identities
from axoneme.lib.errors import FailedPrecondition
from shim.config import ShimConfig
from shim.features import require
from shim.membership import HEALTH_OWNER, Membership
from shim.ownnode import own_entry
from shim.routes import NodeEntry
from shim.services import Registration
from tests.unit.shim.memorynode import FakeServices, MemoryNode, wanted


class Registry(FakeServices):
    """Keeps what a node said of itself, as the identity service does."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes: list[NodeEntry] = []

    async def register(self, node: NodeEntry) -> Registration:
        self.nodes.append(node)
        return await super().register(node)


def member_of(
    node: MemoryNode, *, health: bool = True, tunnel: bool = False, ip: str = "192.0.2.1"
) -> Membership:
    async def set_routes(_: tuple[str, ...]) -> None:
        pass

    return Membership(
        NodeEntry(cluster="east", name="n1", internal_ips=(ip,)),
        services=node.services,
        workloads=node.workloads,
        ipcache=node.ipcache,
        datapath=node.datapath,
        set_routes=set_routes,
        checkpoint=lambda: None,
        rng=random.Random(1),
        sleep=node.clock.sleep,
        health=health,
        tunnel=tunnel,
    )


async def declared(*, health: bool = True) -> tuple[MemoryNode, Registry, Membership]:
    registry = Registry()
    node = MemoryNode(services=registry)
    member = member_of(node, health=health)
    await member.declare()
    return node, registry, member


async def test_the_first_registration_is_followed_by_one_with_addresses() -> None:
    node, registry, member = await declared()
    assert [one.health_ips for one in registry.nodes] == [(), member.node.health_ips]
    assert [":" in ip for ip in member.node.health_ips] == [False, True]
    for ip in member.node.health_ips:
        assert ip in node.workloads.ipam
        assert node.identity_of(ip) == identities.HEALTH
    await member.declare()
    assert len(registry.nodes) == 3, "nothing new to say the second time"


async def test_no_pod_gets_a_health_address_and_no_health_endpoint_a_pod_s() -> None:
    node, _, member = await declared()
    taken = {ip for number in range(20) for ip in (await node.workloads.add(wanted(f"p{number}"))).ips}
    assert not taken & set(member.node.health_ips)
    again = member_of(node)
    again.node = replace(again.node, health_ips=member.node.health_ips)
    await again.declare()
    assert again.node.health_ips == member.node.health_ips
    assert again.node.health_ips == node.workloads.ipam.allocate(HEALTH_OWNER, again.node.health_ips)


async def test_addresses_of_other_pod_cidrs_are_replaced() -> None:
    registry = Registry()
    node = MemoryNode(services=registry)
    member = member_of(node)
    member.node = replace(member.node, health_ips=("10.9.0.9", "fd00:9::9"))
    await member.declare()
    assert all(ip in node.workloads.ipam for ip in member.node.health_ips)
    assert registry.nodes[-1].health_ips == member.node.health_ips


async def test_without_health_there_are_none() -> None:
    node, registry, member = await declared(health=False)
    assert member.node.health_ips == ()
    assert len(registry.nodes) == 1
    member.node = replace(member.node, health_ips=("10.1.0.9",))
    member.choose_health_ips()
    assert member.node.health_ips == ()
    assert node.identity_of("10.1.0.9") != identities.HEALTH


async def test_features_are_told_once() -> None:
    _, registry, member = await declared(health=False)
    await member.set_features({"tcx": "yes", "kernel": "6.12", "long": "x" * 1000})
    assert registry.nodes[-1].features == (("kernel", "6.12"), ("long", "x" * 256), ("tcx", "yes"))
    count = len(registry.nodes)
    await member.set_features({"tcx": "yes", "kernel": "6.12", "long": "x" * 1000})
    assert len(registry.nodes) == count


@pytest.mark.parametrize(("ip", "lost"), [("192.0.2.1", "fd00:10:1::/64"), ("2001:db8::1", "10.1.0.0/24")])
async def test_a_family_without_an_address_is_a_problem_unless_there_is_a_tunnel(ip: str, lost: str) -> None:
    node = MemoryNode()
    member = member_of(node, ip=ip)
    assert member.problems() == []
    await member.declare()
    assert len(member.problems()) == 1
    assert lost in member.problems()[0]
    assert "tunnel" in member.problems()[0]
    tunnelled = member_of(node, ip=ip, tunnel=True)
    await tunnelled.declare()
    assert tunnelled.problems() == []


def test_labels_of_the_configuration_are_the_node_s() -> None:
    entry = own_entry(ShimConfig(node_name="n1", labels=("zone=b", "role=edge")))
    assert entry.labels == (("role", "edge"), ("zone", "b"))


def test_a_missing_feature_is_named() -> None:
    features = {"tcx": "yes", "maglev": "needs Linux 7"}
    require(features, "tcx", "service default/web")
    for name, why in (("maglev", "needs Linux 7"), ("dsr", "not probed")):
        with pytest.raises(FailedPrecondition, match=f"service default/web needs {name}.*{why}") as refused:
            require(features, name, "service default/web")
        assert refused.value.reason == "FEATURE_MISSING"
