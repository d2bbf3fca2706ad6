"""Lines of `axoneme observe` against samples of what the Hubble CLI prints."""

# ruff: noqa: E501, ISC004  (samples stand as they are printed)
from __future__ import annotations

import json
import re
from typing import Any

import pytest
from google.protobuf import json_format

from axoneme.api.hubble.observer import observer_pb2
from axoneme.cli.flowprinter import OUTPUTS, PrinterOptions, make_printer
from axoneme.cli.flowprinter_json import parse_response

WEB = {"identity": 20101, "namespace": "shop", "pod_name": "web-7d4b9-x2x"}
API = {"identity": 20102, "namespace": "shop", "pod_name": "api-5c6f8-k8k"}
DB = {"identity": 20103, "namespace": "data", "pod_name": "db-0"}
DNS = {"identity": 20104, "namespace": "kube-system", "pod_name": "coredns-aa"}
ALLOW = {"name": "allow-web", "namespace": "shop", "kind": "CiliumNetworkPolicy"}
WEB_IP, API_IP, DB_IP = "10.1.0.11", "10.1.0.12", "10.2.0.1"


def at(second: str, kind: str, value: Any, node: str = "east/node-a") -> observer_pb2.GetFlowsResponse:
    time = f"2026-03-01T10:00:{second}Z"
    if kind == "flow":
        value = {"time": time, "node_name": node, "Type": "L3_L4"} | value
    return json_format.ParseDict(
        {kind: value, "node_name": node, "time": time}, observer_pb2.GetFlowsResponse()
    )


def tcp(source: int, destination: int) -> dict[str, Any]:
    return {"TCP": {"source_port": source, "destination_port": destination}}


def ip(source: str, destination: str) -> dict[str, Any]:
    return {"source": source, "destination": destination, "ipVersion": "IPv4"}


REPLY = at("02.002", "flow", {
    "verdict": "FORWARDED", "IP": ip(API_IP, WEB_IP), "l4": tcp(8080, 41000), "source": API, "destination": WEB,
    "event_type": {"type": 4}, "is_reply": True, "Summary": "TCP Flags: SYN, ACK",
})  # fmt: skip
TO_WORLD = at("08.008", "flow", {
    "verdict": "FORWARDED", "IP": ip(WEB_IP, "192.0.2.7"), "l4": tcp(41004, 443), "source": WEB,
    "destination": {"identity": 2}, "destination_names": ["api.example.com"],
    "event_type": {"type": 4, "sub_type": 3}, "is_reply": False, "Summary": "TCP Flags: SYN",
})  # fmt: skip
ALLOWED = at("03.003", "flow", {
    "verdict": "FORWARDED", "IP": ip(WEB_IP, API_IP), "l4": tcp(41000, 8080), "source": WEB, "destination": API,
    "event_type": {"type": 5}, "policy_match_type": 1, "traffic_direction": "INGRESS", "is_reply": False,
    "ingress_allowed_by": [ALLOW], "Summary": "TCP Flags: SYN",
})  # fmt: skip
DENIED = at("05.005", "flow", {
    "verdict": "DROPPED", "drop_reason_desc": "POLICY_DENIED", "IP": ip(WEB_IP, DB_IP), "l4": tcp(41002, 5432),
    "source": WEB, "destination": DB, "event_type": {"type": 1, "sub_type": 133}, "traffic_direction": "INGRESS",
    "ingress_denied_by": [{"name": "lockdown", "kind": "CiliumNetworkPolicy"}], "Summary": "TCP Flags: SYN",
})  # fmt: skip
HTTP = at("10.010", "flow", {
    "verdict": "FORWARDED", "IP": ip(API_IP, WEB_IP), "l4": tcp(8080, 41000), "source": API, "destination": WEB,
    "Type": "L7", "l7": {"type": "RESPONSE", "http": {"code": 503}}, "event_type": {"type": 129}, "is_reply": True,
    "Summary": "HTTP/1.1 503 3ms (GET http://api.shop/items/42?q=1)",
})  # fmt: skip
AUTH = at("16.016", "flow", {
    "verdict": "DROPPED", "IP": ip(WEB_IP, DB_IP), "l4": {"SCTP": {"source_port": 900, "destination_port": 901}},
    "source": WEB, "destination": DB, "event_type": {"type": 1, "sub_type": 189}, "auth_type": "SPIRE",
    "ip_trace_id": {"trace_id": "777"}, "Summary": "SCTP",
}, "west/node-b")  # fmt: skip
QUERY = at("06.006", "flow", {
    "verdict": "FORWARDED", "IP": ip(WEB_IP, "10.1.0.53"), "l4": {"UDP": {"source_port": 53011, "destination_port": 53}},
    "source": WEB, "destination": DNS, "Type": "L7", "is_reply": False, "event_type": {"type": 129},
    "l7": {"type": "REQUEST", "dns": {"query": "api.example.com.", "observation_source": "proxy"}},
    "Summary": "DNS Query api.example.com. A",
})  # fmt: skip
TO_PROXY = at("12.012", "flow", {
    "verdict": "REDIRECTED", "IP": ip(WEB_IP, "10.1.0.53"), "l4": {"UDP": {"source_port": 5000, "destination_port": 53}},
    "source": WEB, "destination": DNS, "event_type": {"type": 4, "sub_type": 1}, "is_reply": False, "Summary": "UDP",
}, "west/node-b")  # fmt: skip
LOST = at("20.500", "lost_events", {
    "source": "HUBBLE_RING_BUFFER", "num_events_lost": "42", "cpu": 0,
    "first": "2026-03-01T10:00:19Z", "last": "2026-03-01T10:00:20Z",
})  # fmt: skip
LOST_PERF = at("21", "lost_events", {"source": "PERF_EVENT_RING_BUFFER", "num_events_lost": "7", "cpu": 3})


