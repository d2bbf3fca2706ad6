"""A query over columns finds what filters over all decoded flows find."""

from __future__ import annotations

from typing import Any

from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st

from axoneme.api.hubble.flow import flow_pb2
from axoneme.lib.flows.filters import FlowMatcher
from shim.flows import query as query_module
from shim.flows.query import FlowQuery
from shim.flows.record import Records
from tests.conftest import scaled
from tests.unit.shim.flows.scene import event, events, make_feed

ADDRESSES = ["10.1.0.11", "10.1.1.12", "192.0.2.7", "fd00:10:1::11", "fd00:10:1:1::12"]
records = st.builds(
    event,
    source_identity=st.sampled_from([20101, 20102, 9]),
    destination_identity=st.sampled_from([20101, 20102, 9]),
    source_ip=st.sampled_from(ADDRESSES),
    destination_ip=st.sampled_from(ADDRESSES),
    source_port=st.sampled_from([41000, 8080]),
    destination_port=st.sampled_from([8080, 8, 53]),
    protocol=st.sampled_from([6, 17, 1, 58, 47]),
    tcp_flags=st.sampled_from([0, 2, 18, 4]),
    event_type=st.sampled_from([1, 4, 5]),
    sub_type=st.sampled_from([0, 1, 3, 5]),
    endpoint_id=st.sampled_from([0, 401]),
    direction=st.sampled_from([1, 2]),
    flags=st.sampled_from([0, 2, 6]),
    verdict=st.sampled_from([1, 2, 4, 5]),
    ifindex=st.sampled_from([0, 5, 6]),
    drop_reason=st.sampled_from([0, 132, 133, 181, 250]),
    time_ns=st.integers(0, 9).map(lambda n: n * 1_000_000),
)
CHOICES: dict[str, list[Any]] = {
    "verdict": ["FORWARDED", "DROPPED", "VERDICT_UNKNOWN", "REDIRECTED"],
    "event_type": [
        {"type": 4},
        {"type": 4, "match_sub_type": True, "sub_type": 3},
        {"type": 5, "match_sub_type": True},
    ],
    "source_ip": ["10.1.0.11", "10.0.0.0/8", "fd00:10:1::/64", "::/0", "0.0.0.0/0"],
    "destination_ip": ["192.0.2.7", "fd00:10:1:1::12"],
    "source_port": ["41000", "0"],
    "destination_port": ["8080", "53"],
    "protocol": ["tcp", "icmp", "icmpv6", "dns", "udp"],
    "source_identity": [20101, 9],
    "destination_identity": [20102],
    "traffic_direction": ["INGRESS", "EGRESS"],
    "drop_reason_desc": ["POLICY_DENIED", "DROP_REASON_UNKNOWN", "INVALID_SOURCE_IP"],
    "tcp_flags": [{"SYN": True}, {"SYN": True, "ACK": True}, {"NS": True}],
    "source_pod": ["shop/web", "shop/", "/", "default/x"],
    "destination_pod": ["shop/api-1"],
    "source_label": ["app=web", "!app"],
    "destination_workload": [{"name": "web"}],
    "destination_cluster_name": ["east"],
    "destination_fqdn": ["*.example.com", "nobody.test"],
    "dns_query": ["."],
    "reply": [True, False],
    "ip_version": ["IPv4", "IPv6", "IP_NOT_USED"],
    "interface": [{"index": 5}, {"name": "axo401"}, {"index": 6, "name": "axo401"}],
    "node_name": ["node1", "east/", "west/"],
    "node_labels": ["!zone", "zone=a"],
    "source_ip_xlated": ["192.0.2.0/24"],
    "source_service": ["/"],
    "destination_service": ["shop/api"],
    "trace_id": ["", "t-1"],
    "ip_trace_id": ["7"],
    "encrypted": [False, True],
    "uuid": ["12345678-9abc-4ef0-8000-000000000003", "nonsense"],
    "http_status_code": ["5+"],
    "http_method": ["GET"],
    "http_path": ["/"],
    "http_url": [""],
    "http_header": [{"key": "a"}],
    "source_fqdn": ["*"],
    "source_cluster_name": ["east", ""],
    "source_workload": [{"kind": "Deployment"}],
    "destination_label": ["!app"],
}


def picked_values(choices: list[Any], number: int) -> list[Any]:
    """One choice, or the first few."""
    return choices[: 1 + number % len(choices)] if number > 3 else [choices[number % len(choices)]]


filters = st.dictionaries(st.sampled_from(sorted(CHOICES)), st.integers(0, 7), max_size=3).map(
    lambda chosen: json_format.ParseDict(
        {name: picked_values(CHOICES[name], number)
         for name, number in chosen.items()
         if not (name == "event_type" and any(other.startswith("http_") for other in chosen))},
        flow_pb2.FlowFilter(),
    )
)  # fmt: skip


def test_every_field_is_chosen() -> None:
    assert set(CHOICES) | {"experimental"} == {field.name for field in flow_pb2.FlowFilter.DESCRIPTOR.fields}


@settings(max_examples=scaled(400, 20_000), deadline=None)
@given(
    st.lists(records, min_size=1, max_size=12),
    st.lists(filters, max_size=3),
    st.lists(filters, max_size=1),
    st.integers(0, 13),
)
def test_queries_equal_brute_force(
    rows: list[Records], whitelist: list[Any], blacklist: list[Any], limit: int
) -> None:
    feed, decoder, _ = make_feed(8)
    feed.append(events(*rows))
    store = feed.store
    matcher = FlowMatcher(whitelist, blacklist)
    together = events(*rows)
    held = range(store.oldest, store.seen)
    wanted = [number for number in held if matcher.matches(decoder.decode(together[number], number))]
    query = FlowQuery(store, decoder, whitelist, blacklist)
    assert [number for number, _ in query.flows(0, store.seen)] == wanted
    saved, query_module.CHUNK = query_module.CHUNK, 3
    try:
        chunks = list(query.newest(0, store.seen, limit))
    finally:
        query_module.CHUNK = saved
    newest = [number for chunk in chunks[::-1] for number in chunk.tolist()]
    assert newest == wanted[max(0, len(wanted) - limit) :]


def test_a_spoofed_source_is_found_by_the_pod_that_sent_it() -> None:
    feed, decoder, _ = make_feed(8)
    for reason, address in ((132, "192.0.2.7"), (133, "192.0.2.7"), (132, "10.1.1.12"), (133, "10.1.1.12")):
        feed.append(event(source_ip=address, drop_reason=reason, source_identity=9))
    found = {}
    for pod in ("shop/web", "shop/api"):
        query = FlowQuery(feed.store, decoder, [flow_pb2.FlowFilter(source_pod=[pod])], [])
        found[pod] = query.candidates(0, 4).tolist()
    assert found == {"shop/web": [0, 2], "shop/api": [3]}
