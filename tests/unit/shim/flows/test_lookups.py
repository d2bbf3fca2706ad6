"""DNS messages as flows: what each field becomes, in order, bounded, counted."""

from __future__ import annotations

import re
import struct
from ipaddress import ip_address
from typing import Any

import numpy as np
import pytest
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st

from axoneme.api.fqdn.v1 import fqdn_pb2
from axoneme.api.hubble.flow import flow_pb2
from axoneme.lib.flows.filters import FlowMatcher
from shim.flows import dnswords, lookups
from shim.flows import query as query_module
from shim.flows.context import mapped
from shim.flows.lookupstore import Report
from shim.flows.query import FlowQuery
from shim.flows.record import EVENT_DTYPE
from tests.unit.shim.flows.lookupscene import LookupScene, answer, lookup
from tests.unit.shim.flows.test_selection import CHOICES, picked_values

V6 = {"client": "fd00:10:1::11", "server": "fd00:10:1:1::12"}


def flow_of(event: fqdn_pb2.LookupEvent) -> flow_pb2.Flow:
    scene = LookupScene()
    scene.lookups.add([event], 0)
    query = FlowQuery(scene.lookups.store, scene.lookups.decoder, [], [])
    ((_, flow),) = query.flows(0, 1)
    return flow


def test_a_request_goes_from_the_pod_to_the_resolver() -> None:
    flow = json_format.MessageToDict(flow_of(lookup()), preserving_proto_field_name=True)
    assert flow.pop("uuid").count("-") == 4
    assert [flow[end].pop("labels")[0] for end in ("source", "destination")] == ["k8s:app=web", "k8s:app=api"]
    assert flow == {
        "time": "2026-03-01T10:00:00.002Z",
        "verdict": "FORWARDED",
        "IP": {"source": "10.1.0.11", "destination": "10.1.1.12", "ipVersion": "IPv4"},
        "l4": {"UDP": {"source_port": 53011, "destination_port": 53}},
        "source": {
            "ID": 401,
            "identity": 20101,
            "cluster_name": "east",
            "namespace": "shop",
            "pod_name": "web-1",
            "workloads": [{"name": "web", "kind": "Deployment"}],
        },
        "destination": {
            "identity": 20102,
            "cluster_name": "east",
            "namespace": "shop",
            "pod_name": "api-1",
        },
        "Type": "L7",
        "node_name": "east/node1",
        "l7": {
            "type": "REQUEST",
            "dns": {"query": "api.example.com.", "observation_source": "proxy", "qtypes": ["A"]},
        },
        "event_type": {"type": 129},
        "traffic_direction": "EGRESS",
        "is_reply": False,
        "Summary": "DNS Query api.example.com. A",
    }


def test_a_response_goes_from_the_resolver_to_the_pod() -> None:
    event = answer(
        cnames=["edge.example.net."], ips=["192.0.2.7", "192.0.2.8"], rrtypes=[5, 1], protocol=6, **V6
    )
    flow = flow_of(event)
    assert (flow.IP.source, flow.IP.destination, flow.IP.ipVersion) == (
        V6["server"],
        V6["client"],
        flow_pb2.IPv6,
    )
    assert (flow.l4.TCP.source_port, flow.l4.TCP.destination_port) == (53, 53011)
    assert not flow.l4.TCP.HasField("flags")
    assert (flow.source.pod_name, flow.source.identity, flow.source.ID) == ("api-1", 20102, 0)
    assert (flow.destination.pod_name, flow.destination.identity, flow.destination.ID) == (
        "web-1",
        20101,
        401,
    )
    assert flow.is_reply.value
    assert flow.traffic_direction == flow_pb2.EGRESS
    assert flow.l7.type == flow_pb2.RESPONSE
    assert flow.l7.latency_ns == 3_500_000
    assert json_format.MessageToDict(flow.l7.dns, preserving_proto_field_name=True) == {
        "query": "api.example.com.",
        "ips": ["192.0.2.7", "192.0.2.8"],
        "ttl": 30,
        "cnames": ["edge.example.net."],
        "observation_source": "proxy",
        "qtypes": ["A"],
        "rrtypes": ["CNAME", "A"],
    }
    wanted = 'DNS Answer "192.0.2.7,192.0.2.8" CNAMEs: "edge.example.net." TTL: 30 (Proxy api.example.com. A)'
    assert flow.Summary == wanted


