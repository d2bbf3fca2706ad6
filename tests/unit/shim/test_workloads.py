"""The order in which endpoints come and go, what a failure leaves behind, and what a restart takes over."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import pytest

from axoneme.lib.errors import AlreadyExists, InvalidArgument, NotFound, Unavailable
from axoneme.lib.identities import HOST
from axoneme.lib.policy.model import IdentityPeer
from shim.datapath import Interface
from shim.endpoints import Endpoint, EndpointState
from shim.maps import base, layout
from shim.membership import Membership
from shim.routes import NodeEntry
from tests.unit.shim.memorynode import ALLOW_ALL, MemoryNode, allow, wanted


async def test_an_endpoint_is_published_last() -> None:
    node = MemoryNode()
    endpoint = await node.workloads.add(wanted())
    assert node.services.calls == ["allocate", "await", "publish"]
    assert endpoint.state is EndpointState.READY
    assert endpoint.ips == ("10.1.0.2", "fd00:10:1::2")
    entry = node.entry(endpoint)
    assert (entry.endpoint_id, entry.identity) == (endpoint.endpoint_id, endpoint.identity)
    assert entry.ipv4 == bytes([10, 1, 0, 2])
    exact = node.datapath.maps[layout.IPEXACT.name]
    for ip in endpoint.ips:
        raw = exact.lookup(base.address_bytes(ip))
        assert raw is not None
        assert layout.IpcacheEntry.unpack(raw).identity == endpoint.identity


async def test_repetition_gives_the_same_endpoint_and_another_workload_is_refused() -> None:
    node = MemoryNode()
    endpoint = await node.workloads.add(wanted())
    assert await node.workloads.add(wanted()) == endpoint
    with pytest.raises(AlreadyExists, match="delete it first"):
        await node.workloads.add(wanted("web", "app=other"))
    with pytest.raises(InvalidArgument):
        await node.workloads.add(wanted("b", "io.kubernetes.pod.namespace=kube-system"))


async def test_concurrent_requests_for_one_workload_make_one_endpoint() -> None:
    node = MemoryNode()
    first, second = await asyncio.gather(node.workloads.add(wanted()), node.workloads.add(wanted()))
    assert first == second
    assert len(node.endpoints) == 1


async def test_without_policy_an_endpoint_stays_locked_and_unpublished() -> None:
    node = MemoryNode()
    node.default_policy = None
    with pytest.raises(Unavailable, match="policy service"):
        await node.workloads.add(wanted())
    endpoint = next(iter(node.endpoints))
    assert endpoint.state is EndpointState.LOCKED
    assert node.outer_id(endpoint) is None
    assert node.entry(endpoint).endpoint_id == endpoint.endpoint_id
    assert "publish" not in node.services.calls
    await node.set_policy(endpoint.identity, ALLOW_ALL)
    again = await node.workloads.add(wanted())
    assert again.endpoint_id == endpoint.endpoint_id
    assert node.services.published


async def test_a_late_policy_service_is_counted_not_waited_for() -> None:
    node = MemoryNode()
    node.services.down = {"await"}
    await node.workloads.add(wanted())
    assert node.workloads.unpublished == 1
    assert node.services.published


@pytest.mark.parametrize("error", [NotFound("no netns"), OSError(5, "io")])
async def test_a_failed_interface_leaves_nothing(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    node = MemoryNode()

    async def refuse(endpoint: Endpoint) -> Interface:
        raise error

    monkeypatch.setattr(node.datapath, "create_interface", refuse)
    with pytest.raises((NotFound, Unavailable)):
        await node.workloads.add(wanted())
    assert len(node.endpoints) == 0
    assert node.interest == set()
    assert node.datapath.maps[layout.EP.name].items() == []
    assert node.datapath.maps[layout.POLICY.name].items() == []
    assert node.datapath.maps[layout.IPEXACT.name].items() == []
    assert node.services.calls[-1].startswith("release")


async def test_removal_runs_the_other_way() -> None:
    node = MemoryNode()
    one = await node.workloads.add(wanted("a", "app=web"))
    two = await node.workloads.add(wanted("b", "app=web"))
    node.services.calls.clear()
    await node.workloads.delete(one.endpoint_id)
    assert node.services.calls == ["withdraw"], "the identity is still in use"
    await node.workloads.delete(two.endpoint_id)
    assert node.services.calls == ["withdraw", "withdraw", f"release {two.identity}"]
    await node.workloads.delete(two.endpoint_id)
    assert node.interest == set()
    assert node.services.published == {}
    for name in (layout.EP.name, layout.POLICY.name, layout.IPEXACT.name):
        assert node.datapath.maps[name].items() == []


async def test_a_release_that_fails_is_repeated() -> None:
    node = MemoryNode()
    endpoint = await node.workloads.add(wanted())
    node.services.down = {"withdraw", f"release {endpoint.identity}"}
    await node.workloads.delete(endpoint.endpoint_id)
    assert node.workloads.releases.pending == {endpoint.identity}
    node.services.down = set()
    await node.workloads.releases.retry()
    assert node.workloads.releases.pending == set()


async def test_an_interrupted_removal_is_finished_later(monkeypatch: pytest.MonkeyPatch) -> None:
    node = MemoryNode()
    endpoint = await node.workloads.add(wanted())

    async def refuse(endpoint: Endpoint) -> None:
        raise Unavailable("no helper")

    with monkeypatch.context() as patch:
        patch.setattr(node.datapath, "delete_interface", refuse)
        with pytest.raises(Unavailable):
            await node.workloads.delete(endpoint.endpoint_id)
    assert node.endpoints.require(endpoint.endpoint_id).state is EndpointState.TERMINATING
    with pytest.raises(Unavailable, match="being removed"):
        await node.workloads.add(wanted())
    await node.workloads.finish_removals()
    assert len(node.endpoints) == 0


async def test_restart_adopts_maps_and_deletes_nothing() -> None:
    first = MemoryNode()
    endpoint = await first.workloads.add(wanted())
    await first.set_policy(endpoint.identity, allow(IdentityPeer(7_000)))
    endpoint = first.endpoints.require(endpoint.endpoint_id)
    before = {name: dict(held.items()) for name, held in first.datapath.maps.items()}

    second = MemoryNode(first.datapath, first.services)
    second.cookies.load(first.cookies.dump())
    second.default_policy = None
    second.ipcache.reconciler.load()
    await second.workloads.restore([endpoint])
    second.ipcache.commit()
    restored = second.endpoints.require(endpoint.endpoint_id)
    assert restored.state is EndpointState.READY
    after = {name: dict(held.items()) for name, held in second.datapath.maps.items()}
    assert after[layout.POLICY.name] == before[layout.POLICY.name]
    assert after[layout.EP.name] == before[layout.EP.name]
    assert before[layout.IPEXACT.name].items() <= after[layout.IPEXACT.name].items()

    inner = second.outer_id(restored)
    await second.set_policy(endpoint.identity, allow(IdentityPeer(7_000)))
    assert second.outer_id(restored) == inner, "equal content is no switch"
    assert second.entry(restored).policy_generation == endpoint.policy_generation + 1


async def test_a_namespace_that_an_older_state_does_not_know_is_asked_for() -> None:
    first = MemoryNode()
    endpoint = await first.workloads.add(wanted())
    assert endpoint.netns_cookie == await first.datapath.netns_cookie(endpoint)
    older = {name: value for name, value in endpoint.dump().items() if name != "netns_cookie"}
    second = MemoryNode(first.datapath, first.services)
    await second.workloads.restore([Endpoint.load(older)])
    assert second.endpoints.require(endpoint.endpoint_id).netns_cookie == endpoint.netns_cookie


async def test_a_namespace_that_cannot_be_asked_keeps_nobody_from_restarting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = MemoryNode()
    endpoint = await first.workloads.add(wanted())

    async def refuse(_: Endpoint) -> int:
        raise NotFound("network namespace /run/netns/x does not exist")

    monkeypatch.setattr(first.datapath, "netns_cookie", refuse)
    second = MemoryNode(first.datapath, first.services)
    await second.workloads.restore([replace(endpoint, netns_cookie=0)])
    restored = second.endpoints.require(endpoint.endpoint_id)
    assert restored.state is EndpointState.READY
    assert restored.netns_cookie == 0


async def test_restart_without_a_map_locks() -> None:
    first = MemoryNode()
    endpoint = await first.workloads.add(wanted())
    second = MemoryNode(services=first.services)
    second.default_policy = None
    await second.workloads.restore([endpoint])
    restored = second.endpoints.require(endpoint.endpoint_id)
    assert restored.state is EndpointState.LOCKED
    assert restored.ifindex, "the interface was made again"


async def membership(node: MemoryNode) -> Membership:
    async def set_routes(cidrs: tuple[str, ...]) -> None:
        node.services.calls.append(f"routes {','.join(cidrs)}")

    return Membership(
        NodeEntry(cluster="east", name="node1", internal_ips=("192.0.2.1",)),
        services=node.services,
        workloads=node.workloads,
        ipcache=node.ipcache,
        datapath=node.datapath,
        set_routes=set_routes,
        checkpoint=lambda: None,
        rng=random.Random(1),
        sleep=node.clock.sleep,
    )


async def test_declaration_names_node_identities_and_all_addresses() -> None:
    node = MemoryNode()
    endpoint = await node.workloads.add(wanted())
    node.services.published = {"10.1.0.99": 5}
    member = await membership(node)
    await member.declare()
    assert node.services.published == dict.fromkeys(endpoint.ips, endpoint.identity)
    winner = node.ipcache.merge.winner("10.1.0.1/32")
    assert winner is not None
    assert winner.value.identity == HOST
    assert member.registered
    assert member.problem == ""


async def test_declaration_moves_endpoints_to_the_number_of_their_labels() -> None:
    node = MemoryNode()
    endpoint = await node.workloads.add(wanted())
    node.services.numbers = dict.fromkeys(node.services.numbers, 71_234)
    await (await membership(node)).declare()
    moved = node.endpoints.require(endpoint.endpoint_id)
    assert moved.identity == 71_234
    assert node.entry(moved).identity == 71_234
    assert set(node.services.published.values()) == {71_234}


async def test_a_lost_lease_declares_everything_again() -> None:
    node = MemoryNode()
    member = await membership(node)
    await member.declare()
    node.services.calls.clear()
    node.services.down, node.services.error = {"renew"}, NotFound("lease lost", reason="LEASE_LOST")
    keeping = asyncio.ensure_future(member.keep())
    await asyncio.sleep(0)
    node.clock.advance(300)
    for _ in range(20):
        await asyncio.sleep(0)
    assert node.services.calls[:2] == ["renew", "register"]
    keeping.cancel()


async def test_a_refused_declaration_is_a_problem_in_words() -> None:
    node = MemoryNode()
    member = await membership(node)
    node.services.down = {"register"}
    with pytest.raises(Unavailable):
        await member.declare()
    assert "cannot be declared" in member.problem
    node.services.down = set()
    await member.retry_declaration()
    assert member.problem == ""


async def test_a_new_endpoint_never_looks_like_an_earlier_one() -> None:
    """Conntrack keys hold number and addresses, its entries the generation: one of them must differ."""
    node = MemoryNode()
    first = await node.workloads.add(wanted())
    await node.workloads.delete(first.endpoint_id)
    second = await node.workloads.add(wanted())
    assert second.endpoint_id != first.endpoint_id
    assert abs(second.policy_generation - first.policy_generation) > 1000

    restarted = MemoryNode(node.datapath, node.services)
    await node.workloads.delete(second.endpoint_id)
    await restarted.workloads.restore([], last_endpoint_id=node.workloads.numbers.last_given)
    third = await restarted.workloads.add(wanted())
    assert third.endpoint_id == second.endpoint_id + 1


async def test_a_restart_goes_on_from_the_kernels_generation() -> None:
    first = MemoryNode()
    endpoint = await first.workloads.add(wanted())
    second = MemoryNode(first.datapath, first.services)
    second.default_policy = None
    await second.workloads.restore([replace(endpoint, policy_generation=0xFFFF_FFFF)])
    restored = second.endpoints.require(endpoint.endpoint_id)
    assert restored.policy_generation == endpoint.policy_generation
    first.datapath.maps[layout.EP.name].delete(layout.endpoint_key(endpoint.ifindex))
    third = MemoryNode(first.datapath, first.services)
    third.rng.seed(99)
    await third.workloads.restore([endpoint])
    fresh = third.endpoints.require(endpoint.endpoint_id).policy_generation
    assert abs(fresh - endpoint.policy_generation) > 1000, "what conntrack may know is left behind"
