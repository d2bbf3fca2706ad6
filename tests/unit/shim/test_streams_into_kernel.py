"""What the ipcache and node streams bring, as the maps of a node hold it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from axoneme.lib.identities import HEALTH, REMOTE_NODE, UNMANAGED
from axoneme.lib.labels import LabelSet
from shim.ipcache import IpcacheValue, Rank
from shim.maps import base, layout
from shim.nodeipcache import IdentityEntry, IpcacheSink, NodeIpcache, PrefixEntry
from shim.nodes import NodeSink
from shim.routes import OVERLAY, UNREACHABLE, NodeEntry
from shim.tables import IpcacheTable, MemoryRoutes
from tests.unit.shim.memorynode import MemoryNode


def held(node: MemoryNode) -> Mapping[str, IpcacheValue]:
    maps = node.datapath.maps
    return dict(IpcacheTable(maps[layout.IPEXACT.name], maps[layout.IPCACHE.name]).items())


def sinks(node: MemoryNode) -> tuple[IpcacheSink, NodeSink]:
    nodes = NodeSink(
        own_key="east/n1",
        ipcache=node.ipcache,
        routes=MemoryRoutes(),
        clock=node.clock,
        on_change=lambda _: None,
    )
    return IpcacheSink(node.ipcache), nodes


def other(**fields: Any) -> dict[str, NodeEntry]:
    values = {"internal_ips": ("192.0.2.2",), "pod_cidrs": ("10.2.0.0/24", "fd00:10:2::/64"), **fields}
    return {"node:east/n2": NodeEntry(cluster="east", name="n2", **values)}


async def test_nothing_goes_before_both_streams_are_complete() -> None:
    node = MemoryNode()
    stale = {"10.9.9.9/32": IpcacheValue(identity=70_009), "10.9.0.0/16": IpcacheValue(identity=3)}
    node.ipcache.reconciler._table.upsert(list(stale.items()))
    node.ipcache.reconciler.load()
    ipcache, nodes = sinks(node)
    entry = PrefixEntry(prefix="10.2.0.7/32", identity=70_000, tunnel_endpoint="192.0.2.2")
    await ipcache.apply({"prefix:10.2.0.7/32": entry}, (), complete=True)
    assert held(node)["10.2.0.7/32"].identity == 70_000
    assert stale.items() <= held(node).items()
    await nodes.apply(other(), (), complete=True)
    assert not stale.keys() & held(node).keys()
    assert held(node)["10.2.0.0/24"].identity == UNMANAGED
    assert held(node)["fd00:10:2::/64"].identity == UNMANAGED
    assert held(node)["192.0.2.2/32"].identity == REMOTE_NODE


async def test_own_endpoints_and_host_outrank_the_streams() -> None:
    node = MemoryNode()
    node.ipcache.put_addresses(Rank.ENDPOINT, "1", 70_001, ["10.1.0.2", "fd00:10:1::2"])
    ipcache, _ = sinks(node)
    entry = PrefixEntry(prefix="10.1.0.2/32", identity=70_000)
    await ipcache.apply({"prefix:10.1.0.2/32": entry}, (), complete=False)
    assert held(node)["10.1.0.2/32"].identity == 70_001
    node.ipcache.put_addresses(Rank.ENDPOINT, "1", 70_001, ())
    node.ipcache.commit()
    assert held(node)["10.1.0.2/32"].identity == 70_000
    assert "fd00:10:1::2/128" not in held(node)


async def test_removals_and_labels() -> None:
    node = MemoryNode()
    ipcache, _ = sinks(node)
    labels = LabelSet.parse(["k8s:app=web"])
    upserts: dict[str, PrefixEntry | IdentityEntry] = {
        "identity:70000": IdentityEntry(number=70_000, labels=labels),
        "prefix:10.1.0.2/32": PrefixEntry(prefix="10.1.0.2/32", identity=70_000),
    }
    await ipcache.apply(upserts, (), complete=False)
    assert node.ipcache.labels[70_000] == labels
    await ipcache.apply({}, ["prefix:10.1.0.2/32", "identity:70000", "identity:1"], complete=False)
    assert "10.1.0.2/32" not in held(node)
    assert 70_000 not in node.ipcache.labels
    assert 1 in node.ipcache.labels, "reserved labels are the shim's own"


async def test_routes_follow_the_nodes() -> None:
    node = MemoryNode()
    _, nodes = sinks(node)
    await nodes.set_own_cidrs(("10.1.0.0/24",))
    await nodes.apply(other(internal_ips=("192.0.2.2", "2001:db8::2")), (), complete=True)
    assert nodes.routes.actual == {
        "10.1.0.0/24": UNREACHABLE,
        "10.2.0.0/24": "192.0.2.2",
        "fd00:10:2::/64": "2001:db8::2",
    }
    await nodes.apply({}, ["node:east/n2"], complete=False)
    assert nodes.routes.actual == {"10.1.0.0/24": UNREACHABLE}
    assert "10.2.0.0/24" not in held(node)


async def test_full_map_fails_by_prefix_and_heals() -> None:
    node = MemoryNode()
    ipcache, _ = sinks(node)
    exact = node.datapath.memory_maps[layout.IPEXACT.name]
    object.__setattr__(exact, "spec", base.spec(exact.name, exact.kind, 16, exact.value_size, 1))
    one, two = (PrefixEntry(prefix=f"10.1.0.{n}/32", identity=70_000) for n in (2, 3))
    failures = await ipcache.apply({"a": one, "b": two}, (), complete=False)
    assert [failure.reason for failure in failures.values()] == ["MAP_FULL"]
    lost = next(iter(failures)).removeprefix("prefix:")
    kept = "10.1.0.3/32" if lost == "10.1.0.2/32" else "10.1.0.2/32"
    assert await ipcache.apply({}, [f"prefix:{kept}"], complete=False)
    node.clock.advance(1)
    node.ipcache.commit()
    assert ipcache.failures() == {}
    assert lost in held(node)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("tunnel", [False, True])
async def test_only_a_tunnel_needs_to_know_behind_which_node_an_address_is(family: int, tunnel: bool) -> None:
    node = MemoryNode()
    own, peer = (("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2"))[family == 6]
    maps = node.datapath.maps
    table = IpcacheTable(maps[layout.IPEXACT.name], maps[layout.IPCACHE.name])
    ipcache = NodeIpcache(table, cluster_name="east", clock=node.clock, tunnel=tunnel)
    routes = MemoryRoutes()
    routes.upsert([("10.2.0.0/24", OVERLAY if not tunnel else "192.0.2.9"), ("10.9.0.0/24", "192.0.2.9")])
    nodes = NodeSink(
        own_key="east/n1",
        ipcache=ipcache,
        routes=routes,
        clock=node.clock,
        on_change=lambda _: None,
        tunnel=tunnel,
        own_ips=(own,),
    )
    await nodes.load()
    entry = NodeEntry(
        cluster="east",
        name="n2",
        internal_ips=("192.0.2.2", "2001:db8::2"),
        pod_cidrs=("10.2.0.0/24", "fd00:10:2::/64"),
        router_ips=("10.2.0.1", "fd00:10:2::1"),
        health_ips=("10.2.0.9", "fd00:10:2::9"),
    )
    await nodes.apply({"node:east/n2": entry}, (), complete=True)
    pod = PrefixEntry(prefix="10.2.0.7/32", identity=70_000, tunnel_endpoint=peer)
    await IpcacheSink(ipcache).apply({"prefix:10.2.0.7/32": pod}, (), complete=True)
    found = dict(table.items())
    behind = peer if tunnel else ""
    for prefix, identity in {
        "10.2.0.0/24": UNMANAGED,
        "fd00:10:2::/64": UNMANAGED,
        "10.2.0.1/32": REMOTE_NODE,
        "fd00:10:2::1/128": REMOTE_NODE,
        "10.2.0.9/32": HEALTH,
        "fd00:10:2::9/128": HEALTH,
        "10.2.0.7/32": 70_000,
    }.items():
        assert found[prefix] == IpcacheValue(identity=identity, tunnel_endpoint=behind)
    assert found["192.0.2.2/32"] == IpcacheValue(identity=REMOTE_NODE)
    via = dict.fromkeys(entry.pod_cidrs, OVERLAY)
    if not tunnel:
        via = {"10.2.0.0/24": "192.0.2.2", "fd00:10:2::/64": "2001:db8::2"}
    assert dict(routes.items()) == via, "no route of the other mode is left"
