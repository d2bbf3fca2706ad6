"""Lines of `axoneme observe` for DNS messages as the node serves them, in the shapes of the Hubble CLI."""

# ruff: noqa: E501  (samples stand as they are printed)
from __future__ import annotations

import json
from typing import Any

from axoneme.api.hubble.flow import flow_pb2
from axoneme.api.hubble.observer import observer_pb2
from axoneme.cli.flowprinter_json import parse_response
from shim.flows import record
from shim.flows.query import FlowQuery
from tests.golden.test_flow_printers import out_of
from tests.unit.shim.flows.lookupscene import LookupScene, answer, lookup
from tests.unit.shim.flows.scene import event

SECOND = 1_000_000_000
V6 = {"client": "fd00:10:1::11", "server": "2001:db8::53", "server_identity": 10}


def responses(*messages: Any) -> list[observer_pb2.GetFlowsResponse]:
    scene = LookupScene()
    scene.lookups.add(messages, 0)
    query = FlowQuery(scene.lookups.store, scene.lookups.decoder, [], [])
    flows = [flow for _, flow in query.flows(0, len(messages))]
    return [
        observer_pb2.GetFlowsResponse(flow=flow, node_name=flow.node_name, time=flow.time) for flow in flows
    ]


LOOKUPS = responses(
    lookup(time_ns=1 * SECOND),
    answer(time_ns=2 * SECOND, cnames=["edge.example.net."], ips=["192.0.2.7", "192.0.2.8"], rrtypes=[5, 1]),
    lookup(time_ns=3 * SECOND, query="evil.test.", verdict="LOOKUP_VERDICT_DENIED", rcode=5, qtype=28, **V6),
    answer(time_ns=4 * SECOND, query="no.test.", rcode=3, ips=[], ttl=0, rrtypes=[], protocol=6),
    lookup(time_ns=5 * SECOND, query="slow.test.", verdict="LOOKUP_VERDICT_ERROR", error="no upstream"),
)


def test_compact_lines() -> None:
    assert out_of(*LOOKUPS) == (
        "Mar  1 10:00:01.000: shop/web-1:53011 (ID:20101) -> shop/api-1:53 (ID:20102) dns-request proxy FORWARDED (DNS Query api.example.com. A)\n"
        "Mar  1 10:00:02.000: shop/web-1:53011 (ID:20101) <- shop/api-1:53 (ID:20102) dns-response proxy FORWARDED"
        ' (DNS Answer "192.0.2.7,192.0.2.8" CNAMEs: "edge.example.net." TTL: 30 (Proxy api.example.com. A))\n'
        "Mar  1 10:00:03.000: shop/web-1:53011 (ID:20101) -> [2001:db8::53]:53 (world-ipv6) dns-request proxy DROPPED (DNS Query evil.test. AAAA)\n"
        "Mar  1 10:00:04.000: shop/web-1:53011 (ID:20101) <- shop/api-1:53 (ID:20102) dns-response proxy FORWARDED"
        " (DNS Answer RCode: Non-Existent Domain TTL: 0 (Proxy no.test. A))\n"
        "Mar  1 10:00:05.000: shop/web-1:53011 (ID:20101) -> shop/api-1:53 (ID:20102) dns-request proxy ERROR (DNS Query slow.test. A)\n"
    )


def test_dict_blocks() -> None:
    assert out_of(*LOOKUPS[:2], output="dict") == (
        "  TIMESTAMP: Mar  1 10:00:01.000\n"
        "     SOURCE: shop/web-1:53011\n"
        "DESTINATION: shop/api-1:53\n"
        "       TYPE: dns-request proxy\n"
        "    VERDICT: FORWARDED\n"
        "    SUMMARY: DNS Query api.example.com. A\n"
        "------------\n"
        "  TIMESTAMP: Mar  1 10:00:02.000\n"
        "     SOURCE: shop/api-1:53\n"
        "DESTINATION: shop/web-1:53011\n"
        "       TYPE: dns-response proxy\n"
        "    VERDICT: FORWARDED\n"
        '    SUMMARY: DNS Answer "192.0.2.7,192.0.2.8" CNAMEs: "edge.example.net." TTL: 30 (Proxy api.example.com. A)\n'
    )


