"""What the privileged helper lets through: exactly the requests of its list, exactly well formed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axoneme.lib.errors import InvalidArgument
from shim.privileged import packets, protocol

GOOD: list[protocol.Request] = [
    protocol.Ping(),
    protocol.SetUpNode(router_ips=("10.1.0.1", "fd00:10:1::1")),
    protocol.LoadPrograms(),
    protocol.LoadPrograms(map_sizes={"axoneme_ct": 4096}, tunnel_port=0, attach="clsact"),
    protocol.SetUpNetwork(),
    protocol.SetUpNetwork(
        routing_mode="tunnel",
        tunnel_port=4789,
        uplink="eth0",
        internal_ips=("192.0.2.1", "2001:db8::1"),
        mtu=1400,
        services=True,
        host_firewall=True,
        socket_lb=True,
        cgroup_root="/sys/fs/cgroup/unified/kube.slice",
        xdp="native",
        health=True,
    ),
    protocol.CreateMaglevTable(size=16_381),
    protocol.OpenMaglevTable(set_id=7),
    protocol.HealthListener(ips=("10.1.0.9", "fd00::9"), port=4240),
    protocol.AdoptInterface(endpoint_id=8, netns="/run/netns/a", interface_name="eth0"),
    protocol.NetnsCookie(netns="/run/netns/a"),
    protocol.CreatePolicyMap(),
    protocol.OpenPolicyMap(holder=7),
    protocol.CreateInterface(
        endpoint_id=7, netns="/run/netns/a-b.c", interface_name="eth0", ips=("10.1.0.2",)
    ),
    protocol.CreateInterface(endpoint_id=7, netns="/proc/12/ns/net", interface_name="eth0", ips=("fd00::2",)),
    protocol.AttachEndpoint(endpoint_id=65_535, ips=("10.1.0.2",), mac="02:00:00:00:00:01"),
    protocol.DetachEndpoint(endpoint_id=1),
    protocol.DeleteInterface(endpoint_id=1),
    protocol.ListInterfaces(),
    protocol.SetRoutes(
        upserts={"10.2.0.0/24": "192.0.2.1", "fd00::/64": "unreachable"}, removals=("10.3.0.0/24",)
    ),
    protocol.SetRoutes(upserts={"10.2.0.0/24": "overlay", "fd00::/64": "overlay"}, removals=(), mtu=1400),
    protocol.ListRoutes(),
    protocol.ProbeFeatures(),
]


@pytest.mark.parametrize("request_", GOOD, ids=lambda one: one.op)
def test_round_trip(request_: protocol.Request) -> None:
    assert packets.decode(packets.encode(request_)) == request_


def test_every_request_is_tried_above() -> None:
    assert {type(one) for one in GOOD} == set(protocol.REQUESTS.values())


CREATE = {"endpoint_id": 7, "netns": "/run/netns/a", "interface_name": "eth0", "ips": ["10.1.0.2"], "mtu": 0}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("endpoint_id", value) for value in (0, -1, 65_536, True, "7", 7.0, None)),
        *(
            ("netns", value)
            for value in (
                "",
                "a",
                "/etc/passwd",
                "/run/netns/",
                "/run/netns/..",
                "/run/netns/.hidden",
                "/run/netns/a/b",
                "/run/netns/a\n",
                "/run/netns/a\0",
                "/proc/self/ns/net",
                "/proc/1/ns/mnt",
                "/proc/0/ns/net",
                "/run/netns/" + "a" * 200,
                7,
            )
        ),
        *(
            ("interface_name", value)
            for value in ("", "a" * 16, "../x", "a b", "a/b", "é", "eth0\n", "-x", 1)
        ),
        *(
            ("ips", value)
            for value in (
                "10.1.0.2",
                ["10.1.0.2/32"],
                ["host"],
                ["127.0.0.1"],
                ["fe80::1"],
                ["224.0.0.1"],
                ["::"],
                [1],
                ["10.1.0.2"] * 9,
            )
        ),
    ],
)
def test_bad_fields_are_named(field: str, value: Any) -> None:
    packet = json.dumps({"op": "create_interface", "args": {**CREATE, field: value}}).encode()
    with pytest.raises(InvalidArgument) as caught:
        packets.decode(packet)
    assert caught.value.violations[0].field == field


_SWITCHES = ("services", "masquerade", "host_firewall", "socket_lb", "sockmap", "dns_proxy", "health")


@pytest.mark.parametrize(
    ("kind", "field", "values"),
    [
        ("set_up_network", "routing_mode", ["", "vxlan", "DIRECT", None, 1, ["tunnel"]]),
        ("set_up_network", "tunnel_port", [-1, 65_536, True, "8472", 1.5, None]),
        ("set_up_network", "uplink", ["a" * 16, "../eth0", "eth0\n", "a b", None, 0, "-x", "é"]),
        (
            "set_up_network",
            "internal_ips",
            ["10.0.0.1", ["::"], ["127.0.0.1"], ["fe80::1"], ["x"], [4], None],
        ),
        ("set_up_network", "mtu", [-1, 1, 1279, 65_536, True, False, "1500", None, 1500.0]),
        *(("set_up_network", name, [None, 0, 1, "true", []]) for name in _SWITCHES),
        (
            "set_up_network",
            "cgroup_root",
            ["relative", "/", "/a/../b", "/a/./b", "/a//b", "/a\0", "/a\n", "/.hidden", "/a" * 17, None, 0],
        ),
        ("set_up_network", "xdp", ["", "on", "offload", None, 2]),
        ("set_up_network", "attach", ["", "tc", "TCX", None, 1]),
        (
            "load_programs",
            "map_sizes",
            [
                None,
                [],
                {"axoneme_ct": 0},
                {"axoneme_ct": -5},
                {"axoneme_ct": True},
                {"axoneme_ct": "9"},
                {"axoneme_ct": 1 << 25},
                {"axoneme_events": 4096},
                {"axoneme_node": 2},
                {"axoneme_policy": 2},
                {"/etc/passwd": 4},
            ],
        ),
        ("load_programs", "monitor_aggregation", ["", "all", None, 3]),
        ("load_programs", "replace", [0, "yes", None]),
        ("create_maglev_table", "size", [0, -1, 131_072, True, "251", None]),
        ("open_maglev_table", "set_id", [-1, 1 << 32, True, "1", None]),
        ("health_listener", "port", [0, 65_536, True, "80", None]),
        ("health_listener", "ips", ["10.0.0.1", ["127.0.0.1"], ["::1"], ["10.0.0.1"] * 9, None]),
        ("adopt_interface", "endpoint_id", [0, 65_536, True, "7"]),
        ("adopt_interface", "netns", ["/etc/passwd", "/run/netns/../x", "/proc/self/ns/net", 7]),
        ("adopt_interface", "interface_name", ["", "a/b", "a" * 16, "..", "eth0\n"]),
        ("set_routes", "mtu", [-1, 20, True, None]),
        ("create_interface", "mtu", [-1, 20, True, None]),
        (
            "set_routes",
            "upserts",
            [{"10.2.0.0/24": "Overlay"}, {"10.2.0.0/24": 7}, {"10.2.0.0/24": ["overlay"]}],
        ),
    ],
)
def test_hostile_fields_of_every_request_are_named(kind: str, field: str, values: list[Any]) -> None:
    good = json.loads(packets.encode(next(one for one in GOOD if one.op == kind)))
    for value in values:
        good["args"][field] = value
        with pytest.raises(InvalidArgument) as caught:
            packets.decode(json.dumps(good).encode())
        assert caught.value.violations[0].field == field, value


@pytest.mark.parametrize(
    "routes",
    [
        {"0.0.0.0/0": "192.0.2.1"},
        {"::/0": "2001:db8::1"},
        {"10.2.0.1/24": "192.0.2.1"},
        {"10.2.0.0/24": "2001:db8::1"},
        {"10.2.0.0/24": "blackhole"},
        {"127.0.0.0/8": "192.0.2.1"},
        {"fe80::/64": "2001:db8::1"},
    ],
)
def test_routes_that_would_take_over_the_node_are_refused(routes: dict[str, str]) -> None:
    packet = json.dumps({"op": "set_routes", "args": {"upserts": routes, "removals": []}}).encode()
    with pytest.raises(InvalidArgument):
        packets.decode(packet)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b'{"op": "ping"}',
        b'{"op": "ping", "args": []}',
        b'{"op": "ping", "args": {}, "more": 1}',
        b'{"op": ["ping"], "args": {}}',
        b'{"op": "exec", "args": {}}',
        b'{"op": "open_policy_map", "args": {}}',
        b"[" * 100_000,
        b" " * (packets.MAX_PACKET_BYTES + 1),
    ],
    ids=range(10),
)
def test_packets_outside_the_list(raw: bytes) -> None:
    with pytest.raises(InvalidArgument):
        packets.decode(raw)


@given(st.binary(max_size=300))
def test_noise_never_gets_through(raw: bytes) -> None:
    try:
        request = packets.decode(raw)
    except InvalidArgument:
        return
    assert packets.encode(request)
