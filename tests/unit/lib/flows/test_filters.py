"""Flow filters, field by field."""

# ruff: noqa: E501  (tables of cases)

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import json_format

from axoneme.api.hubble.flow import flow_pb2
from axoneme.lib.errors import InvalidArgument
from axoneme.lib.flows.filters import FIELD_RULES, FlowMatcher
from axoneme.lib.flows.labelselector import index_labels, parse_selector

FLOW: dict[str, Any] = {
    "uuid": "u-1",
    "verdict": "FORWARDED",
    "IP": {"source": "10.1.0.11", "source_xlated": "192.0.2.1", "destination": "fd00::12", "ipVersion": "IPv4"},
    "l4": {"TCP": {"source_port": 41000, "destination_port": 8080, "flags": {"SYN": True, "ACK": True}}},
    "source": {
        "identity": 20101, "namespace": "shop", "pod_name": "web-1", "cluster_name": "east",
        "labels": ["k8s:app=web", "k8s:tier=front", "reserved:x"], "workloads": [{"kind": "Deployment", "name": "web"}],
    },
    "destination": {"identity": 9, "labels": ["reserved:world-ipv4"]},
    "destination_names": ["API.example.com."],
    "destination_service": {"name": "api", "namespace": "shop"},
    "event_type": {"type": 4, "sub_type": 3},
    "traffic_direction": "EGRESS",
    "node_name": "east/node-a",
    "node_labels": ["topology.kubernetes.io/zone=a"],
    "is_reply": False,
    "interface": {"index": 5, "name": "axo401"},
    "trace_context": {"parent": {"trace_id": "t-1"}},
    "ip_trace_id": {"trace_id": "7"},
}  # fmt: skip
DROP = FLOW | {
    "verdict": "DROPPED", "drop_reason_desc": "POLICY_DENIED", "is_reply": None,
    "event_type": {"type": 1, "sub_type": 133}, "l4": {"ICMPv6": {"type": 128}},
}  # fmt: skip
DNS = FLOW | {
    "l4": {"UDP": {"destination_port": 53}},
    "l7": {"type": "REQUEST", "dns": {"query": "a.example.com."}},
}
HTTP = FLOW | {"l7": {"type": "RESPONSE", "http": {
    "code": 503, "method": "GET", "url": "http://ann@api.shop:80/a%20b/42?q=/admin#/x",
    "headers": [{"key": "X-A", "value": "1"}],
}}}  # fmt: skip


def flow(values: dict[str, Any]) -> flow_pb2.Flow:
    return json_format.ParseDict(values, flow_pb2.Flow())


def matches(values: dict[str, Any], **fields: Any) -> bool:
    return FlowMatcher([json_format.ParseDict(fields, flow_pb2.FlowFilter())]).matches(flow(values))


