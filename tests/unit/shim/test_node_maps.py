"""What the programs are told about the node: computed from the whole, written step by step, never empty."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axoneme.lib.errors import Unavailable
from shim import nodeconfig
from shim.config import ShimConfig
from shim.endpoints import Endpoint
from shim.holders import Host
from shim.maps import base
from shim.maps import node as layout
from shim.memorydatapath import MemoryDatapath
from shim.network import NetworkFacts
from shim.nodemaps import NodeMaps
from shim.routes import NodeEntry
from tests.waiting import FakeClock

INTERNAL = {4: "192.0.2.1", 6: "2001:db8::1"}
CIDR = {4: "10.0.0.0/8", 6: "fd00::/16"}
FACTS = NetworkFacts(uplink="eth0", uplink_ifindex=7, uplink_mac="0a:00:00:00:00:07", overlay_ifindex=9)
CAN = {"redirect_peer": "yes"}
OWN = NodeEntry(
    cluster="east",
    name="n1",
    internal_ips=tuple(INTERNAL.values()),
    router_ips=("10.1.0.1", "fd00:10:1::1"),
)


def config(**fields: Any) -> ShimConfig:
    return ShimConfig(**{"node_name": "n1", "internal_ips": tuple(INTERNAL.values()), **fields})


def flags(cfg: ShimConfig, facts: NetworkFacts = FACTS, **more: Any) -> int:
    return nodeconfig.node_config(cfg, facts, CAN, **more).flags


def described(datapath: MemoryDatapath) -> layout.NodeConfig:
    raw = datapath.maps[layout.NODE.name].lookup(base.number_key(0))
    assert raw is not None
    return layout.NodeConfig.unpack(raw)


def addresses(datapath: MemoryDatapath) -> dict[str, int]:
    held = datapath.maps[layout.NODE_IPS.name].items()
    return {str(base.address_from_bytes(key)): layout.NodeIp.unpack(raw).flags for key, raw in held}


def loaded(datapath: MemoryDatapath, cfg: ShimConfig | None = None) -> NodeMaps:
    maps = NodeMaps(cfg or config(), datapath.maps, clock=FakeClock())
    maps.load()
    return maps


@pytest.mark.parametrize("family", [4, 6])
def test_a_family_is_described_when_the_node_has_it(family: int) -> None:
    made = nodeconfig.node_config(config(internal_ips=(INTERNAL[family],)), FACTS, CAN)
    own, other = (made.ipv4, made.ipv6) if family == 4 else (made.ipv6, made.ipv4)
    assert (own, other) == (base.address_bytes(INTERNAL[family]), base.NO_ADDRESS)
    masquerade = layout.NODE_MASQUERADE4 if family == 4 else layout.NODE_MASQUERADE6
    assert made.flags == masquerade | layout.NODE_HOST_ROUTING
    assert made.loopback4 == base.address_bytes("169.254.42.1")
    assert made.loopback6 == base.address_bytes("fd61:786f:6e65:6d65::1")
    assert (made.nat_port_min, made.nat_port_max) == (16_384, 29_999)
    assert (made.uplink_ifindex, made.uplink_mac.hex()) == (7, "0a0000000007")


def test_flags_need_what_they_rest_on() -> None:
    tunnel = config(routing_mode="tunnel", masquerade=False, host_routing=False)
    assert flags(tunnel) == layout.NODE_TUNNEL
    assert flags(tunnel, replace(FACTS, overlay_ifindex=0)) == 0
    plain = config(masquerade=False)
    assert flags(plain) == layout.NODE_HOST_ROUTING
    assert nodeconfig.node_config(plain, FACTS, {"redirect_peer": "no"}).flags == 0
    firewall = config(masquerade=False, host_routing=False, host_firewall=True)
    assert flags(firewall) == 0, "without a map the firewall would cut the node off from its services"
    assert flags(firewall, enforce_host=True) == layout.NODE_HOST_FIREWALL
    assert flags(config(masquerade=False, host_routing=False, policy_audit=True)) == layout.NODE_HOST_AUDIT


def test_the_description_comes_with_the_network_and_stays_until_then() -> None:
    datapath = MemoryDatapath()
    before = layout.NodeConfig(uplink_ifindex=3, host_policy_generation=41)
    datapath.maps[layout.NODE.name].update(base.number_key(0), before.pack())
    maps = loaded(datapath)
    maps.set_features(CAN)
    assert described(datapath) == before
    assert maps.host_generation == 41
    maps.set_network(FACTS)
    assert described(datapath).uplink_ifindex == 7
    assert described(datapath).host_policy_generation == 41


def test_the_generation_of_the_host_is_raised_with_its_map() -> None:
    datapath = MemoryDatapath()
    maps = loaded(datapath, config(host_firewall=True))
    maps.set_network(FACTS)
    host = Host("n1", generation=7, write=maps.write_host)
    assert not described(datapath).flags & layout.NODE_HOST_FIREWALL
    host.write(replace(host.endpoint, policy_generation=8))
    assert described(datapath).flags & layout.NODE_HOST_FIREWALL
    assert described(datapath).host_policy_generation == 8


def test_a_description_that_the_kernel_refuses_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    datapath = MemoryDatapath()
    maps = loaded(datapath, config(host_firewall=True))
    maps.set_network(FACTS)
    held = datapath.memory_maps[layout.NODE.name]
    monkeypatch.setattr(held, "spec", replace(held.spec, value_size=1))
    host = Host("n1", generation=7, write=maps.write_host)
    with pytest.raises(Unavailable, match="axoneme_node"):
        host.write(replace(host.endpoint, policy_generation=8))
    assert any("axoneme_node" in problem for problem in maps.problems())
    assert maps.next_due() is not None


async def test_addresses_of_an_earlier_life_stay_until_the_stream_is_complete() -> None:
    datapath = MemoryDatapath()
    stale = base.address_bytes("192.0.2.99")
    datapath.maps[layout.NODE_IPS.name].update(stale, layout.NodeIp(layout.NODE_IP_TUNNEL_PEER).pack())
    maps = loaded(datapath)
    maps.set_nodes((), OWN, complete=False)
    peer = NodeEntry(cluster="west", name="n1", internal_ips=("192.0.2.2", "2001:db8::2"))
    own_only = dict.fromkeys((*OWN.internal_ips, *OWN.router_ips), layout.NODE_IP_OWN)
    assert addresses(datapath) == own_only | {"192.0.2.99": layout.NODE_IP_TUNNEL_PEER}
    maps.set_nodes([peer, OWN], OWN, complete=True)
    peers = dict.fromkeys(peer.internal_ips, layout.NODE_IP_TUNNEL_PEER)
    assert addresses(datapath) == own_only | peers
    datapath.maps[layout.NODE_IPS.name].delete(base.address_bytes("2001:db8::2"))
    datapath.maps[layout.NODE_IPS.name].update(stale, layout.NodeIp(1).pack())
    found = await maps.audit()
    assert sorted(found) == [
        "axoneme_nodeips: 192.0.2.99: unknown, removed",
        "axoneme_nodeips: 2001:db8::2: missing, written again",
    ]
    assert addresses(datapath) == own_only | peers


@pytest.mark.parametrize("family", [4, 6])
async def test_exclusions_of_masquerading_are_the_option_and_nothing_else(family: int) -> None:
    datapath = MemoryDatapath()
    held = datapath.maps[layout.NO_MASQUERADE.name]
    held.update(base.IpcacheKey.of("198.51.100.0/24").pack(), b"\x01")
    maps = loaded(datapath, config(native_routing_cidrs=(CIDR[family],)))
    key = base.IpcacheKey.of(CIDR[family]).pack()
    assert held.items() == [(key, b"\x01")]
    held.delete(key)
    assert await maps.audit() == [f"axoneme_nomasq: {CIDR[family]}: missing, written again"]
    assert held.items() == [(key, b"\x01")]


IPS = st.sampled_from(["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::2", "2001:db8::3", "10.1.0.1"])
NODES = st.builds(
    NodeEntry,
    cluster=st.sampled_from(["east", "west"]),
    name=st.sampled_from(["n1", "n2", "n3"]),
    internal_ips=st.lists(IPS, max_size=3).map(tuple),
)


@given(st.lists(st.lists(NODES, max_size=5), min_size=1, max_size=6))
def test_step_by_step_equals_from_scratch(states: list[list[NodeEntry]]) -> None:
    datapath = MemoryDatapath()
    maps = loaded(datapath)
    for nodes in states:
        maps.set_nodes(nodes, OWN, complete=True)
        wanted = nodeconfig.node_addresses(nodes, OWN)
        assert dict(datapath.maps[layout.NODE_IPS.name].items()) == wanted
        for ip in (*OWN.internal_ips, *OWN.router_ips):
            assert layout.NodeIp.unpack(wanted[base.address_bytes(ip)]).flags == layout.NODE_IP_OWN


def test_the_host_is_written_as_an_endpoint_is() -> None:
    written: list[Endpoint] = []
    host = Host("n1", generation=3, write=written.append)
    host.adopted()
    assert [one.policy_generation for one in written] == [3]
    assert host.problems() == []
