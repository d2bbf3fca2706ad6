"""Options of a node's network: what is refused, by the name of the option."""

from __future__ import annotations

from typing import Any

import pytest

from axoneme.lib.errors import InvalidArgument
from shim import options
from shim.config import ShimConfig
from shim.maps import layout
from shim.network import SIZED_MAPS, NetworkSettings
from shim.privileged import packets, protocol


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("routing_mode", "vxlan"),
        ("tunnel_port", 0),
        ("tunnel_port", 65_536),
        ("uplink", "eth0/1"),
        ("internal_ips", ("192.0.2.1/24",)),
        ("internal_ips", ("2001:db8::1/64",)),
        ("pod_cidrs", ("10.0.0.1/24",)),
        ("native_routing_cidrs", ("fd00::1/64",)),
        ("mtu", 1279),
        ("xdp", "on"),
        ("attach", "bpf"),
        ("monitor_aggregation", "high"),
        ("lb_algorithm", "leastconn"),
        ("lb_forwarding", "tunnel"),
        ("maglev_table_size", 250),
        ("health_port", 65_536),
        ("nat_ports", "30000-20000"),
        ("nat_ports", "1-65536"),
        ("nat_ports", "0-5"),
        ("nat_ports", "1024"),
        ("nat_ports", "a-b"),
        ("nat_ports", "٣-٤"),
        ("map_sizes", ("axoneme_ct",)),
        ("map_sizes", ("axoneme_ct=0",)),
        ("map_sizes", ("axoneme_ct=99999999",)),
        ("map_sizes", ("axoneme_ct=-1",)),
        ("map_sizes", ("axoneme_events=8192",)),
        ("map_sizes", ("passwd=1",)),
    ],
)
def test_bad_options_are_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(InvalidArgument) as caught:
        ShimConfig(node_name="n1", **{field: value})
    assert caught.value.violations[0].field == field


def test_settings_reach_the_helper() -> None:
    cfg = ShimConfig(
        node_name="n1",
        routing_mode="tunnel",
        internal_ips=("192.0.2.1", "2001:db8::1"),
        map_sizes=("axoneme_ct=4096", "axoneme_nat=8192"),
        attach="clsact",
        monitor_aggregation="low",
        health_port=0,
        clustermesh_targets=(),
    )
    load = packets.decode(packets.encode(protocol.load_request(cfg.network)))
    assert load == protocol.LoadPrograms(
        replace=False,
        map_sizes={"axoneme_ct": 4096, "axoneme_nat": 8192},
        tunnel_port=8472,
        monitor_aggregation="low",
        attach="clsact",
    )
    setup = packets.decode(packets.encode(protocol.network_request(cfg.network)))
    assert setup == protocol.SetUpNetwork(
        routing_mode="tunnel",
        internal_ips=cfg.internal_ips,
        masquerade=True,
        socket_lb=True,
        attach="clsact",
        dns_proxy=True,
    )
    assert protocol.load_request(NetworkSettings()).tunnel_port == 0, "without a tunnel nothing to guard"


def test_pins_are_below_the_schema() -> None:
    assert ShimConfig(node_name="n1").pin_directory.name == f"v{layout.SCHEMA_VERSION}"


def test_maps_of_a_fixed_size_are_not_offered() -> None:
    assert {"axoneme_ct", "axoneme_nat", "axoneme_ipcache", "axoneme_lb"} <= set(SIZED_MAPS)
    assert not {"axoneme_events", "axoneme_node", "axoneme_policy", "axoneme_metrics"} & set(SIZED_MAPS)
    with pytest.raises(InvalidArgument, match="map_sizes: 'axoneme_sockhash' has no size to choose"):
        ShimConfig(node_name="n1", map_sizes=("axoneme_sockhash=1024",)).network  # noqa: B018


def test_port_range_gives_both_ends() -> None:
    assert options.port_range("nat_ports", "16384-29999") == (16_384, 29_999)