def status(state: str, names: list[str], message: str = "") -> observer_pb2.GetFlowsResponse:
    return at(
        "22", "node_status", {"state_change": state, "node_names": names, "message": message}, "relay-0"
    )


CONNECTED = status("NODE_CONNECTED", ["east/node-a", "east/node-c"])
UNAVAILABLE = status("NODE_UNAVAILABLE", ["west/node-b"])
GONE = status("NODE_GONE", ["east/node-z"])
FAILED = status("NODE_ERROR", ["west/node-d", "west/node-e"], "rpc error: code = Unknown desc = boom")


def printed(*responses: observer_pb2.GetFlowsResponse, **options: Any) -> tuple[str, str]:
    out: list[str] = []
    err: list[str] = []
    printer = make_printer(PrinterOptions(**options), out.append, err.append)
    for response in responses:
        printer.write(response)
    printer.close()
    return "".join(out), "".join(err)


def out_of(*responses: observer_pb2.GetFlowsResponse, **options: Any) -> str:
    return printed(*responses, **options)[0]


def test_compact_lines() -> None:
    assert out_of(REPLY, TO_WORLD) == (
        "Mar  1 10:00:02.002: shop/web-7d4b9-x2x:41000 (ID:20101) <- shop/api-5c6f8-k8k:8080 (ID:20102)"
        " to-endpoint FORWARDED (TCP Flags: SYN, ACK)\n"
        "Mar  1 10:00:08.008: shop/web-7d4b9-x2x:41004 (ID:20101) -> api.example.com:443 (world)"
        " to-stack FORWARDED (TCP Flags: SYN)\n"
    )


def test_compact_with_node_and_policy() -> None:
    assert out_of(ALLOWED, print_node_name=True, print_policy_names=True) == (
        "Mar  1 10:00:03.003 [east/node-a]: shop/web-7d4b9-x2x:41000 (ID:20101) -> shop/api-5c6f8-k8k:8080 (ID:20102)"
        " policy-verdict:L3-Only INGRESS ALLOWED BY allow-web (CiliumNetworkPolicy) (TCP Flags: SYN)\n"
    )


def test_a_drop_shows_the_policy_that_decided_by_default() -> None:
    line = out_of(DENIED)
    assert line.endswith(
        "<> data/db-0:5432 (ID:20103) Policy denied DROPPED BY DEFAULT: "
        "no rule in lockdown (CiliumNetworkPolicy) allows it (TCP Flags: SYN)\n"
    )
    assert "BY" not in out_of(DENIED, print_policy_names=False)


