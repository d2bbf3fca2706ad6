"""Mapstates into maps: whole or not at all, shared when equal, acknowledged only when the kernel has them."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from axoneme.lib.bpf.errors import BpfError
from axoneme.lib.bpf.maps import BpfMap
from axoneme.lib.errors import Unavailable
from axoneme.lib.identities import WORLD_IPV4, WORLD_IPV6
from axoneme.lib.policy.model import IdentityPeer, SelectorPeer, one_port
from shim.endpoints import EndpointState
from shim.maps import layout
from shim.mapstates import Mapstate
from tests.unit.shim.memorynode import ALLOW_ALL, MAX_ENTRIES, MemoryNode, allow, many, wanted
from tests.waiting import eventually


async def test_a_change_is_a_new_map_and_one_generation() -> None:
    node = MemoryNode()
    endpoint = await node.workloads.add(wanted())
    before, generation = node.outer_id(endpoint), node.entry(endpoint).policy_generation
    assert await node.set_policy(endpoint.identity, allow(IdentityPeer(70_009), one_port(6, 80))) == {}
    assert node.outer_id(endpoint) != before
    assert node.entry(endpoint).policy_generation == generation + 1
    held = node.policies.map_of(endpoint.endpoint_id)
    assert held is not None
    keys = {layout.policy_key_from_bytes(key) for key, _ in held.items()}
    assert {key.identity for key in keys} == {0, 70_009}


async def test_an_equal_policy_changes_nothing() -> None:
    node = MemoryNode()
    endpoint = await node.workloads.add(wanted())
    before = node.outer_id(endpoint), node.entry(endpoint)
    await node.set_policy(endpoint.identity, ALLOW_ALL)
    assert (node.outer_id(endpoint), node.entry(endpoint)) == before


async def test_equal_content_is_one_map_for_all_endpoints() -> None:
    node = MemoryNode()
    one, two, other = [await node.workloads.add(wanted(name, "app=web")) for name in ("a", "b", "c")]
    assert node.outer_id(one) == node.outer_id(two) == node.outer_id(other)
    third = await node.workloads.add(wanted("d", "app=else"))
    assert node.outer_id(third) == node.outer_id(one), "equal content, whatever the identity"
    await node.set_policy(one.identity, allow(IdentityPeer(7_000)))
    assert node.outer_id(one) == node.outer_id(two) != node.outer_id(third)
    await node.workloads.delete(one.endpoint_id)
    assert node.outer_id(one) is None
    assert node.outer_id(two) is not None


async def test_world_is_finished_with_the_identities_of_this_node() -> None:
    node = MemoryNode()
    endpoint = await node.workloads.add(wanted())
    await node.set_policy(endpoint.identity, allow(SelectorPeer("entity:world")))
    held = node.policies.map_of(endpoint.endpoint_id)
    assert held is not None
    numbers = {layout.policy_key_from_bytes(key).identity for key, _ in held.items()}
    assert numbers == {0, WORLD_IPV4, WORLD_IPV6}


async def test_too_large_keeps_the_complete_old_policy() -> None:
    node = MemoryNode()
    endpoint = await node.workloads.add(wanted())
    before = node.outer_id(endpoint), node.entry(endpoint)
    failures = await node.set_policy(endpoint.identity, many(MAX_ENTRIES + 1))
    assert failures == {f"subject:{endpoint.identity}": "POLICY_MAP_FULL"}
    assert (node.outer_id(endpoint), node.entry(endpoint)) == before
    shown = node.endpoints.require(endpoint.endpoint_id)
    assert shown.state is EndpointState.STALE
    assert "entries" in shown.state_reason
    assert await node.set_policy(endpoint.identity, ALLOW_ALL) == {}
    assert node.endpoints.require(endpoint.endpoint_id).state is EndpointState.READY


async def test_a_new_endpoint_with_too_large_a_policy_stays_locked() -> None:
    node = MemoryNode()
    node.default_policy = many(MAX_ENTRIES + 1)
    with pytest.raises(Unavailable, match="stays locked"):
        await node.workloads.add(wanted())
    endpoint = next(iter(node.endpoints))
    assert endpoint.state is EndpointState.LOCKED
    assert node.outer_id(endpoint) is None
    assert node.services.published == {}


async def test_failed_write_is_retried_and_healed(monkeypatch: pytest.MonkeyPatch) -> None:
    node = MemoryNode()
    endpoint = await node.workloads.add(wanted())
    before = node.outer_id(endpoint)

    async def refuse() -> BpfMap:
        raise BpfError(12, "create", "map")

    with monkeypatch.context() as patch:
        patch.setattr(node.datapath, "new_policy_map", refuse)
        failures = await node.set_policy(endpoint.identity, allow(IdentityPeer(7_000)))
        assert failures == {f"subject:{endpoint.identity}": "MAP_WRITE_FAILED"}
        assert not await node.policies.retry_due(), "not before its time"
        node.clock.advance(0.1)
        assert not await node.policies.retry_due(), "still refused"
    assert node.outer_id(endpoint) == before
    node.clock.advance(0.2)
    assert await node.policies.retry_due()
    assert node.policies.failures == {}
    assert node.outer_id(endpoint) != before


async def test_one_bad_subject_does_not_stop_the_others() -> None:
    node = MemoryNode()
    one = await node.workloads.add(wanted("a"))
    two = await node.workloads.add(wanted("b"))
    policies = {
        f"subject:{one.identity}": many(MAX_ENTRIES + 1),
        f"subject:{two.identity}": allow(IdentityPeer(7_000)),
    }
    failures = await node.policies.apply(policies, (), complete=True)
    assert set(failures) == {f"subject:{one.identity}"}
    assert node.endpoints.require(two.endpoint_id).policy_generation == two.policy_generation + 1


async def test_a_removed_subject_keeps_its_map_while_endpoints_live() -> None:
    node = MemoryNode()
    endpoint = await node.workloads.add(wanted())
    before = node.outer_id(endpoint)
    await node.policies.apply({}, [f"subject:{endpoint.identity}"], complete=True)
    assert node.outer_id(endpoint) == before


async def test_audit_repairs_a_changed_map_and_a_foreign_switch() -> None:
    node = MemoryNode()
    endpoint = await node.workloads.add(wanted())
    await node.policies.apply({}, (), complete=True)
    inner = node.policies.map_of(endpoint.endpoint_id)
    assert inner is not None
    wrong = await node.datapath.new_policy_map()
    key, _ = inner.items()[0]
    inner.delete(key)
    outer = node.datapath.maps[layout.POLICY.name]
    outer.set_inner(layout.policy_outer_key(endpoint.endpoint_id), wrong)
    outer.set_inner(layout.policy_outer_key(999), wrong)
    repairs = await node.policies.audit()
    assert len(repairs) == 3
    assert node.outer_id(endpoint) == inner.map_id
    assert await node.policies.audit() == []


class SlowFinish:
    """Building that waits for the test's event loop: in that loop's own thread it would wait for ever."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered, self.go_on = threading.Event(), threading.Event()
        advance = Mapstate._advance

        def slowly(*args: Any) -> Any:
            self.entered.set()
            assert self.go_on.wait(10), "the event loop stood still"
            return advance(*args)

        monkeypatch.setattr(Mapstate, "_advance", slowly)


