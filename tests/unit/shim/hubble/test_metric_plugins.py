"""What each plugin counts of a flow, with the names and labels of Hubble's metrics."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import BoolValue

from axoneme.api.hubble.flow import flow_pb2
from shim.hubble.metrics.counting import FlowCounter
from shim.hubble.metrics.options import parse_metrics
from tests.unit.shim.hubble.hubblescene import values

WEB = flow_pb2.Endpoint(
    ID=401, identity=20101, namespace="shop", pod_name="web-1", cluster_name="east",
    labels=["k8s:app.kubernetes.io/name=web", "k8s:io.kubernetes.pod.namespace=shop"],
    workloads=[flow_pb2.Workload(kind="Deployment", name="web")],
)  # fmt: skip
WORLD = flow_pb2.Endpoint(identity=2, labels=["cidr:192.0.2.0/24", "reserved:world"])
API_SERVER = flow_pb2.Endpoint(identity=7, labels=["reserved:host", "reserved:kube-apiserver"])


def tcp(port: int = 443, **flags: bool) -> flow_pb2.Layer4:
    return flow_pb2.Layer4(TCP=flow_pb2.TCP(destination_port=port, flags=flow_pb2.TCPFlags(**flags)))


def flow(**changes: Any) -> flow_pb2.Flow:
    """A forwarded SYN of web to the world."""
    usual: dict[str, Any] = {
        "verdict": flow_pb2.FORWARDED, "IP": flow_pb2.IP(
            source="10.1.0.11", destination="192.0.2.7", ipVersion=flow_pb2.IPv4
        ),
        "l4": tcp(SYN=True), "source": WEB, "destination": WORLD, "Type": flow_pb2.L3_L4,
        "event_type": flow_pb2.CiliumEventType(type=4, sub_type=3), "traffic_direction": flow_pb2.EGRESS,
        "is_reply": BoolValue(value=False), "destination_names": ["api.example.com"],
    }  # fmt: skip
    return flow_pb2.Flow(**usual | changes)


def dns(*, verdict: flow_pb2.Verdict.ValueType = flow_pb2.FORWARDED, **said: Any) -> flow_pb2.Flow:
    reply = "rcode" in said
    kind = flow_pb2.RESPONSE if reply else flow_pb2.REQUEST
    return flow(
        verdict=verdict, Type=flow_pb2.L7, event_type=flow_pb2.CiliumEventType(type=129),
        l4=flow_pb2.Layer4(UDP=flow_pb2.UDP(destination_port=53)), is_reply=BoolValue(value=reply),
        l7=flow_pb2.Layer7(type=kind, dns=flow_pb2.DNS(query="api.example.com.", **said)),
    )  # fmt: skip


def http(kind: flow_pb2.L7FlowType.ValueType, code: int = 0, milliseconds: int = 0) -> flow_pb2.Flow:
    ends = {"source": WEB, "destination": WORLD}
    if kind == flow_pb2.RESPONSE:
        ends = {"source": WORLD, "destination": WEB}
    said = flow_pb2.HTTP(code=code, method="GET", url="http://api/", protocol="HTTP/1.1")
    return flow(
        Type=flow_pb2.L7, event_type=flow_pb2.CiliumEventType(type=129), **ends,
        l7=flow_pb2.Layer7(type=kind, latency_ns=milliseconds * 1_000_000, http=said),
    )  # fmt: skip


def kafka() -> flow_pb2.Flow:
    said = flow_pb2.Kafka(topic="orders", api_key="produce", error_code=3)
    return flow(
        Type=flow_pb2.L7, event_type=flow_pb2.CiliumEventType(type=129),
        l7=flow_pb2.Layer7(type=flow_pb2.REQUEST, latency_ns=2_000_000, kafka=said),
    )  # fmt: skip


def counted(metric: str, *flows: flow_pb2.Flow) -> dict[tuple[str, ...], int]:
    counter = FlowCounter(parse_metrics("m", [metric]))
    for one in flows:
        counter.count(one)
    return {(name, *labels): count for (name, labels), count in values(counter).items()}


DROPPED: dict[str, Any] = {
    "verdict": flow_pb2.DROPPED,
    "drop_reason_desc": flow_pb2.POLICY_DENIED,
    "event_type": flow_pb2.CiliumEventType(type=1, sub_type=133),
}
UNROUTABLE: dict[str, Any] = DROPPED | {"drop_reason_desc": flow_pb2.UNSUPPORTED_L3_PROTOCOL}
VERDICT: dict[str, Any] = {"event_type": flow_pb2.CiliumEventType(type=5), "policy_match_type": 2}
ICMP = flow_pb2.Layer4(ICMPv4=flow_pb2.ICMPv4(type=3, code=3))
ICMPV6 = flow_pb2.Layer4(ICMPv6=flow_pb2.ICMPv6(type=128))
UDP = flow_pb2.Layer4(UDP=flow_pb2.UDP(destination_port=53))

CASES: list[tuple[str, list[flow_pb2.Flow], dict[tuple[str, ...], int]]] = [
    ("flow", [flow(), flow(), dns(), flow(l4=None), flow(event_type=flow_pb2.CiliumEventType(type=9))], {
        ("flows_processed", "TCP", "Trace", "to-stack", "FORWARDED"): 2,
        ("flows_processed", "DNS", "L7", "DNS", "FORWARDED"): 1,
        ("flows_processed", "Unknown flow", "Trace", "to-stack", "FORWARDED"): 1,
        ("flows_processed", "TCP", "Unknown", "9", "FORWARDED"): 1,
    }),
    ("drop:sourceContext=pod", [flow(), flow(**DROPPED)], {
        ("drop", "shop/web-1", "POLICY_DENIED", "TCP"): 1,
    }),
    ("tcp", [flow(), flow(l4=tcp(SYN=True, ACK=True)), flow(l4=tcp(FIN=True, RST=True)), flow(**DROPPED)], {
        ("tcp_flags", "SYN", "IPv4"): 1, ("tcp_flags", "SYN-ACK", "IPv4"): 1,
        ("tcp_flags", "FIN", "IPv4"): 1, ("tcp_flags", "RST", "IPv4"): 1,
    }),
    ("icmp", [flow(l4=ICMP), flow(l4=ICMPV6), flow()], {
        ("icmp", "IPv4", "DestinationUnreachable(Port)"): 1, ("icmp", "IPv6", "EchoRequest"): 1,
    }),
    ("port-distribution", [
        flow(), flow(l4=UDP), flow(l4=ICMP), flow(is_reply=BoolValue(value=True)), flow(**DROPPED),
    ], {
        ("port_distribution", "TCP", "443"): 1, ("port_distribution", "UDP", "53"): 1,
        ("port_distribution", "ICMPv4", "0"): 1,
    }),
    ("flows-to-world:port", [
        flow(), flow(destination=WEB), flow(**DROPPED), flow(**UNROUTABLE), flow(l4=ICMP),
        flow(is_reply=BoolValue(value=True)),
    ], {
        ("flows_to_world", "TCP", "FORWARDED", "443"): 1, ("flows_to_world", "TCP", "DROPPED", "443"): 1,
        ("flows_to_world", "ICMPv4", "FORWARDED", ""): 1,
    }),
    ("flows-to-world:any-drop;syn-only", [flow(**UNROUTABLE), flow(l4=tcp(ACK=True)), flow(l4=UDP)], {
        ("flows_to_world", "TCP", "DROPPED"): 1,
    }),
    ("policy", [
        flow(**VERDICT), flow(**VERDICT | {"verdict": flow_pb2.DROPPED, "policy_match_type": 0}),
        flow(**VERDICT, source=flow_pb2.Endpoint(identity=1)), flow(), dns(),
    ], {
        ("policy_verdicts", "egress", "l3-l4", "forwarded"): 1,
        ("policy_verdicts", "egress", "none", "dropped"): 1,
        ("policy_verdicts", "egress", "l7/dns", "forwarded"): 1,
    }),
    ("flows-per-pod:sourceContext=pod", [flow()], {("flows_per_pod", "shop/web-1", "TCP", "FORWARDED"): 1}),
    ("sctp", [flow(l4=flow_pb2.Layer4(SCTP=flow_pb2.SCTP(destination_port=1)))], {}),
    ("dns:query", [
        dns(qtypes=["A"]), dns(qtypes=["A"], verdict=flow_pb2.DROPPED),
        dns(qtypes=["AAAA"], rcode=0, ips=["2001:db8::1"], rrtypes=["CNAME", "AAAA"]),
        dns(qtypes=["A"], rcode=3),
    ], {
        ("dns_queries", "", "A", "0", "api.example.com."): 1,
        ("dns_queries", "Policy denied", "A", "0", "api.example.com."): 1,
        ("dns_responses", "No Error", "AAAA", "1", "api.example.com."): 1,
        ("dns_responses", "Non-Existent Domain", "A", "0", "api.example.com."): 1,
        ("dns_response_types", "CNAME", "AAAA", "api.example.com."): 1,
        ("dns_response_types", "AAAA", "AAAA", "api.example.com."): 1,
    }),
    ("dns:ignoreAAAA", [dns(qtypes=["A"]), dns(qtypes=["AAAA"])], {("dns_queries", "", "A", "0"): 1}),
    ("http:sourceContext=pod", [
        http(flow_pb2.REQUEST), http(flow_pb2.RESPONSE, 503, 30), http(flow_pb2.SAMPLE),
    ], {
        ("http_requests", "shop/web-1", "GET", "HTTP/1.1", "client"): 1,
        ("http_responses", "", "GET", "HTTP/1.1", "503", "client"): 1,
        ("http_request_duration_seconds", "", "GET", "client"): 1,
    }),
    ("httpV2:sourceContext=pod;destinationContext=dns|ip;exemplars=true", [
        http(flow_pb2.REQUEST), http(flow_pb2.RESPONSE, 200, 30),
    ], {
        ("http_requests", "shop/web-1", "10.1.0.11", "GET", "HTTP/1.1", "200", "client"): 1,
        ("http_request_duration_seconds", "shop/web-1", "10.1.0.11", "GET", "client"): 1,
    }),
    ("kafka", [kafka()], {
        ("kafka_requests", "orders", "produce", "3", "client"): 1,
        ("kafka_request_duration_seconds", "orders", "produce", "client"): 1,
    }),
]  # fmt: skip


@pytest.mark.parametrize(("metric", "flows", "expected"), CASES, ids=[case[0] for case in CASES])
def test_plugins(metric: str, flows: list[flow_pb2.Flow], expected: dict[tuple[str, ...], int]) -> None:
    assert counted(metric, *flows) == expected


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        ("sourceContext=identity", "k8s:app.kubernetes.io/name=web,k8s:io.kubernetes.pod.namespace=shop"),
        ("sourceContext=namespace", "shop"),
        ("sourceContext=pod", "shop/web-1"),
        ("sourceContext=pod-name", "web-1"),
        ("sourceContext=ip", "10.1.0.11"),
        ("sourceContext=dns", ""),
        ("destinationContext=dns", "api.example.com"),
        ("destinationContext=pod|dns|ip", "api.example.com"),
        ("destinationContext=reserved-identity", "reserved:world"),
        ("sourceContext=reserved-identity|workload", "shop/web"),
        ("sourceContext=workload-name", "web"),
        ("sourceContext=app", "web"),
        ("sourceContext=pod;sourceEgressContext=ip", "10.1.0.11"),
        ("sourceContext=pod;sourceIngressContext=ip", "shop/web-1"),
        ("destinationEgressContext=ip", "192.0.2.7"),
        ("labelsContext=source_workload_kind", "Deployment"),
        ("labelsContext=source_workload", "web"),
        ("labelsContext=source_pod", "web-1"),
        ("labelsContext=destination_ip", "192.0.2.7"),
        ("labelsContext=traffic_direction", "egress"),
    ],
)
def test_contexts(context: str, expected: str) -> None:
    assert counted(f"flows-per-pod:{context}", flow()) == {("flows_per_pod", expected, "TCP", "FORWARDED"): 1}


def test_the_api_server_is_told_apart() -> None:
    found = counted("drop:destinationContext=reserved-identity", flow(**DROPPED, destination=API_SERVER))
    assert found == {("drop", "reserved:kube-apiserver", "POLICY_DENIED", "TCP"): 1}


def test_labels_come_before_source_and_destination() -> None:
    counter = FlowCounter(
        parse_metrics("m", ["drop:destinationContext=ip;sourceContext=ip;labelsContext=source_ip"])
    )
    assert counter.table.families[0].labels == ("source_ip", "source", "destination", "reason", "protocol")