@pytest.mark.parametrize(
    ("values", "fields", "wanted"),
    [
        (FLOW, {"source_pod": ["shop/web"]}, True),
        (FLOW, {"source_pod": ["shop/"]}, True),
        (FLOW, {"source_pod": ["/we"]}, True),
        (FLOW, {"source_pod": ["/"]}, True),
        (FLOW, {"source_pod": ["web"]}, False),
        (FLOW, {"source_pod": ["shop/api", "shop/web-1"]}, True),
        (FLOW, {"destination_pod": ["/"]}, False),
        (FLOW, {"source_pod": ["shop/web"], "destination_pod": ["shop/"]}, False),
        (FLOW, {"source_ip": ["10.1.0.11"]}, True),
        (FLOW, {"source_ip": ["10.1.0.0/16"]}, True),
        (FLOW, {"source_ip": ["10.2.0.0/16"]}, False),
        (FLOW, {"destination_ip": ["fd00::/64"]}, True),
        (FLOW, {"destination_ip": ["fd00:0::12"]}, False),
        (FLOW, {"source_ip_xlated": ["192.0.2.1"]}, True),
        (FLOW, {"source_label": ["app=web"]}, True),
        (FLOW, {"source_label": ["k8s:app=web,tier in (front, back)"]}, True),
        (FLOW, {"source_label": ["any:app=web,!canary"]}, True),
        (FLOW, {"source_label": ["container:app=web"]}, False),
        (FLOW, {"source_label": ["app notin (web)"]}, False),
        (FLOW, {"destination_label": ["reserved:world-ipv4"]}, True),
        (FLOW, {"source_identity": [20101, 1]}, True),
        (FLOW, {"destination_identity": [20101]}, False),
        (FLOW, {"source_port": ["41000"]}, True),
        (FLOW, {"destination_port": ["80"]}, False),
        (DROP, {"destination_port": ["0"]}, False),
        (FLOW, {"protocol": ["TCP"]}, True),
        (DROP, {"protocol": ["icmp"]}, True),
        (DROP, {"protocol": ["icmpv4", "tcp"]}, False),
        (DNS, {"protocol": ["dns"]}, True),
        (DNS, {"protocol": ["udp"]}, True),
        (FLOW, {"protocol": ["http"]}, False),
        (FLOW, {"verdict": ["FORWARDED", "DROPPED"]}, True),
        (FLOW, {"verdict": ["DROPPED"]}, False),
        (FLOW, {"event_type": [{"type": 4}]}, True),
        (FLOW, {"event_type": [{"type": 4, "match_sub_type": True, "sub_type": 0}]}, False),
        (FLOW, {"event_type": [{"type": 4, "match_sub_type": True, "sub_type": 3}]}, True),
        (FLOW, {"traffic_direction": ["EGRESS"]}, True),
        (DROP, {"drop_reason_desc": ["POLICY_DENIED"]}, True),
        (FLOW, {"drop_reason_desc": ["POLICY_DENIED"]}, False),
        (FLOW, {"node_name": ["node-a"]}, True),
        (FLOW, {"node_name": ["east/"]}, True),
        (FLOW, {"node_name": ["west/*"]}, False),
        (FLOW, {"node_name": ["e*t/node-?"]}, None),
        (FLOW | {"node_name": "solo"}, {"node_name": ["default/solo"]}, True),
        (FLOW, {"node_labels": ["topology.kubernetes.io/zone=a"]}, True),
        (FLOW, {"tcp_flags": [{"SYN": True}]}, True),
        (FLOW, {"tcp_flags": [{"SYN": True, "FIN": True}, {"ACK": True}]}, True),
        (FLOW, {"tcp_flags": [{"RST": True}]}, False),
        (DROP, {"tcp_flags": [{"SYN": True}]}, False),
        (FLOW, {"ip_version": ["IPv4"]}, True),
        (FLOW, {"ip_version": ["IPv6"]}, False),
        (FLOW, {"reply": [False]}, True),
        (DROP, {"reply": [False]}, True),
        (DROP, {"reply": [True]}, False),
        (DROP | {"verdict": "FORWARDED"}, {"reply": [False]}, False),
        (FLOW, {"destination_service": ["shop/a"]}, True),
        (FLOW, {"source_service": ["/"]}, False),
        (FLOW, {"source_workload": [{"name": "web"}]}, True),
        (FLOW, {"source_workload": [{"kind": "DaemonSet", "name": "web"}]}, False),
        (FLOW, {"source_workload": [{"kind": "Deployment"}]}, True),
        (FLOW, {"destination_fqdn": ["*.example.com"]}, True),
        (FLOW, {"destination_fqdn": ["example.com"]}, False),
        (FLOW, {"source_fqdn": ["*"]}, False),
        (FLOW, {"source_cluster_name": ["east"]}, True),
        (FLOW, {"source_cluster_name": ["ea*"]}, False),
        (FLOW, {"uuid": ["u-1"]}, True),
        (FLOW, {"interface": [{"name": "axo401"}]}, True),
        (FLOW, {"interface": [{"index": 6}]}, False),
        (FLOW, {"trace_id": ["t-1"]}, True),
        (FLOW, {"ip_trace_id": ["7"]}, True),
        (FLOW, {"encrypted": [False]}, True),
        ({"verdict": "FORWARDED"}, {"encrypted": [False]}, True),
        (DNS, {"dns_query": ["a\\.ex"]}, True),
        (FLOW, {"dns_query": [".*"]}, False),
        (HTTP, {"http_status_code": ["5+"]}, True),
        (HTTP, {"http_status_code": ["404", "50+"]}, True),
        (HTTP, {"http_status_code": ["404"]}, False),
        (FLOW, {"http_status_code": ["5+"]}, False),
        (HTTP, {"http_method": ["get"], "event_type": [{"type": 129}, {"type": 4}]}, True),
        (HTTP, {"http_url": ["ann@"]}, True),
        (HTTP, {"http_url": ["^/"]}, False),
        (HTTP, {"http_path": ["^/a b/[0-9]+$"]}, True),
        (HTTP, {"http_path": ["admin", "x"]}, False),
        (HTTP | {"l7": {"http": {"url": "http://[x"}}}, {"http_path": [""]}, False),
        (DNS, {"http_url": [""]}, False),
        (HTTP, {"http_header": [{"key": "X-A", "value": "1"}]}, True),
        (HTTP, {"http_header": [{"key": "x-a", "value": "1"}]}, False),
        (HTTP, {"http_header": [{"key": "X-A"}]}, False),
        (DROP, {"drop_reason_desc": ["INVALID_SOURCE_IP", "POLICY_DENIED"]}, True),
        (FLOW, {"trace_id": ["t-2"]}, False),
        (FLOW, {"ip_trace_id": ["8"]}, False),
        (FLOW, {"encrypted": [True]}, False),
        (FLOW, {"encrypted": [True, False]}, True),
        (FLOW, {"node_labels": ["!topology.kubernetes.io/zone"]}, False),
        (FLOW, {"interface": [{"index": 5, "name": "other"}, {"index": 6}]}, False),
        (FLOW, {"source_ip_xlated": ["198.51.100.0/24"]}, False),
        (FLOW, {"destination_cluster_name": [""]}, True),
        (FLOW, {}, True),
    ],
)
def test_fields(values: dict[str, Any], fields: dict[str, Any], wanted: bool | None) -> None:
    if wanted is None:
        with pytest.raises(InvalidArgument):
            matches(values, **fields)
    else:
        assert matches(values, **fields) is wanted


