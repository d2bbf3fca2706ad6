"""The node's own network: uplink, tunnel device, programs of the node, routes through the tunnel."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from axoneme.lib.bpf.maps import KernelMap
from axoneme.lib.errors import FailedPrecondition, InvalidArgument
from shim.maps import sockets
from shim.privileged import protocol
from shim.privileged.client import HelperClient
from tests.unit.shim.nodelab import NodeLab, ip
from tests.unit.shim.privileged.conftest import UPLINK_IPS, add_endpoint

pytestmark = pytest.mark.root

TUNNEL = protocol.SetUpNetwork(routing_mode="tunnel", internal_ips=UPLINK_IPS)
SERVICES = protocol.SetUpNetwork(services=True, masquerade=True, internal_ips=UPLINK_IPS)


def link(lab: NodeLab, name: str) -> dict[str, Any]:
    return dict(json.loads(ip("-j", "-d", "link", "show", name, netns=lab.name))[0])


def links(lab: NodeLab) -> set[str]:
    return {path.name for path in (lab.pins / "links").iterdir()}


def test_programs_are_asked_for_before_the_network(helper: HelperClient) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        helper.call(TUNNEL)
    assert caught.value.reason == "BPF_OBJECTS_MISSING", "the shim then tells the helper its settings"


@pytest.mark.parametrize("wanted", UPLINK_IPS)
def test_the_uplink_is_found_by_an_internal_address(lab: NodeLab, helper: HelperClient, wanted: str) -> None:
    helper.call(protocol.LoadPrograms())
    facts = helper.call(protocol.SetUpNetwork(internal_ips=(wanted,)))
    assert facts["uplink"] == "up0"
    assert facts["uplink_ifindex"] == link(lab, "up0")["ifindex"]
    assert facts["uplink_mac"] == link(lab, "up0")["address"]
    assert facts["endpoint_mtu"] == facts["uplink_mtu"] == 1500
    assert facts["missing"] == {}
    assert facts["attached"] == []


@pytest.mark.parametrize(("family", "via"), [("-4", "192.0.2.9"), ("-6", "2001:db8::9")])
def test_the_uplink_is_found_by_the_default_route(
    lab: NodeLab, helper: HelperClient, family: str, via: str
) -> None:
    helper.call(protocol.LoadPrograms())
    assert "name the uplink" in helper.call(protocol.SetUpNetwork())["missing"]["uplink"]
    ip(family, "route", "add", "default", "via", via, netns=lab.name)
    assert helper.call(protocol.SetUpNetwork())["uplink"] == "up0"


def test_an_uplink_or_mtu_that_cannot_be_is_refused_by_name(helper: HelperClient) -> None:
    helper.call(protocol.LoadPrograms())
    with pytest.raises(InvalidArgument, match="uplink: interface absent0"):
        helper.call(protocol.SetUpNetwork(uplink="absent0"))
    with pytest.raises(InvalidArgument, match="mtu: is 9000"):
        helper.call(protocol.SetUpNetwork(uplink="up0", mtu=9000))


def test_tunnel_device_is_made_taken_over_replaced_and_removed(lab: NodeLab, helper: HelperClient) -> None:
    helper.call(protocol.LoadPrograms())
    facts = helper.call(TUNNEL)
    assert facts["missing"] == {}
    device = link(lab, "axo_vxlan")
    assert device["ifindex"] == facts["overlay_ifindex"]
    assert device["address"] == "0a:61:78:6f:00:01"
    assert {"NOARP", "UP"} <= set(device["flags"])
    assert device["mtu"] == facts["endpoint_mtu"] == 1430, "a node with an IPv6 address may send by it"
    assert device["linkinfo"]["info_data"]["external"]
    assert device["linkinfo"]["info_data"]["port"] == 8472
    assert {"overlay-axoneme_from_overlay", "overlay-axoneme_to_overlay"} <= links(lab)
    again = helper.call(TUNNEL)
    assert again["overlay_ifindex"] == facts["overlay_ifindex"], "an equal device is taken over"
    assert again["repaired"] == []
    moved = helper.call(
        protocol.SetUpNetwork(routing_mode="tunnel", tunnel_port=4789, internal_ips=UPLINK_IPS)
    )
    assert link(lab, "axo_vxlan")["linkinfo"]["info_data"]["port"] == 4789
    assert moved["overlay_ifindex"] != facts["overlay_ifindex"]
    direct = helper.call(protocol.SetUpNetwork(internal_ips=UPLINK_IPS))
    assert direct["overlay_ifindex"] == 0
    assert "axo_vxlan" not in ip("link", netns=lab.name)
    assert not [name for name in links(lab) if name.startswith("overlay")]


def test_an_ipv4_node_keeps_the_bytes_of_the_longer_header(lab: NodeLab, helper: HelperClient) -> None:
    helper.call(protocol.LoadPrograms())
    request = protocol.SetUpNetwork(routing_mode="tunnel", internal_ips=UPLINK_IPS[:1])
    assert helper.call(request)["endpoint_mtu"] == 1450
    smaller = protocol.SetUpNetwork(routing_mode="tunnel", internal_ips=UPLINK_IPS[:1], mtu=1300)
    assert helper.call(smaller)["endpoint_mtu"] == link(lab, "axo_vxlan")["mtu"] == 1300


def test_a_foreign_device_of_that_name_is_replaced(lab: NodeLab, helper: HelperClient) -> None:
    helper.call(protocol.LoadPrograms())
    ip("link", "add", "axo_vxlan", "type", "vxlan", "id", "7", "dstport", "8472", netns=lab.name)
    facts = helper.call(TUNNEL)
    assert link(lab, "axo_vxlan")["linkinfo"]["info_data"]["external"]
    assert facts["overlay_ifindex"] == link(lab, "axo_vxlan")["ifindex"]


def test_a_port_that_another_tunnel_has_is_told(lab: NodeLab, helper: HelperClient) -> None:
    helper.call(protocol.LoadPrograms())
    ip("link", "add", "other", "type", "vxlan", "external", "dstport", "8472", netns=lab.name)
    facts = helper.call(TUNNEL)
    assert "UDP port 8472" in facts["missing"]["overlay"]
    assert facts["overlay_ifindex"] == 0
    assert facts["uplink"] == "up0", "the rest is there all the same"


def test_routes_through_the_tunnel(lab: NodeLab, helper: HelperClient) -> None:
    routes = {"10.92.0.0/24": "overlay", "fd00:92::/64": "overlay"}
    request = protocol.SetRoutes(upserts=routes, removals=(), mtu=1400)
    faults = helper.call(request)["faults"]
    assert set(faults) == set(routes), "there is no tunnel yet"
    assert "axo_vxlan" in faults["fd00:92::/64"]
    helper.call(protocol.LoadPrograms())
    helper.call(TUNNEL)
    assert helper.call(request)["faults"] == {}
    assert helper.call(protocol.ListRoutes())["routes"] == routes
    for family, prefix in (("-4", "10.92.0.0/24"), ("-6", "fd00:92::/64")):
        assert "mtu 1400" in ip(family, "route", "show", prefix, netns=lab.name)
    back = {"10.92.0.0/24": "192.0.2.2", "fd00:92::/64": "2001:db8::2"}
    assert helper.call(protocol.SetRoutes(upserts=back, removals=()))["faults"] == {}
    assert helper.call(protocol.ListRoutes())["routes"] == back


def test_programs_of_the_uplink_come_and_go_with_the_settings(lab: NodeLab, helper: HelperClient) -> None:
    helper.call(protocol.LoadPrograms())
    facts = helper.call(SERVICES)
    assert facts["missing"] == {}
    assert facts["attached"] == ["uplink"]
    assert facts["repaired"] == ["uplink: axoneme_from_netdev", "uplink: axoneme_to_netdev"]
    assert helper.call(SERVICES)["repaired"] == []
    (lab.pins / "links" / "uplink-axoneme_to_netdev").unlink()
    assert helper.call(SERVICES)["repaired"] == ["uplink: axoneme_to_netdev"], "somebody took it off"
    assert helper.call(protocol.SetUpNetwork(internal_ips=UPLINK_IPS))["attached"] == []
    assert links(lab) == set()


def test_a_restarted_helper_replaces_the_nodes_programs_too(lab: NodeLab, helper: HelperClient) -> None:
    helper.call(protocol.LoadPrograms())
    helper.call(SERVICES)
    lab.processes[-1].kill()
    lab.processes[-1].wait()
    again = lab.start_helper()
    loaded = again.call(protocol.LoadPrograms(replace=False))["programs"]
    assert "axoneme_from_netdev" in loaded
    assert again.call(SERVICES)["repaired"] == []
    again.close()


@pytest.mark.parametrize("mode", ["generic", "native"])
def test_xdp_of_the_uplink(lab: NodeLab, helper: HelperClient, mode: str) -> None:
    helper.call(protocol.LoadPrograms())
    request = protocol.SetUpNetwork(internal_ips=UPLINK_IPS, services=True, xdp=mode)
    facts = helper.call(request)
    assert facts["missing"] == {}
    assert facts["attached"] == ["uplink", "xdp"]
    assert helper.call(request)["repaired"] == []
    shown = link(lab, "up0")["xdp"]
    assert (shown["mode"] == 2) is (mode == "generic")
    assert helper.call(protocol.SetUpNetwork(internal_ips=UPLINK_IPS))["attached"] == []
    assert "xdp" not in link(lab, "up0")


def test_socket_programs_on_a_cgroup(lab: NodeLab, helper: HelperClient) -> None:
    helper.call(protocol.LoadPrograms())
    folder = Path("/sys/fs/cgroup/unified") / lab.name
    folder.mkdir()
    try:
        request = protocol.SetUpNetwork(
            internal_ips=UPLINK_IPS, services=True, socket_lb=True, cgroup_root=str(folder)
        )
        facts = helper.call(request)
        assert facts["missing"] == {}
        assert facts["attached"] == ["sock", "uplink"]
        assert len([name for name in links(lab) if name.startswith("cgroup-")]) == 8
        assert helper.call(request)["repaired"] == []
        (lab.pins / "links" / "cgroup-axoneme_connect6").unlink()
        assert helper.call(request)["repaired"] == ["sock"]
        assert helper.call(protocol.SetUpNetwork(internal_ips=UPLINK_IPS))["attached"] == []
        assert links(lab) == set()
    finally:
        folder.rmdir()


def test_a_cgroup_of_the_old_kind_is_named(helper: HelperClient) -> None:
    helper.call(protocol.LoadPrograms())
    request = protocol.SetUpNetwork(
        internal_ips=UPLINK_IPS, services=True, socket_lb=True, cgroup_root="/sys/fs/cgroup/absent"
    )
    assert "no cgroup v2" in helper.call(request)["missing"]["sock"]


def test_endpoints_get_the_mtu(lab: NodeLab, helper: HelperClient) -> None:
    helper.call(protocol.LoadPrograms())
    netns = lab.add_workload()
    for mtu in (1400, 1350):
        helper.call(
            protocol.CreateInterface(
                endpoint_id=7, netns=netns, interface_name="eth0", ips=("10.91.0.7", "fd00:91::7"), mtu=mtu
            )
        )
        assert link(lab, "axo7")["mtu"] == mtu
        assert f"mtu {mtu}" in ip("link", "show", "eth0", netns=netns.rpartition("/")[2])


def test_maglev_tables_travel_as_descriptors(lab: NodeLab, helper: HelperClient) -> None:
    from axoneme.lib.bpf.maps import KernelMap
    from shim.maps import base, lb

    helper.call(protocol.LoadPrograms())
    assert helper.call_with_fds(protocol.OpenMaglevTable(set_id=3))[1] == []
    outer = KernelMap.open(lab.pins / lb.MAGLEV.name)
    for set_id, size in ((3, 251), (4, 16_381)):
        _, fds = helper.call_with_fds(protocol.CreateMaglevTable(size=size))
        table = KernelMap(fds[0])
        assert table.max_entries == size
        outer.set_inner(base.number_key(set_id), table)
        _, fds = helper.call_with_fds(protocol.OpenMaglevTable(set_id=set_id))
        assert KernelMap(fds[0]).map_id == table.map_id


def test_a_helper_that_knows_no_programs_leaves_endpoints_alone(lab: NodeLab, helper: HelperClient) -> None:
    helper.call(protocol.LoadPrograms())
    index = add_endpoint(lab, helper)
    lab.processes[-1].kill()
    lab.processes[-1].wait()
    again = lab.start_helper()
    assert again.call(protocol.ListInterfaces())["interfaces"]["7"] == {"ifindex": index, "attached": True}
    again.close()


def test_features_are_yes_or_words(lab: NodeLab, helper: HelperClient) -> None:
    found = helper.call(protocol.ProbeFeatures())["features"]
    hooks = {f"cgroup_{call}{v}" for call in ("connect", "sendmsg", "recvmsg", "getpeername") for v in (4, 6)}
    assert hooks <= found.keys()
    assert found["xdp_native"] == "the uplink is not known yet"
    names = ("tcx", "clsact", "bpf_loop", "lpm_batch", "cgroup2", "bpffs", "btf", "redirect_peer")
    for name in (*names, "sk_assign", "skc_lookup_tcp"):
        assert found[name] == "yes", name
    for name in (
        "redirect_neigh",
        "vxlan",
        "trie_in_hash",
        "inner_array_sizes",
        "sockmap",
        "ring_mmap",
        "maglev",
        "dsr",
    ):
        assert found[name] == "yes", name
    assert all(text and len(text) < 300 for text in found.values())
    helper.call(protocol.LoadPrograms())
    helper.call(protocol.SetUpNetwork(internal_ips=UPLINK_IPS, cgroup_root="/sys/fs/absent"))
    again = helper.call(protocol.ProbeFeatures())["features"]
    assert again["xdp_native"] == "yes", "a veth's driver runs programs"
    assert again["cgroup2"] == "/sys/fs/absent is no cgroup v2"
    helper.call(protocol.SetUpNetwork(uplink="lo"))
    assert "lo" in helper.call(protocol.ProbeFeatures())["features"]["xdp_native"]
    assert "clsact" not in ip("link", "show", "lo", netns=lab.name)
    assert "axo_probe" not in ip("link", netns=lab.name)


PAIR = sockets.PairKey(bytes(16), bytes(16), b"\0P", b"\0Q").pack()
REDIRECTED = sockets.SocketPair(3, 4, 7, 8, sockets.PAIR_REDIRECTED, 1)


def pinned(lab: NodeLab, name: str) -> KernelMap:
    return KernelMap.open(lab.pins / name)


@pytest.mark.parametrize("resized", ["axoneme_ct", "axoneme_pairs"])
def test_accelerated_connections_never_outlive_the_maps_that_judge_them(
    lab: NodeLab, helper: HelperClient, resized: str
) -> None:
    """Their sockets keep the program that they began with, and so the maps that it was loaded with."""
    helper.call(protocol.LoadPrograms())
    pairs, hashed = pinned(lab, "axoneme_pairs"), pinned(lab, "axoneme_sockhash").map_id
    pairs.update(PAIR, REDIRECTED.pack())
    helper.call(protocol.LoadPrograms(map_sizes={resized: 4096}))
    assert pairs.lookup(PAIR) == replace(REDIRECTED, state=sockets.PAIR_STACK).pack()
    assert pinned(lab, "axoneme_pairs").lookup(PAIR) == replace(REDIRECTED, state=sockets.PAIR_STACK).pack()
    assert pinned(lab, "axoneme_sockhash").map_id == hashed
    with pytest.raises(InvalidArgument, match="map_sizes"):
        helper.call(protocol.LoadPrograms(map_sizes={"axoneme_sockhash": 4096}))


def test_sockets_that_pass_data_directly(lab: NodeLab, helper: HelperClient) -> None:
    helper.call(protocol.LoadPrograms())
    folder = Path("/sys/fs/cgroup/unified") / lab.name
    folder.mkdir()
    try:
        request = protocol.SetUpNetwork(internal_ips=UPLINK_IPS, sockmap=True, cgroup_root=str(folder))
        facts = helper.call(request)
        assert facts["missing"] == {}
        assert facts["attached"] == ["sockmap"]
        assert links(lab) == {"cgroup-axoneme_sockops"}
        assert helper.call(request)["repaired"] == []
        before = {name: pinned(lab, name).map_id for name in ("axoneme_sockhash", "axoneme_pairs")}
        pinned(lab, "axoneme_pairs").update(PAIR, REDIRECTED.pack())
        assert helper.call(protocol.SetUpNetwork(internal_ips=UPLINK_IPS))["attached"] == []
        assert links(lab) == set()
        assert pinned(lab, "axoneme_pairs").lookup(PAIR) == replace(REDIRECTED, state=2).pack()
        assert {name: pinned(lab, name).map_id for name in before} == before, "sockets stay in their map"
    finally:
        folder.rmdir()
