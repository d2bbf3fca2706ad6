"""A node's value in etcd: Cilium's JSON, with the health addresses in its fields and our features beside."""

from __future__ import annotations

import json
from typing import Any

import pytest

from axoneme.lib.errors import InvalidArgument
from services.identity import domain, records, wire
from services.identity.domain import Node
from services.identity.podcidrs import addresses_inside

HEALTH = {4: "10.1.0.9", 6: "fd00:10:1::9"}
FIELD = {4: "IPv4HealthIP", 6: "IPv6HealthIP"}
FEATURES = (("redirect-peer", "yes"), ("tcx", "needs Linux 6.6"))


def node(**fields: Any) -> Node:
    values = {"internal_ips": ("192.0.2.1", "2001:db8::1"), "pod_cidrs": ("10.1.0.0/24", "fd00:10:1::/64")}
    return Node(name="n1", cluster="east", **{**values, **fields})


@pytest.mark.parametrize("family", [4, 6])
def test_health_addresses_stand_in_cilium_s_fields(family: int) -> None:
    stored = json.loads(records.encode_node(node(health_ips=(HEALTH[family],))))
    assert stored[FIELD[family]] == HEALTH[family]
    assert stored[FIELD[10 - family]] == ""
    assert records.decode_node(json.dumps(stored).encode()).health_ips == (HEALTH[family],)


def test_features_come_back_and_are_absent_when_there_are_none() -> None:
    value = records.encode_node(node(features=FEATURES))
    assert records.decode_node(value).features == FEATURES
    assert "AxonemeFeatures" not in json.loads(records.encode_node(node()))
    assert records.decode_node(records.encode_node(node())) == node()


def test_a_node_goes_through_the_messages_unchanged() -> None:
    whole = node(health_ips=tuple(HEALTH.values()), features=FEATURES, labels=(("role", "edge"),))
    assert wire.node_of(wire.node_message(whole), "east", 0) == whole


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"health_ips": ("10.1.0.9", "10.1.0.8")}, "node.health_ips"),
        ({"health_ips": ("fd00::9", "fd00::8")}, "node.health_ips"),
        ({"health_ips": ("nowhere",)}, "node.health_ips"),
        ({"features": (("x" * 65, "yes"),)}, "node.features"),
        ({"features": (("", "yes"),)}, "node.features"),
        ({"features": (("tcx", "n" * 257),)}, "node.features"),
        ({"features": tuple((f"f{n}", "yes") for n in range(65))}, "node.features"),
    ],
)
def test_what_cannot_be_stored_is_refused_by_name(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidArgument, match=named):
        domain.checked_node(node(**fields))


def test_health_addresses_outside_the_pod_cidrs_are_left_out() -> None:
    cidrs = ("10.1.0.0/24", "fd00:10:1::/64")
    assert addresses_inside(("fd00:10:1::9", "10.2.0.9", "10.1.0.9"), cidrs) == ("10.1.0.9", "fd00:10:1::9")