def test_table() -> None:
    assert (
        out_of(*LOOKUPS[2:], output="table")
        == """\
TIMESTAMP             SOURCE             DESTINATION         TYPE                 VERDICT     SUMMARY
Mar  1 10:00:03.000   shop/web-1:53011   [2001:db8::53]:53   dns-request proxy    DROPPED     DNS Query evil.test. AAAA
Mar  1 10:00:04.000   shop/api-1:53      shop/web-1:53011    dns-response proxy   FORWARDED   DNS Answer RCode: Non-Existent Domain TTL: 0 (Proxy no.test. A)
Mar  1 10:00:05.000   shop/web-1:53011   shop/api-1:53       dns-request proxy    ERROR       DNS Query slow.test. A
"""
    )


def test_json_lines() -> None:
    for output in ("json", "jsonpb"):
        lines = out_of(*LOOKUPS, output=output).splitlines()
        assert [parse_response(line) for line in lines] == LOOKUPS
        flow = json.loads(lines[1])["flow"]
        assert (
            '"l7":{"type":"RESPONSE","latency_ns":"3500000","dns":{"query":"api.example.com.","ips":["192.0.2.7","192.0.2.8"],"ttl":30,"cnames":["edge.example.net."],"observation_source":"proxy","qtypes":["A"],"rrtypes":["CNAME","A"]}}'
            in lines[1]
        )
        assert (flow["Type"], flow["event_type"], flow["is_reply"]) == ("L7", {"type": 129}, True)


def redirected(**values: Any) -> observer_pb2.GetFlowsResponse:
    scene = LookupScene()
    values = {"protocol": 17, "destination_port": 53, "verdict": flow_pb2.REDIRECTED} | values
    flow = scene.decoder.decode(event(**values)[0], 0)
    return observer_pb2.GetFlowsResponse(flow=flow, node_name=flow.node_name, time=flow.time)


def test_packets_that_were_handed_to_the_proxy() -> None:
    trace = redirected(event_type=record.TRACE, sub_type=record.TO_PROXY)
    verdict = redirected(event_type=record.POLICY_VERDICT, match_type=2, cookie=7)
    assert trace.flow.trace_observation_point == flow_pb2.TO_PROXY
    assert [one.name for one in verdict.flow.egress_allowed_by] == ["allow-web"]
    assert out_of(trace, verdict) == (
        "Mar  1 10:00:00.002: shop/web-1:41000 (ID:20101) -> shop/api-1:53 (ID:20102) to-proxy REDIRECTED (UDP)\n"
        "Mar  1 10:00:00.002: shop/web-1:41000 (ID:20101) -> shop/api-1:53 (ID:20102) policy-verdict:L3-L4 EGRESS"
        " ALLOWED BY allow-web (CiliumNetworkPolicy) (UDP)\n"
    )
    assert "\x1b[32mREDIRECTED\x1b[0m" in out_of(trace, colour=True)
    nobody = redirected(event_type=record.DROP, sub_type=180, drop_reason=180, verdict=flow_pb2.DROPPED)
    assert "DROPPED" in out_of(nobody)


def test_hostile_names_reach_no_terminal() -> None:
    evil = 'x\x1b]0;owned\x07\x1b[31m\r\n\t\x9b2J\u202e\x7f".'
    shown = responses(lookup(query=evil), answer(query=evil, cnames=[evil], ips=[evil]))
    for output in ("compact", "dict", "table", "json"):
        text = out_of(*shown, output=output, colour=False)
        assert text.isascii()
        assert text.replace("\n", "").isprintable()
        assert "\\027" in text