def test_dict_blocks() -> None:
    assert out_of(DENIED, HTTP, AUTH, output="dict") == (
        "  TIMESTAMP: Mar  1 10:00:05.005\n"
        "     SOURCE: shop/web-7d4b9-x2x:41002\n"
        "DESTINATION: data/db-0:5432\n"
        "       TYPE: Policy denied\n"
        "    VERDICT: DROPPED\n"
        "    SUMMARY: TCP Flags: SYN\n"
        "------------\n"
        "  TIMESTAMP: Mar  1 10:00:10.010\n"
        "     SOURCE: shop/api-5c6f8-k8k:8080\n"
        "DESTINATION: shop/web-7d4b9-x2x:41000\n"
        "       TYPE: http-response\n"
        "    VERDICT: FORWARDED\n"
        "    SUMMARY: HTTP/1.1 503 3ms (GET http://api.shop/items/42?q=1)\n"
        "------------\n"
        "  TIMESTAMP: Mar  1 10:00:16.016\n"
        "     SOURCE: shop/web-7d4b9-x2x:900\n"
        "DESTINATION: data/db-0:901\n"
        "       TYPE: Authentication required\n"
        "    VERDICT: DROPPED\n"
        "    SUMMARY: IP Trace ID: 777; SCTP; Auth: SPIRE\n"
    )


def test_table() -> None:
    wanted = """\
TIMESTAMP             NODE          SOURCE                     DESTINATION                 TYPE                VERDICT      SUMMARY
Mar  1 10:00:06.006   east/node-a   shop/web-7d4b9-x2x:53011   kube-system/coredns-aa:53   dns-request proxy   FORWARDED    DNS Query api.example.com. A
Mar  1 10:00:12.012   west/node-b   shop/web-7d4b9-x2x:5000    kube-system/coredns-aa:53   to-proxy            REDIRECTED   UDP
Mar  1 10:00:20.500   east/node-a   HUBBLE_RING_BUFFER         -                           EVENTS LOST         -            CPU(0) - 42 (first: Mar  1 10:00:19.000, last: Mar  1 10:00:20.000)
"""
    assert out_of(QUERY, TO_PROXY, LOST, output="table", print_node_name=True) == wanted
    assert out_of(output="table") == ""


def test_json_lines() -> None:
    small = parse_response(
        '{"flow":{"uuid":"00000000-0000-4000-8000-000000000016","verdict":"DROPPED","source":{"pod_name":"web-7d4b9-x2x"}},'
        '"node_name":"west/node-b","time":"2026-03-01T10:00:16.016Z"}'
    )
    assert out_of(small, LOST_PERF, output="json") == (
        '{"flow":{"uuid":"00000000-0000-4000-8000-000000000016","verdict":"DROPPED","source":{"pod_name":"web-7d4b9-x2x"}},'
        '"node_name":"west/node-b","time":"2026-03-01T10:00:16.016Z"}\n'
        '{"lost_events":{"source":"PERF_EVENT_RING_BUFFER","num_events_lost":"7","cpu":3},'
        '"node_name":"east/node-a","time":"2026-03-01T10:00:21Z"}\n'
    )
    assert printed(FAILED, output="jsonpb") == (
        "",
        '{"node_status":{"state_change":"NODE_ERROR","node_names":["west/node-d","west/node-e"],'
        '"message":"rpc error: code = Unknown desc = boom"},"node_name":"relay-0","time":"2026-03-01T10:00:22Z"}\n',
    )


def test_json_reads_what_it_wrote() -> None:
    for response in (REPLY, ALLOWED, AUTH, QUERY, LOST):
        assert parse_response(out_of(response, output="json")) == response


def test_a_bare_flow_is_read_too() -> None:
    line = json.dumps(
        {"time": "2026-03-01T10:00:16Z", "nodeName": "n", "futureField": 1, "verdict": "DROPPED"}
    )
    response = parse_response(line)
    assert (response.node_name, response.time.seconds) == ("n", 1772359216)


@pytest.mark.parametrize("line", ["", "[]", "{", '{"flow":{"source":5}}'])
def test_bad_lines_are_refused(line: str) -> None:
    with pytest.raises(ValueError):
        parse_response(line)


