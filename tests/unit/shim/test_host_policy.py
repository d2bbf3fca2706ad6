"""The host as a holder of a policy map: like an endpoint, number 0, never locked out."""

from __future__ import annotations

import pytest

from axoneme.lib.bpf.errors import BpfError
from axoneme.lib.errors import NotFound
from axoneme.lib.identities import HOST
from axoneme.lib.policy.model import IdentityPeer, SubjectPolicy, one_port
from axoneme.lib.policycodec import host_key
from shim.endpoints import EndpointState
from shim.holders import Holders, Host
from shim.maps import layout
from tests.unit.shim.memorynode import ALLOW_ALL, MAX_ENTRIES, MemoryNode, allow, many, wanted

KEY = host_key("n1")
SSH = allow(IdentityPeer(70_009), one_port(6, 22))


async def send(node: MemoryNode, policy: SubjectPolicy, key: str = KEY) -> dict[str, str]:
    failures = await node.policies.apply({key: policy}, (), complete=False)
    return {key: failure.reason for key, failure in failures.items()}


def host_of(node: MemoryNode) -> Host:
    assert node.host is not None
    return node.host


async def test_its_policy_is_in_map_0_under_its_generation() -> None:
    node = MemoryNode(host=True)
    assert host_of(node).endpoint.state is EndpointState.LOCKED
    assert "nothing is enforced" in host_of(node).problems()[0]
    assert node.host_generations == [], "without a map nobody may enforce"
    assert await send(node, SSH) == {}
    assert node.outer_id(host_of(node).endpoint) is not None
    assert node.host_generations == [8]
    assert host_of(node).endpoint.state is EndpointState.READY
    assert host_of(node).problems() == []
    held = node.policies.map_of(layout.HOST_ENDPOINT_ID)
    assert held is not None
    assert {layout.policy_key_from_bytes(key).identity for key, _ in held.items()} == {0, 70_009}
    assert await send(node, SSH) == {}
    assert node.host_generations == [8], "nothing changed"


async def test_it_shares_nothing_with_the_identity_host_or_other_nodes() -> None:
    node = MemoryNode(host=True)
    endpoint = await node.workloads.add(wanted())
    before = node.outer_id(endpoint)
    assert await send(node, SSH, f"subject:{HOST}") == {}
    assert await send(node, SSH, host_key("n2")) == {}
    assert node.policies.map_of(layout.HOST_ENDPOINT_ID) is None
    await send(node, SSH)
    assert node.outer_id(endpoint) == before


async def test_without_a_firewall_nobody_is_host() -> None:
    node = MemoryNode()
    assert await send(node, SSH) == {}
    assert node.policies.map_of(layout.HOST_ENDPOINT_ID) is None


async def test_what_cannot_be_applied_is_told_and_keeps_the_last_good_policy() -> None:
    node = MemoryNode(host=True)
    assert await send(node, many(MAX_ENTRIES + 1)) == {KEY: "POLICY_MAP_FULL"}
    assert host_of(node).endpoint.state is EndpointState.LOCKED
    assert "cannot be applied" in host_of(node).problems()[0]
    await send(node, SSH)
    before = node.outer_id(host_of(node).endpoint)
    assert await send(node, many(MAX_ENTRIES + 1)) == {KEY: "POLICY_MAP_FULL"}
    assert node.outer_id(host_of(node).endpoint) == before
    assert host_of(node).endpoint.state is EndpointState.STALE
    assert "entries" in host_of(node).problems()[0]
    assert await send(node, ALLOW_ALL) == {}
    assert host_of(node).problems() == []


async def test_a_failed_write_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    node = MemoryNode(host=True)
    with monkeypatch.context() as patch:

        async def refuse() -> None:
            raise BpfError(12, "create", "axoneme_policy_inner")

        patch.setattr(node.datapath, "new_policy_map", refuse)
        assert await send(node, SSH) == {KEY: "MAP_WRITE_FAILED"}
    node.clock.advance(1)
    assert await node.policies.retry_due()
    assert node.policies.failures == {}
    assert host_of(node).endpoint.state is EndpointState.READY


async def test_a_restart_takes_its_map_over() -> None:
    first = MemoryNode(host=True)
    await send(first, SSH)
    again = MemoryNode(first.datapath, host=True)
    before = again.outer_id(host_of(again).endpoint)
    assert await again.policies.adopt(host_of(again).endpoint)
    host_of(again).adopted()
    assert again.host_generations == [7], "the generation of the kernel, written with the map in place"
    assert again.outer_id(host_of(again).endpoint) == before
    assert await send(again, SSH) == {}
    assert again.outer_id(host_of(again).endpoint) == before, "equal content stays where it is"


async def test_the_audit_knows_it_and_removes_it_once_the_firewall_is_off() -> None:
    node = MemoryNode(host=True)
    await send(node, SSH)
    await node.policies.apply({}, (), complete=True)
    assert await node.policies.audit() == []
    outer = node.datapath.memory_maps[layout.POLICY.name]
    outer.delete(layout.policy_outer_key(layout.HOST_ENDPOINT_ID))
    assert await node.policies.audit() == ["axoneme_policy: endpoint 0: map switched back"]
    off = MemoryNode(node.datapath)
    await off.policies.apply({}, (), complete=True)
    assert await off.policies.audit() == ["axoneme_policy: 00000000: unknown, removed"]


def test_holders_are_endpoints_and_host() -> None:
    node = MemoryNode(host=True)
    holders = Holders(node.endpoints, node.endpoint_map.write, node.host)
    assert [one.endpoint_id for one in holders] == [0]
    assert [one.endpoint_id for one in holders.of_subject(KEY)] == [0]
    assert holders.of_subject(host_key("n2")) == []
    assert holders.key_of(host_of(node).endpoint) == KEY


async def test_its_map_can_be_read_like_an_endpoint_s() -> None:
    node = MemoryNode(host=True)
    await send(node, SSH)
    assert node.policies.holder(layout.HOST_ENDPOINT_ID) == host_of(node).endpoint
    with pytest.raises(NotFound):
        MemoryNode().policies.holder(layout.HOST_ENDPOINT_ID)
