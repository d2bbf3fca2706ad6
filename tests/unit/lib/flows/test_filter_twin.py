"""Filters equal a second reading of their rules, on random flows with every field that a filter looks at."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st

from axoneme.api.hubble.flow import flow_pb2
from axoneme.lib.flows.filters import FIELD_RULES, FlowMatcher
from tests.conftest import scaled
from tests.unit.lib.flows import filtertwin

ADDRESSES = ["", "10.1.0.11", "10.2.0.1", "192.0.2.7", "fd00::12", "fd01::1"]
LABELS = ["k8s:app=web", "k8s:app=api", "k8s:tier=front", "reserved:world", "container:app=web", "k8s:empty="]
L4: list[dict[str, Any]] = [
    {"TCP": {"source_port": 41000, "destination_port": 80, "flags": {"SYN": True}}},
    {"TCP": {"source_port": 80, "destination_port": 41000, "flags": {"SYN": True, "ACK": True}}},
    {"TCP": {"source_port": 80}},
    {"UDP": {"source_port": 53, "destination_port": 80}},
    {"SCTP": {"destination_port": 53}},
    {"ICMPv4": {"type": 8}},
    {"ICMPv6": {"type": 128}},
    {"VRRP": {"type": 1}},
    {"IGMP": {"type": 1}},
]
L7: list[dict[str, Any]] = [
    {"type": "REQUEST", "dns": {"query": "api.example.com."}},
    {"type": "REQUEST", "http": {"method": "GET", "url": "http://api.shop/items/42?q=/admin"}},
    {
        "type": "RESPONSE",
        "http": {"code": 503, "method": "POST", "url": "/items", "headers": [{"key": "X-A", "value": "1"}]},
    },
    {"type": "RESPONSE", "http": {"code": 53, "headers": [{"key": "x-a", "value": "1"}, {"key": "X-B"}]}},
    {"type": "REQUEST", "kafka": {"topic": "t"}},
]  # fmt: skip
ends = st.fixed_dictionaries(
    {},
    optional={
        "identity": st.sampled_from([0, 1, 20101]),
        "namespace": st.sampled_from(["shop", "default"]),
        "pod_name": st.sampled_from(["web-1", "api-1"]),
        "cluster_name": st.sampled_from(["east", "ea*"]),
        "labels": st.lists(st.sampled_from(LABELS), max_size=3, unique=True),
        "workloads": st.lists(
            st.sampled_from([{"kind": "Deployment", "name": "web"}, {"kind": "DaemonSet"}, {"name": "api"}]),
            max_size=2,
        ),
    },
)
names = st.lists(st.sampled_from(["API.example.com.", "www.example.org", "x_y.test"]), max_size=2)
services = st.sampled_from([{"name": "api", "namespace": "shop"}, {"namespace": "shop"}, {}])
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "uuid": st.sampled_from(["u-1", "u-2"]),
    "verdict": st.sampled_from(["FORWARDED", "DROPPED", "AUDIT"]),
    "drop_reason_desc": st.sampled_from(["POLICY_DENIED", "INVALID_SOURCE_IP"]),
    "IP": st.fixed_dictionaries(
        {},
        optional={
            "source": st.sampled_from(ADDRESSES),
            "destination": st.sampled_from(ADDRESSES),
            "source_xlated": st.sampled_from(ADDRESSES),
            "ipVersion": st.sampled_from(["IPv4", "IPv6"]),
            "encrypted": st.booleans(),
        },
    ),
    "l4": st.sampled_from(L4),
    "l7": st.sampled_from(L7),
    "source": ends,
    "destination": ends,
    "source_names": names,
    "destination_names": names,
    "source_service": services,
    "destination_service": services,
    "event_type": st.sampled_from(
        [{"type": 1, "sub_type": 133}, {"type": 4, "sub_type": 3}, {"type": 4}, {"type": 129}]
    ),
    "traffic_direction": st.sampled_from(["INGRESS", "EGRESS"]),
    "node_name": st.sampled_from(["east/node-a", "solo", "west/node-b"]),
    "node_labels": st.lists(st.sampled_from(LABELS), max_size=2, unique=True),
    "is_reply": st.booleans(),
    "interface": st.sampled_from([{"index": 5, "name": "axo401"}, {"index": 6}, {}]),
    "trace_context": st.sampled_from([{"parent": {"trace_id": "t-1"}}, {}]),
    "ip_trace_id": st.sampled_from([{"trace_id": "7"}, {}]),
}
flows = st.fixed_dictionaries({}, optional=FIELDS)
whole_flows = st.fixed_dictionaries(FIELDS)
"""With every field, so that a rule has something to look at."""
SIDED: dict[str, list[Any]] = {
    "ip": ["10.1.0.11", "10.0.0.0/8", "fd00::/16", "0.0.0.0/0", "fd00::12"],
    "pod": ["shop/web", "shop/", "/we", "/", "web", "shop/api-1"],
    "fqdn": ["*.example.com", "api.example.com", "*", "*.example.*.", "X_Y.test"],
    "label": [
        "app=web",
        "any:app=web",
        "container:app",
        "!app",
        "tier,app=api",
        "reserved:world",
        "!k8s:empty",
    ],
    "service": ["shop/a", "/", "shop/", "api"],
    "workload": [{"kind": "Deployment", "name": "web"}, {"kind": "DaemonSet"}, {"name": "api"}, {}],
    "cluster_name": ["east", "ea*", ""],
    "port": ["80", "0", "41000"],
    "identity": [0, 20101],
}
CHOICES: dict[str, list[Any]] = {
    **{f"{side}_{name}": values for side in ("source", "destination") for name, values in SIDED.items()},
    "uuid": ["u-1", ""],
    "source_ip_xlated": ["192.0.2.7", "10.0.0.0/8"],
    "traffic_direction": ["INGRESS", "TRAFFIC_DIRECTION_UNKNOWN"],
    "verdict": ["FORWARDED", "DROPPED", "VERDICT_UNKNOWN"],
    "drop_reason_desc": ["POLICY_DENIED", "DROP_REASON_UNKNOWN"],
    "interface": [{"name": "axo401"}, {"index": 6}, {"index": 5, "name": "axo402"}, {}],
    "event_type": [
        {"type": 4},
        {"type": 4, "match_sub_type": True},
        {"type": 1, "match_sub_type": True, "sub_type": 133},
        {"type": 129},
    ],
    "protocol": ["tcp", "UDP", "sctp", "icmp", "icmpv4", "ICMPv6", "vrrp", "igmp", "dns", "http", "kafka"],
    "reply": [True, False],
    "dns_query": ["^api", "com", "nothing"],
    "http_status_code": ["503", "5+", "50+", "404"],
    "http_method": ["get", "POST", "put"],
    "http_path": ["^/items", "admin", "42$"],
    "http_url": ["^http://", "admin", "items"],
    "http_header": [{"key": "X-A", "value": "1"}, {"key": "X-B"}],
    "tcp_flags": [{"SYN": True}, {"SYN": True, "ACK": True}, {"RST": True}, {"NS": True, "SYN": True}],
    "node_name": ["node-a", "east/", "e*/node-*", "default/", "*", "/node-b"],
    "node_labels": ["app=web", "!tier"],
    "ip_version": ["IPv4", "IPv6", "IP_NOT_USED"],
    "trace_id": ["t-1", ""],
    "ip_trace_id": ["7", "8"],
    "encrypted": [True, False],
}


@st.composite
def flow_filters(draw: st.DrawFn) -> dict[str, Any]:
    """Up to three fields with up to three values each; what looks at http must look at l7."""
    fields = draw(st.lists(st.sampled_from(sorted(CHOICES)), max_size=3, unique=True))
    made = {
        field: draw(st.lists(st.sampled_from(CHOICES[field]), min_size=1, max_size=3)) for field in fields
    }
    if any(field.startswith("http_") for field in made) and "event_type" in made:
        made["event_type"].append({"type": 129})
    return made


def parsed(one: dict[str, Any]) -> flow_pb2.FlowFilter:
    return json_format.ParseDict(one, flow_pb2.FlowFilter())


def test_every_field_is_chosen() -> None:
    assert set(CHOICES) | {"experimental"} == set(FIELD_RULES)


@settings(max_examples=scaled(600, 50_000), deadline=None)
@given(flows, st.lists(flow_filters(), max_size=3), st.lists(flow_filters(), max_size=2))
def test_filters_equal_their_second_reading(
    values: dict[str, Any], whitelist: list[dict[str, Any]], blacklist: list[dict[str, Any]]
) -> None:
    flow = json_format.ParseDict(values, flow_pb2.Flow())
    shown = json_format.MessageToDict(flow, preserving_proto_field_name=True)
    matcher = FlowMatcher(map(parsed, whitelist), map(parsed, blacklist))
    assert matcher.matches(flow) is filtertwin.wanted(shown, whitelist, blacklist)


@pytest.mark.parametrize("field", sorted(CHOICES))
def test_each_field_alone(field: str) -> None:
    @settings(max_examples=scaled(40, 2_000), deadline=None)
    @given(st.one_of(whole_flows, flows), st.sampled_from(CHOICES[field]))
    def check(values: dict[str, Any], value: Any) -> None:
        flow = json_format.ParseDict(values, flow_pb2.Flow())
        shown = json_format.MessageToDict(flow, preserving_proto_field_name=True)
        one = {field: [value]}
        assert FlowMatcher([parsed(one)]).matches(flow) is filtertwin.takes(one, shown)

    check()