def test_lost_events_in_compact_and_dict() -> None:
    assert out_of(LOST, LOST_PERF) == (
        "Mar  1 10:00:20.500 EVENTS LOST: HUBBLE_RING_BUFFER CPU(0) 42"
        " (first: Mar  1 10:00:19.000, last: Mar  1 10:00:20.000)\n"
        "Mar  1 10:00:21.000 EVENTS LOST: PERF_EVENT_RING_BUFFER CPU(3) 7\n"
    )
    assert "       TYPE: EVENTS LOST\n    SUMMARY: CPU(3) - 7\n" in out_of(LOST_PERF, output="dict")


def test_node_states_go_to_stderr() -> None:
    every = (
        "Mar  1 10:00:22.000 [relay-0]: Receiving flows from 2 nodes: east/node-a, east/node-c\n",
        "Mar  1 10:00:22.000 [relay-0]: 1 nodes are unavailable: west/node-b\n",
        "Mar  1 10:00:22.000 [relay-0]: 1 nodes removed from cluster: east/node-z\n",
        'Mar  1 10:00:22.000 [relay-0]: Error "rpc error: code = Unknown desc = boom" on 2 nodes: west/node-d, west/node-e\n',
    )
    states = (CONNECTED, UNAVAILABLE, GONE, FAILED)
    for output in ("compact", "table"):
        assert printed(*states, output=output, debug=True) == ("", "".join(every))
        assert printed(*states, output=output) == ("", every[1] + every[3])
    assert printed(UNAVAILABLE, output="dict")[1] == (
        "  TIMESTAMP: Mar  1 10:00:22.000\n      STATE: NODE_UNAVAILABLE\n      NODES: west/node-b\n    MESSAGE: N/A\n"
    )


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (
            {"policy_match_type": 0},
            "INGRESS DENIED BY DEFAULT: no rule in lockdown (CiliumNetworkPolicy) allows it (",
        ),
        ({"policy_match_type": 0, "verdict": "AUDIT"}, "AUDITED BY DEFAULT: no rule in lockdown"),
        ({"policy_match_type": 1}, "INGRESS DENIED BY lockdown (CiliumNetworkPolicy) ("),
        ({"policy_match_type": 0, "ingress_denied_by": []}, "INGRESS DENIED ("),
        ({"event_type": {"type": 1, "sub_type": 133}}, "DROPPED BY DEFAULT: no rule in lockdown"),
        ({"event_type": {"type": 1, "sub_type": 181}}, "DROPPED BY lockdown (CiliumNetworkPolicy) ("),
    ],
)
def test_default_deny_and_a_deny_rule_are_told_apart(fields: dict[str, Any], text: str) -> None:
    values = {
        "verdict": "DROPPED", "IP": ip(WEB_IP, DB_IP), "l4": tcp(41002, 5432), "source": WEB, "destination": DB,
        "event_type": {"type": 5}, "traffic_direction": "INGRESS", "Summary": "TCP Flags: SYN",
        "ingress_denied_by": [{"name": "lockdown", "kind": "CiliumNetworkPolicy"}],
    }  # fmt: skip
    assert text in out_of(at("05.005", "flow", {**values, **fields}))


def test_a_state_without_a_sender_has_no_empty_brackets() -> None:
    response = at("22", "node_status", {"state_change": "NODE_UNAVAILABLE", "node_names": ["east/node1"]})
    response.node_name = ""
    assert printed(response)[1] == "Mar  1 10:00:22.000: 1 nodes are unavailable: east/node1\n"


def test_a_long_list_of_nodes_is_cut() -> None:
    line = printed(status("NODE_UNAVAILABLE", [f"east/node-{n:04d}" for n in range(40)]))[1]
    assert line.endswith("east/node-0002 (and 37 more)\n")


def test_colours() -> None:
    line = out_of(DENIED, colour=True)
    assert "\x1b[36mshop/web-7d4b9-x2x\x1b[0m:\x1b[33m41002\x1b[0m \x1b[35m(ID:20101)\x1b[0m" in line
    assert "\x1b[31mDROPPED" in line
    assert "\x1b[32mFORWARDED\x1b[0m" in out_of(REPLY, colour=True)
    assert "\x1b" not in out_of(REPLY, output="table", colour=True)


