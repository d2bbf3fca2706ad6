"""Words of Hubble's metrics for what a flow is: protocol, kind of event, trace point, match type."""

from __future__ import annotations

from typing import Final

from axoneme.api.hubble.flow import flow_pb2

DROP, TRACE, CAPTURE, POLICY_VERDICT, LAYER7 = 1, 4, 3, 5, 129
_LAYER7_NAMES: Final = {"dns": "DNS", "http": "HTTP", "kafka": "Kafka"}
_TYPES: Final = {DROP: "Drop", CAPTURE: "Capture", POLICY_VERDICT: "PolicyVerdict"}
_TRACE_POINTS: Final = (
    "to-endpoint",
    "to-proxy",
    "to-host",
    "to-stack",
    "to-overlay",
    "from-endpoint",
    "from-proxy",
    "from-host",
    "from-stack",
    "from-overlay",
    "from-network",
    "to-network",
    "from-crypto",
    "to-crypto",
)
_MATCHES: Final = {
    0: "none",
    1: "l3-only",
    2: "l3-l4",
    3: "l4-only",
    4: "all",
    5: "l3-proto",
    6: "proto-only",
}
IP_VERSIONS: Final = {flow_pb2.IPv4: "IPv4", flow_pb2.IPv6: "IPv6"}


def protocol(flow: flow_pb2.Flow) -> str:
    """`TCP`, or what a proxy understood: `DNS`."""
    if flow.Type == flow_pb2.L7:
        return _LAYER7_NAMES.get(flow.l7.WhichOneof("record") or "", "Unknown L7")
    return flow.l4.WhichOneof("protocol") or ("Unknown L4" if flow.HasField("l4") else "Unknown flow")


def type_and_subtype(flow: flow_pb2.Flow) -> tuple[str, str]:
    """`Trace` and `to-endpoint`."""
    number = flow.event_type.type
    if number == LAYER7:
        return "L7", _LAYER7_NAMES.get(flow.l7.WhichOneof("record") or "", "")
    if number == TRACE:
        sub_type = flow.event_type.sub_type
        return "Trace", _TRACE_POINTS[sub_type] if 0 <= sub_type < len(_TRACE_POINTS) else str(sub_type)
    return (_TYPES[number], "") if number in _TYPES else ("Unknown", str(number))


def match_type(flow: flow_pb2.Flow) -> str:
    """How far a policy verdict looked: `l3-l4`; of what a proxy decided: `l7/dns`."""
    if flow.event_type.type == LAYER7:
        return f"l7/{flow.l7.WhichOneof('record') or 'unknown'}"
    return _MATCHES.get(flow.policy_match_type, str(flow.policy_match_type))


def verdict(flow: flow_pb2.Flow) -> str:
    """`FORWARDED`."""
    known = flow.verdict in flow_pb2.Verdict.values()
    return flow_pb2.Verdict.Name(flow.verdict) if known else str(flow.verdict)


def direction(flow: flow_pb2.Flow) -> str:
    """`ingress`, `egress` or `traffic_direction_unknown`."""
    known = flow.traffic_direction in flow_pb2.TrafficDirection.values()
    return flow_pb2.TrafficDirection.Name(flow.traffic_direction).lower() if known else "unknown"


def reporter(flow: flow_pb2.Flow) -> str:
    """Which end's proxy saw a message."""
    return {flow_pb2.EGRESS: "client", flow_pb2.INGRESS: "server"}.get(flow.traffic_direction, "unknown")
