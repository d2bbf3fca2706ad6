"""What a node's configuration refuses, and how a stream's failures are told."""

from __future__ import annotations

from typing import Any

import pytest

from axoneme.lib.errors import InvalidArgument
from axoneme.lib.intent import Failure
from axoneme.lib.intentstream import StreamState
from shim.config import ShimConfig
from shim.status import MAX_NAMED, stream_problems


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("observer_listen", "4244"),
        ("observer_listen", "0.0.0.0:x"),
        ("observer_listen", "0.0.0.0:65536"),
        ("certificate_names", ("*.hubble-relay.cilium.io",)),
        ("certificate_names", ("=user/reader/stock",)),
        ("internal_ips", ("node1",)),
        ("pod_cidrs", ("10.1.0.1/24",)),
        ("native_routing_cidrs", ("fd00::1/64",)),
        ("labels", ("role",)),
        ("labels", ("role=a b",)),
        ("labels", ("role=a", "role=b")),
        ("health_port", 65_536),
        ("health_seconds", 0.0),
        ("nat_ports", "30000-20000"),
        ("tunnel_port", 0),
        ("dns_proxy_port", 0),
        ("dns_proxy_port", 65_536),
        ("mtu", 1000),
        ("routing_mode", "vxlan"),
        ("xdp", "on"),
        ("cluster_id", 256),
        ("map_sizes", ("axoneme_node=2",)),
        ("monitor_aggregation", "most"),
        ("lb_algorithm", "best"),
    ],
)
def test_bad_values_are_named(field: str, value: Any) -> None:
    with pytest.raises(InvalidArgument, match=field):
        ShimConfig(node_name="n1", **{field: value})


@pytest.mark.parametrize(("ip", "cidr"), [("192.0.2.1", "fd00:10:1::/64"), ("2001:db8::1", "10.1.0.0/24")])
def test_a_pod_cidr_needs_an_address_of_its_family_or_a_tunnel(ip: str, cidr: str) -> None:
    with pytest.raises(InvalidArgument, match="has no address of that family"):
        ShimConfig(node_name="n1", internal_ips=(ip,), pod_cidrs=(cidr,))
    ShimConfig(node_name="n1", internal_ips=(ip,), pod_cidrs=(cidr,), routing_mode="tunnel")
    ShimConfig(node_name="n1", internal_ips=("192.0.2.1", "2001:db8::1"), pod_cidrs=(cidr,))


def test_certificate_names_are_roles_of_stock_clients() -> None:
    assert ShimConfig(node_name="n1").certificate_names == ()
    ShimConfig(node_name="n1", certificate_names=("*.hubble-relay.cilium.io=user/reader/stock",))


def test_failures_are_named_up_to_a_limit_and_then_counted() -> None:
    failures = {
        f"subject:{number}": Failure("UNAVAILABLE", "X", "no room") for number in range(MAX_NAMED + 3)
    }
    state = StreamState(
        name="SubscribeEndpointPolicies",
        synced=True,
        stale_seconds=0.0,
        epoch=1,
        revision=1,
        error="",
        failures=failures,
    )
    problems = stream_problems(state)
    assert len(problems) == MAX_NAMED + 1
    assert "3 more resources" in problems[-1]