@pytest.mark.parametrize(
    "fields",
    [
        {"source_pod": [""]}, {"source_ip": ["x"]}, {"source_ip": ["10.0.0.0/99"]}, {"source_port": ["http"]},
        {"source_port": ["70000"]}, {"protocol": ["quic"]}, {"source_label": [""]}, {"source_label": ["a b c"]},
        {"node_name": [""]}, {"source_fqdn": ["a b"]}, {"tcp_flags": [{}]}, {"ip_trace_id": ["0"]},
        {"dns_query": ["("]}, {"http_path": ["["]}, {"http_url": ["a" * 5000]}, {"http_status_code": ["9"]}, {"http_method": ["GET"], "event_type": [{"type": 1}]},
    ],
)  # fmt: skip
def test_bad_values_name_list_position_and_field(fields: dict[str, Any]) -> None:
    bad = json_format.ParseDict(fields, flow_pb2.FlowFilter())
    with pytest.raises(InvalidArgument, match=rf"^blacklist\[1\]\.{next(iter(fields))}"):
        FlowMatcher([], [flow_pb2.FlowFilter(), bad])


def test_every_field_has_a_rule() -> None:
    assert set(FIELD_RULES) == {field.name for field in flow_pb2.FlowFilter.DESCRIPTOR.fields}


def test_patterns_take_time_in_proportion_to_their_length() -> None:
    """A backtracking matcher would take hours for each of these."""
    names = FLOW | {"destination_names": ["a" * 253], "node_name": "a" * 253}
    assert not matches(names, destination_fqdn=["*a" * 100 + "b"])
    assert not matches(names, node_name=["*a" * 100 + "b"])
    query = FLOW | {"l7": {"dns": {"query": "a" * 5_000}}}
    assert not matches(query, dns_query=["(a+)+(a+)+$b"])


def test_whitelist_minus_blacklist() -> None:
    everything, drops = flow_pb2.FlowFilter(), flow_pb2.FlowFilter(verdict=[flow_pb2.DROPPED])
    assert FlowMatcher([]).matches(flow(FLOW))
    assert not FlowMatcher([], [everything]).matches(flow(FLOW))
    assert FlowMatcher([], [drops]).matches(flow(FLOW))
    assert not FlowMatcher([everything], [drops]).matches(flow(DROP))
    assert FlowMatcher([drops, everything]).matches(flow(FLOW))


@pytest.mark.parametrize(
    ("selector", "wanted"),
    [
        ("app", True), ("!app", False), ("app==web", True), ("app!=web", False), ("gone!=x", True),
        ("app in (a,web),tier", True), ("tier notin (front)", False), ("k8s:app", True), ("reserved:app", False),
        ("app=", False), ("empty=", True),
    ],
)  # fmt: skip
def test_selectors(selector: str, wanted: bool) -> None:
    labels = index_labels(["k8s:app=web", "k8s:tier=front", "k8s:empty="])
    assert parse_selector(selector, "label")(labels) is wanted
