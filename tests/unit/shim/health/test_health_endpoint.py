"""The health endpoint among the endpoints of a node: reserved, never published, never locked by a policy."""

from __future__ import annotations

from dataclasses import replace

from axoneme.lib import identities
from axoneme.lib.errors import Unavailable
from axoneme.lib.policy.model import Direction
from shim.endpoints import EndpointState
from shim.health.endpoint import HealthEndpoint
from tests.unit.shim.memorynode import MemoryNode, wanted

IPS = ("10.1.0.200", "fd00:10:1::c8")
NETNS = "/run/netns/axh-1"


async def made(node: MemoryNode) -> HealthEndpoint:
    health = HealthEndpoint(node.workloads, node.policies)
    await health.prepare()
    await health.follow(IPS, NETNS)
    assert health.problems() == []
    return health


async def test_it_lets_everything_pass_and_nobody_is_asked() -> None:
    node = MemoryNode()
    node.default_policy = None
    await made(node)
    endpoint = node.endpoints.find("", "health")
    assert endpoint is not None
    assert endpoint.state is EndpointState.READY
    assert endpoint.identity == identities.HEALTH
    for ip in IPS:
        assert node.identity_of(ip) == identities.HEALTH
        for direction in Direction:
            assert node.verdict(endpoint, direction, ip, 6, 4240) == "allow"
    assert node.services.calls == []
    assert node.interest == set()


async def test_it_follows_addresses_and_namespace() -> None:
    node = MemoryNode()
    health = await made(node)
    first = node.endpoints.find("", "health")
    await health.follow(IPS, NETNS)
    assert node.endpoints.find("", "health") == first
    await health.follow(IPS[:1], NETNS)
    second = node.endpoints.find("", "health")
    assert second is not None
    assert second.ips == IPS[:1]
    assert node.identity_of(IPS[1]) != identities.HEALTH
    await health.follow(IPS, "")
    assert node.endpoints.find("", "health") is None
    assert node.services.calls == []


async def test_a_failure_is_told_and_tried_again() -> None:
    node = MemoryNode()
    health = HealthEndpoint(node.workloads, node.policies)
    await health.prepare()

    async def refuse(_: object) -> None:
        raise Unavailable("the helper is away")

    real, node.datapath.attach = node.datapath.attach, refuse  # type: ignore[method-assign, assignment]
    await health.follow(IPS, NETNS)
    assert "the helper is away" in health.problems()[0]
    assert node.endpoints.find("", "health") is None
    node.datapath.attach = real  # type: ignore[method-assign]
    await health.follow(IPS, NETNS)
    assert health.problems() == []
    assert node.endpoints.find("", "health") is not None


async def test_a_restart_keeps_it_without_asking() -> None:
    first = MemoryNode()
    await made(first)
    pod = await first.workloads.add(wanted())
    stored = [replace(one) for one in first.endpoints]
    again = MemoryNode(first.datapath)
    again.default_policy = None
    await again.workloads.restore(stored)
    health = HealthEndpoint(again.workloads, again.policies)
    await health.prepare()
    await health.follow(IPS, NETNS)
    kept = again.endpoints.find("", "health")
    assert kept is not None
    assert kept.state is EndpointState.READY
    assert again.interest == {f"subject:{pod.identity}"}
    assert again.services.calls == []