@pytest.mark.parametrize(
    ("values", "summary"),
    [
        ({"ttl": 5}, 'DNS Answer "192.0.2.7" TTL: 5 (Proxy api.example.com. A)'),
        (
            {"qtype": 28, "ips": ["2001:db8::7"]},
            'DNS Answer "2001:db8::7" TTL: 30 (Proxy api.example.com. AAAA)',
        ),
        ({"ips": [], "ttl": 0, "qtype": 28}, "DNS Answer  TTL: 0 (Proxy api.example.com. AAAA)"),
        (
            {"ips": [], "cnames": ["a.b."]},
            'DNS Answer CNAMEs: "a.b." TTL: 30 (Proxy api.example.com. A)',
        ),
        (
            {"rcode": 3, "ttl": 0, "ips": []},
            "DNS Answer RCode: Non-Existent Domain TTL: 0 (Proxy api.example.com. A)",
        ),
        ({"rcode": 5, "ttl": 0}, "DNS Answer RCode: Query Refused TTL: 0 (Proxy api.example.com. A)"),
        ({"rcode": 77, "qtype": 999}, "DNS Answer RCode: Unknown TTL: 30 (Proxy api.example.com. TYPE999)"),
    ],
)
def test_summaries_of_responses(values: dict[str, Any], summary: str) -> None:
    assert flow_of(answer(**values)).Summary == summary


@pytest.mark.parametrize(
    ("verdict", "wanted"),
    [
        ("FORWARDED", flow_pb2.FORWARDED),
        ("DENIED", flow_pb2.DROPPED),
        ("ERROR", flow_pb2.ERROR),
        ("UNSPECIFIED", flow_pb2.VERDICT_UNKNOWN),
    ],
)
def test_verdicts(verdict: str, wanted: int) -> None:
    for kind in (lookup, answer):
        flow = flow_of(kind(verdict=f"LOOKUP_VERDICT_{verdict}", rcode=5, error="not allowed"))
        assert flow.verdict == wanted
        assert flow.drop_reason_desc == flow_pb2.DROP_REASON_UNKNOWN
    denied = flow_of(lookup(verdict="LOOKUP_VERDICT_DENIED", rcode=5))
    assert denied.Summary == "DNS Query api.example.com. A"
    assert denied.l7.dns.rcode == 0, "a request has no code"


def test_an_unknown_resolver_has_the_identity_of_its_owner_or_none() -> None:
    assert flow_of(lookup(server_identity=0)).destination.identity == 20102
    outside = flow_of(lookup(server="192.0.2.53", server_identity=0))
    assert (outside.destination.identity, outside.destination.pod_name) == (0, "")
    world = flow_of(lookup(server="192.0.2.53", server_identity=9))
    assert world.destination.labels == ["reserved:world-ipv4"]
    unknown = flow_of(lookup(endpoint_id=0, client="192.0.2.99"))
    assert (unknown.source.identity, unknown.source.ID) == (0, 0)


def test_names_that_do_not_print_harm_nobody() -> None:
    evil = "a\x1b[31m\u202e\n.example.com."
    flow = flow_of(answer(query=evil, cnames=[evil, 'quo"te\\.'], ips=[evil]))
    for text in (flow.Summary, flow.l7.dns.query, *flow.l7.dns.cnames, *flow.l7.dns.ips):
        assert text.isascii(), text
        assert text.isprintable(), text
    assert flow.l7.dns.query == "a\\027[31m\\226\\128\\174\\010.example.com."
    assert '"a\\\\027[31m' in flow.Summary
    assert 'quo\\"te\\\\.' in flow.Summary


def test_types_have_the_names_of_the_registry() -> None:
    names = {1: "A", 5: "CNAME", 12: "PTR", 15: "MX", 16: "TXT", 28: "AAAA", 33: "SRV", 65: "HTTPS"}
    assert {number: dnswords.type_name(number) for number in names} == names
    assert dnswords.type_name(65_280) == "TYPE65280"


def test_records_have_the_layout_of_packets() -> None:
    assert lookups._RECORD.size == EVENT_DTYPE.itemsize
    fields = [EVENT_DTYPE.fields[name] for name in EVENT_DTYPE.names or ()]  # type: ignore[index]
    kinds = re.findall(r"\d*s|[A-Z]", lookups._RECORD.format)
    sizes = [struct.calcsize("<" + kind) for kind in kinds]
    assert [kind.itemsize for kind, *_ in fields] == sizes
    assert [offset for _, offset, *_ in fields] == np.cumsum([0, *sizes[:-1]]).tolist()
    scene = LookupScene()
    scene.lookups.add([lookup(), answer(protocol=6, **V6)], 0)
    first, second = scene.lookups.store.rows(np.arange(2))
    assert first["source_ip"].tobytes() == mapped(ip_address("10.1.0.11").packed)
    assert (first["source_port"], first["destination_port"], first["protocol"]) == (53011, 53, 17)
    assert (first["flags"], second["flags"]) == (2, 6)
    assert second["source_ip"].tobytes() == ip_address(V6["server"]).packed
    assert (second["source_identity"], second["destination_identity"]) == (20102, 20101)


def test_a_message_without_a_time_has_the_one_of_its_arrival() -> None:
    event = lookup()
    event.ClearField("time")
    assert flow_of(event).time.seconds % 60 == 10, "the clock of the scene"