async def test_finishing_does_not_stop_the_event_loop_and_is_acknowledged_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = MemoryNode()
    endpoint = await node.workloads.add(wanted())
    before = node.entry(endpoint).policy_generation, node.outer_id(endpoint)
    slow = SlowFinish(monkeypatch)
    first = asyncio.ensure_future(node.set_policy(endpoint.identity, allow(IdentityPeer(7_001))))
    second = asyncio.ensure_future(node.set_policy(endpoint.identity, allow(IdentityPeer(7_002))))
    await eventually(slow.entered.is_set)
    assert not first.done()
    assert (node.entry(endpoint).policy_generation, node.outer_id(endpoint)) == before
    slow.go_on.set()
    assert await first == await second == {}
    held = node.policies.map_of(endpoint.endpoint_id)
    assert held is not None
    keys = {layout.policy_key_from_bytes(key) for key, _ in held.items()}
    assert {key.identity for key in keys} == {0, 7_002}, "the later one is in force"
    assert node.entry(endpoint).policy_generation == before[0] + 2


async def test_an_endpoint_may_go_while_its_policy_is_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    node = MemoryNode()
    endpoint = await node.workloads.add(wanted())
    slow = SlowFinish(monkeypatch)
    applying = asyncio.ensure_future(node.set_policy(endpoint.identity, allow(IdentityPeer(7_001))))
    await eventually(slow.entered.is_set)
    node.endpoints.remove(endpoint.endpoint_id)
    slow.go_on.set()
    assert await applying == {}
    await node.policies.remove_endpoint(endpoint.endpoint_id)
    assert node.outer_id(endpoint) is None