def test_numeric_and_ipv6() -> None:
    assert "10.1.0.11:41004 (ID:20101) -> 192.0.2.7:443 (world)" in out_of(TO_WORLD, numeric=True)
    six = at("01", "flow", {
        "IP": {"source": "fd00::1", "destination": "fd00::2", "ipVersion": "IPv6"}, "l4": tcp(1, 2),
        "event_type": {"type": 1, "sub_type": 250},
    })  # fmt: skip
    assert "[fd00::1]:1 (unknown) <> [fd00::2]:2 (unknown) 250, 0 VERDICT_UNKNOWN ()" in out_of(six)


@pytest.mark.parametrize(
    ("style", "text"),
    [
        ("StampMilli", "Mar  1 10:00:02.002"),
        ("nonsense", "Mar  1 10:00:02.002"),
        ("YearMonthDay", "2026-03-01"),
        ("YearMonthDayHour", "2026-03-01T10+00:00"),
        ("YearMonthDayHourMinute", "2026-03-01T10:00+00:00"),
        ("RFC3339", "2026-03-01T10:00:02Z"),
        ("RFC3339Milli", "2026-03-01T10:00:02.002Z"),
        ("RFC3339Nano", "2026-03-01T10:00:02.002Z"),
        ("RFC1123Z", "Sun, 01 Mar 2026 10:00:02 +0000"),
    ],
)
def test_time_formats(style: str, text: str) -> None:
    assert out_of(REPLY, time_format=style).startswith(f"{text}: ")


EVIL = "x\x1b]0;owned\x07\x1b[31m\r\n\t\x9b2J\u202e\x7f"


def evil() -> list[observer_pb2.GetFlowsResponse]:
    policy = {"name": EVIL, "namespace": EVIL, "kind": EVIL}
    end = {"namespace": EVIL, "pod_name": EVIL, "labels": [EVIL]}
    flow = {
        "verdict": "DROPPED", "IP": {"source": EVIL, "destination": EVIL}, "l4": tcp(1, 2), "source": end,
        "destination": {}, "destination_names": [EVIL], "event_type": {"type": 1, "sub_type": 133},
        "ingress_denied_by": [policy], "Summary": EVIL, "interface": {"name": EVIL},
    }  # fmt: skip
    dns = flow | {"l7": {"type": "REQUEST", "dns": {"query": EVIL, "observation_source": EVIL}}}
    layer2 = {"ethernet": {"source": EVIL, "destination": EVIL}}
    service = flow | {"source": {}, "source_service": {"name": EVIL, "namespace": EVIL}}
    flows = [at("01", "flow", one, EVIL) for one in (flow, dns, layer2, service)]
    return [*flows, status("NODE_ERROR", [EVIL], EVIL), at("02", "node_status", {"state_change": 2}, EVIL)]


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("numeric", [False, True])
def test_no_control_character_leaves_any_output(output: str, numeric: bool) -> None:
    for response in evil():
        texts = printed(
            response,
            output=output,
            numeric=numeric,
            print_node_name=True,
            print_policy_names=True,
            debug=True,
        )
        for text in texts:
            assert not [
                c for c in text if c != "\n" and (ord(c) < 0x20 or 0x7F <= ord(c) <= 0x9F or c == "\u202e")
            ]
        lines = "".join(texts).splitlines()
        assert len(lines) <= 8
    coloured = out_of(evil()[0], colour=True)
    assert "owned" in coloured
    assert "\x1b]" not in coloured


def test_escapes_are_readable() -> None:
    assert r"x^[]0;owned^G^[[31m\r\n\t\x9b2J\u202e\x7f" in out_of(evil()[0])


@pytest.mark.parametrize("output", ["compact", "dict"])
def test_with_colours_only_our_own_sequences_are_raw(output: str) -> None:
    for response in evil():
        for text in printed(response, output=output, colour=True, print_node_name=True, debug=True):
            plain = re.sub("\x1b\\[(3[1-6]|0)m", "", text)
            assert not [
                c for c in plain if c != "\n" and (ord(c) < 0x20 or 0x7F <= ord(c) <= 0x9F or c == "\u202e")
            ]
            assert len(text.splitlines()) <= 8
    quiet = at(
        "01", "flow", {"source": {"namespace": "a", "pod_name": "x\x1b[31my"}, "IP": ip(WEB_IP, API_IP)}
    )
    assert "\x1b[36ma/x^[[31my\x1b[0m" in out_of(quiet, output=output, colour=True)