def test_what_cannot_be_read_counts_as_lost() -> None:
    scene = LookupScene()
    bad = [lookup(client="nobody"), lookup(server=""), lookup(client_port=70_000), lookup(protocol=300)]
    scene.lookups.add([lookup(), *bad, answer()], 3)
    assert scene.lookups.store.seen == 2
    (loss,) = scene.lookups.feed.losses
    assert (loss.count, loss.position) == (7, 0)
    scene.lookups.add([], 0)
    assert scene.lookups.feed.loss_count == 1


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 900), max_size=12), max_size=6),
    st.sampled_from([1, 4, 8]),
    st.integers(1, 4_000),
)
def test_the_store_is_bounded_by_number_and_bytes(
    batches: list[list[int]], capacity: int, max_bytes: int
) -> None:
    scene = LookupScene(lookups=capacity, max_bytes=max_bytes)
    store, kept = scene.lookups.store, list[Report]()
    for sizes in batches:
        events = [lookup(query="q" * size) for size in sizes]
        scene.lookups.add(events, 0)
        kept += [Report(event.query, event.SerializeToString()) for event in events]
        kept = kept[-capacity:]
        while sum(report.size for report in kept) > max_bytes and len(kept) > 1:
            kept.pop(0)
        assert store.report_bytes == sum(report.size for report in kept)
        held = np.arange(store.oldest, store.seen)
        assert [report for _, report in store.events(held)] == kept
        assert sum(report is not None for report in store._reports) == len(kept)
        assert store.queries(held) == [report.query for report in kept]
        assert len(store) == len(kept)


NAMES = ["api.example.com.", "www.example.com.", "Other.test.", ""]
messages = st.builds(
    lambda **values: (answer if values.pop("is_answer") else lookup)(**values),
    is_answer=st.booleans(),
    time_ns=st.integers(1, 9).map(lambda n: n * 1_000_000),
    endpoint_id=st.sampled_from([0, 401]),
    protocol=st.sampled_from([17, 6]),
    client=st.sampled_from(["10.1.0.11", "fd00:10:1::11"]),
    server=st.sampled_from(["10.1.1.12", "192.0.2.7", "fd00:10:1:1::12"]),
    server_port=st.sampled_from([53, 8080]),
    server_identity=st.sampled_from([0, 9, 20102]),
    query=st.sampled_from(NAMES),
    verdict=st.integers(0, 3),
)
LOOKUP_CHOICES = CHOICES | {
    "protocol": ["dns", "udp", "tcp", "http"],
    "dns_query": ["example", "^api\\.", "test"],
    "event_type": [{"type": 129}, {"type": 129, "match_sub_type": True}, {"type": 4}],
    "verdict": ["FORWARDED", "DROPPED", "ERROR"],
    "source_fqdn": ["api.*"],
    "http_method": ["GET"],
}
filters = st.dictionaries(st.sampled_from(sorted(LOOKUP_CHOICES)), st.integers(0, 7), max_size=3)


def filter_of(chosen: dict[str, int]) -> flow_pb2.FlowFilter | None:
    """The filter, or nothing where it contradicts itself."""
    values = {name: picked_values(LOOKUP_CHOICES[name], number) for name, number in chosen.items()}
    if "http_method" in values and "event_type" in values:
        return None
    return json_format.ParseDict(values, flow_pb2.FlowFilter())


@settings(max_examples=200, deadline=None)
@given(
    st.lists(messages, min_size=1, max_size=12),
    st.lists(filters, max_size=3),
    st.lists(filters, max_size=1),
    st.integers(0, 13),
)
def test_queries_equal_brute_force(rows: list[Any], allow: list[Any], deny: list[Any], limit: int) -> None:
    scene = LookupScene(lookups=8)
    scene.lookups.add(rows, 0)
    store, decoder = scene.lookups.store, scene.lookups.decoder
    whitelist = [one for one in map(filter_of, allow) if one is not None]
    blacklist = [one for one in map(filter_of, deny) if one is not None]
    matcher = FlowMatcher(whitelist, blacklist)
    held = np.arange(store.oldest, store.seen)
    flows = [(n, decoder.decode(e, n)) for n, e in zip(held.tolist(), store.events(held), strict=True)]
    wanted = [number for number, flow in flows if matcher.matches(flow)]
    query = FlowQuery(store, decoder, whitelist, blacklist)
    assert [number for number, _ in query.flows(0, store.seen)] == wanted
    saved, query_module.CHUNK = query_module.CHUNK, 3
    try:
        newest = [n for chunk in list(query.newest(0, store.seen, limit))[::-1] for n in chunk.tolist()]
    finally:
        query_module.CHUNK = saved
    assert newest == wanted[max(0, len(wanted) - limit) :]
