"""`axoneme_local` follows the endpoints: there before traffic opens, gone before it closes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axoneme.lib.bpf.memory import MemoryMap
from axoneme.lib.labels import LabelSet
from shim.endpoints import Endpoint, EndpointState, EndpointTable
from shim.localendpoints import EndpointNamespaces, LocalEndpoints, local_entries
from shim.maps import base
from shim.maps.node import LOCAL, LocalEntry
from shim.maps.sockets import NETNS, NetnsEntry, cookie_from_key, cookie_key
from shim.memorydatapath import MemoryDatapath
from tests.unit.shim.memorynode import MemoryNode, wanted
from tests.waiting import FakeClock

IPS = {4: "10.1.0.7", 6: "fd00:10:1::7"}
LABELS = LabelSet.parse(["k8s:app=web"])


def endpoint(number: int = 1, **fields: Any) -> Endpoint:
    values = {
        "endpoint_id": number,
        "namespace": "default",
        "pod_name": f"p{number}",
        "labels": LABELS,
        "identity": 70_000,
        "ips": tuple(IPS.values()),
        "netns": "/run/netns/x",
        "ifindex": 10 + number,
        "mac": "0a:00:00:00:00:01",
        "host_mac": "0a:00:00:00:00:02",
    }
    return Endpoint(**{**values, **fields})


def followed(table: EndpointTable) -> tuple[LocalEndpoints, MemoryDatapath]:
    datapath = MemoryDatapath()
    return LocalEndpoints(datapath.maps[LOCAL.name], table, clock=FakeClock()), datapath


@pytest.mark.parametrize("family", [4, 6])
def test_an_address_is_there_from_the_interface_to_the_removal(family: int) -> None:
    table = EndpointTable()
    _, datapath = followed(table)
    held = datapath.maps[LOCAL.name]
    key = base.address_bytes(IPS[family])
    table.put(endpoint(ifindex=0))
    assert held.lookup(key) is None
    table.change(1, ifindex=11)
    raw = held.lookup(key)
    assert raw is not None
    assert LocalEntry.unpack(raw) == LocalEntry(
        11, 1, bytes.fromhex("0a0000000001"), bytes.fromhex("0a0000000002")
    )
    table.step(1, EndpointState.TERMINATING)
    assert held.lookup(key) is None


async def test_the_order_with_the_programs_of_an_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    node = MemoryNode()
    held = node.datapath.maps[LOCAL.name]
    LocalEndpoints(held, node.endpoints, clock=node.clock)
    seen: list[tuple[str, int]] = []
    for name in ("create_interface", "attach", "detach"):
        real = getattr(node.datapath, name)

        async def look(one: Endpoint, name: str = name, real: Any = real) -> Any:
            seen.append((name, len(held.items())))
            return await real(one)

        monkeypatch.setattr(node.datapath, name, look)
    made = await node.workloads.add(wanted())
    await node.workloads.delete(made.endpoint_id)
    assert seen == [("create_interface", 0), ("attach", 2), ("detach", 0)]


async def test_what_an_earlier_life_left_stays_until_the_endpoints_are_there() -> None:
    table = EndpointTable()
    local, datapath = followed(table)
    held = datapath.maps[LOCAL.name]
    stale, kept = base.address_bytes("10.1.0.9"), base.address_bytes(IPS[4])
    before = local_entries([endpoint()])
    held.update_batch([(stale, bytes(LOCAL.value_size)), (kept, before[kept])])
    local.load()
    table.put(endpoint())
    assert held.lookup(stale) is not None
    assert await local.audit() == []
    local.settle()
    assert dict(held.items()) == before
    held.delete(kept)
    assert await local.audit() == [f"axoneme_local: {IPS[4]}: missing, written again"]


def test_a_full_map_is_told_and_tried_again() -> None:
    table = EndpointTable()
    clock = FakeClock()
    datapath = MemoryDatapath()
    held = datapath.memory_maps[LOCAL.name]
    held.spec = base.spec(held.name, held.kind, 16, held.value_size, 1)
    local = LocalEndpoints(held, table, clock=clock)
    table.put(endpoint())
    assert len(local.problems()) == 1
    held.spec = LOCAL
    clock.advance(1)
    local.reconciler.flush()
    assert local.problems() == []
    assert len(held.items()) == 2


STEPS = st.tuples(
    st.integers(1, 4),
    st.sampled_from(["put", "interface", "end", "remove"]),
    st.lists(st.sampled_from(["10.1.0.2", "10.1.0.3", "fd00::2", "fd00::3"]), unique=True, max_size=2),
)


@given(st.lists(STEPS, max_size=20))
def test_step_by_step_equals_from_scratch(steps: list[tuple[int, str, list[str]]]) -> None:
    table = EndpointTable()
    _, datapath = followed(table)
    for number, step, ips in steps:
        if step == "put" and not any(set(ips) & set(one.ips) for one in table if one.endpoint_id != number):
            table.put(endpoint(number, ips=tuple(ips), ifindex=0))
        elif step == "interface" and table.get(number) is not None:
            table.change(number, ifindex=10 + number)
        elif step == "end" and table.get(number) is not None:
            table.step(number, EndpointState.TERMINATING)
        elif step == "remove":
            table.remove(number)
        assert dict(datapath.maps[LOCAL.name].items()) == local_entries(table)


def namespaces_of(table: EndpointTable) -> tuple[EndpointNamespaces, MemoryMap]:
    held = MemoryMap(NETNS)
    return EndpointNamespaces(held, table, clock=FakeClock()), held


def owners(held: MemoryMap) -> dict[int, NetnsEntry]:
    return {cookie_from_key(key): NetnsEntry.unpack(value) for key, value in held.items()}


def test_a_namespace_is_there_from_the_interface_to_the_removal() -> None:
    table = EndpointTable()
    _, held = namespaces_of(table)
    table.put(endpoint(ifindex=0, netns_cookie=0))
    assert owners(held) == {}
    table.change(1, ifindex=11)
    assert owners(held) == {}, "a kernel that does not tell the number"
    table.change(1, netns_cookie=4711)
    assert owners(held) == {4711: NetnsEntry(11, 1)}
    table.change(1, netns_cookie=4712, ifindex=12)
    assert owners(held) == {4712: NetnsEntry(12, 1)}, "the workload came back in another namespace"
    table.step(1, EndpointState.TERMINATING)
    assert owners(held) == {}


def test_a_namespace_of_two_endpoints_stays_with_the_other() -> None:
    table = EndpointTable()
    _, held = namespaces_of(table)
    for number in (1, 2):
        table.put(endpoint(number, netns_cookie=4711))
    assert owners(held) == {4711: NetnsEntry(12, 2)}
    table.remove(2)
    assert owners(held) == {4711: NetnsEntry(11, 1)}
    table.remove(1)
    assert owners(held) == {}


async def test_namespaces_of_an_earlier_life_go_with_the_settling() -> None:
    table = EndpointTable()
    namespaces, held = namespaces_of(table)
    held.update(cookie_key(9), NetnsEntry(99, 99).pack())
    namespaces.load()
    table.put(endpoint(netns_cookie=4711))
    assert set(owners(held)) == {9, 4711}
    namespaces.settle()
    assert set(owners(held)) == {4711}
    held.delete(cookie_key(4711))
    assert await namespaces.audit() == ["axoneme_netns: namespace 4711: missing, written again"]
    held.update(cookie_key(8), NetnsEntry(99, 99).pack())
    assert await namespaces.audit() == ["axoneme_netns: namespace 8: unknown, removed"]
    assert owners(held) == {4711: NetnsEntry(11, 1)}
