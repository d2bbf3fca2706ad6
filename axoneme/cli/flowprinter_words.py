"""The words of a flow: times, ends, type, verdict, summary, each as text that is not cleaned yet.

Pure functions over protobuf messages. The printers pass every line or cell through `clean`, which works
character by character, so nothing that a workload can name reaches a terminal as a control sequence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp

from axoneme.api.hubble.flow import flow_pb2
from axoneme.lib.flows.names import EVENT_TYPES, RESERVED_IDENTITIES, TRACE_POINTS

_UNSAFE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")
_SPELLED: Final = {"\r": r"\r", "\n": r"\n", "\t": r"\t"}
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
TIME_FORMATS: Final = (
    "StampMilli", "YearMonthDay", "YearMonthDayHour", "YearMonthDayHourMinute", "RFC3339", "RFC3339Milli",
    "RFC3339Micro", "RFC3339Nano", "RFC1123Z",
)  # fmt: skip
_MATCH_TYPES: Final = ("none", "L3-Only", "L3-L4", "L4-Only", "all", "L3-Proto", "Proto-Only")
_NO_MATCH: Final = 0
_REFUSALS: Final = (flow_pb2.DROPPED, flow_pb2.ERROR, flow_pb2.AUDIT)
_DROP_TEXTS: Final = {
    132: "Invalid source ip", 133: "Policy denied", 134: "Invalid packet",
    135: "CT: Truncated or invalid header", 137: "CT: Unknown L4 protocol", 155: "CT: Map insertion failed",
    160: "No tunnel/encapsulation endpoint (datapath BUG!)", 181: "Policy denied by denylist",
    189: "Authentication required",
}  # fmt: skip
_TRACE: Final = EVENT_TYPES["trace"]
_DROP: Final = EVENT_TYPES["drop"]
_POLICY_VERDICT: Final = EVENT_TYPES["policy-verdict"]
_POLICY_WORDS: Final = {
    "FORWARDED": "ALLOWED", "REDIRECTED": "ALLOWED", "DROPPED": "DENIED", "ERROR": "DENIED",
    "AUDIT": "AUDITED",
}  # fmt: skip
_SOCKET_POINTS: Final = {1: "pre-xlate-fwd", 2: "post-xlate-fwd", 3: "pre-xlate-rev", 4: "post-xlate-rev"}
VERDICTS: Final[dict[int, str]] = {number: name for name, number in flow_pb2.Verdict.items()}
DIRECTIONS: Final[dict[int, str]] = {number: name for name, number in flow_pb2.TrafficDirection.items()}
_UPPER_WORDS: Final = {
    "ip": "IP", "l2": "L2", "l3": "L3", "l4": "L4", "ct": "CT", "nat": "NAT", "icmpv4": "ICMPv4",
    "tcp": "TCP", "icmpv6": "ICMPv6", "ipv6": "IPv6", "edt": "EDT", "fib": "FIB", "lb": "LB",
    "vni": "VNI", "ttl": "TTL",
    "vlan": "VLAN", "ep": "endpoint", "igmp": "IGMP", "clusterip": "ClusterIP",
}  # fmt: skip


def clean(text: str) -> str:
    """Escape control characters, C1 codes and direction marks: ESC as `^[`, CR as `\\r`, others by number."""
    return text if text.isprintable() else _UNSAFE.sub(_spell, text)


def _spell(match: re.Match[str]) -> str:
    character = match[0]
    if character in _SPELLED:
        return _SPELLED[character]
    code = ord(character)
    if code < 0x20:
        return f"^{chr(code + 0x40)}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


@lru_cache(maxsize=4096)
def stamp(seconds: int) -> str:
    """`Mar  1 10:00:02`: flows of one second share it."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{_MONTHS[moment.month - 1]} {moment.day:2d} {moment:%H:%M:%S}"


def format_time(time: Timestamp, style: str = "StampMilli") -> str:
    """A time in UTC; an unknown style is StampMilli."""
    if style == "StampMilli":
        return f"{stamp(time.seconds)}.{time.nanos // 1_000_000:03d}"
    moment = datetime.fromtimestamp(time.seconds, UTC)
    if style in ("YearMonthDay", "YearMonthDayHour", "YearMonthDayHourMinute"):
        parts = {"YearMonthDay": "%Y-%m-%d", "YearMonthDayHour": "%Y-%m-%dT%H+00:00"}
        return moment.strftime(parts.get(style, "%Y-%m-%dT%H:%M+00:00"))
    digits = {"RFC3339": 0, "RFC3339Milli": 3, "RFC3339Micro": 6, "RFC3339Nano": 9}
    if style in digits:
        fraction = f"{time.nanos:09d}"[: digits[style]].rstrip("0")
        return moment.strftime("%Y-%m-%dT%H:%M:%S") + (f".{fraction}" if fraction else "") + "Z"
    if style == "RFC1123Z":
        head = f"{_DAYS[moment.weekday()]}, {moment.day:02d} {_MONTHS[moment.month - 1]} {moment.year:04d}"
        return f"{head} {moment:%H:%M:%S} +0000"
    return f"{stamp(time.seconds)}.{time.nanos // 1_000_000:03d}"


def host_and_port(flow: flow_pb2.Flow, *, source: bool, numeric: bool) -> tuple[str, str]:
    """One end as (host, port): pod, service, DNS names or address; the port is empty when there is none."""
    end = flow.source if source else flow.destination
    if not flow.HasField("IP"):
        return flow.ethernet.source if source else flow.ethernet.destination, ""
    address = flow.IP.source if source else flow.IP.destination
    kind = flow.l4.WhichOneof("protocol")
    port = 0
    if kind in ("TCP", "UDP", "SCTP"):
        layer4 = getattr(flow.l4, kind)
        port = layer4.source_port if source else layer4.destination_port
    return address if numeric else _name(flow, end, source) or address, str(port) if port else ""


def _name(flow: flow_pb2.Flow, end: flow_pb2.Endpoint, source: bool) -> str:
    if end.pod_name:
        return f"{end.namespace}/{end.pod_name}" if end.namespace else end.pod_name
    service = flow.source_service if source else flow.destination_service
    if service.name:
        return f"{service.namespace}/{service.name}" if service.namespace else service.name
    return ",".join(flow.source_names if source else flow.destination_names)


def join_host_port(host: str, port: str) -> str:
    """`host:port`, with brackets around a host that has colons itself."""
    if not port:
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def identity_text(end: flow_pb2.Endpoint) -> str:
    """`(world)` for reserved identities, `(ID:20101)` for others."""
    name = RESERVED_IDENTITIES.get(end.identity) if end.identity else "unknown"
    return f"({name})" if name else f"(ID:{end.identity})"


def flow_type(flow: flow_pb2.Flow) -> str:
    """What happened, such as `to-stack`, `Policy denied` or `policy-verdict:L3-Only INGRESS`."""
    if flow.HasField("l7"):
        return _l7_type(flow.l7)
    kind, sub_type = flow.event_type.type, flow.event_type.sub_type
    if kind == _TRACE:
        return TRACE_POINTS[sub_type] if 0 <= sub_type < len(TRACE_POINTS) else str(sub_type)
    if kind == _DROP:
        return drop_text(sub_type)
    if kind == _POLICY_VERDICT:
        match_type = flow.policy_match_type
        match = _MATCH_TYPES[match_type] if match_type < len(_MATCH_TYPES) else str(match_type)
        direction = DIRECTIONS.get(flow.traffic_direction) or str(flow.traffic_direction)
        return f"policy-verdict:{match} {direction}"
    if kind == EVENT_TYPES["capture"]:
        return enum_text(flow_pb2.DebugCapturePoint, flow.debug_capture_point)
    if kind == EVENT_TYPES["trace-sock"]:
        return _SOCKET_POINTS.get(flow.sock_xlate_point, "unknown")
    return "UNKNOWN"


def _l7_type(layer7: flow_pb2.Layer7) -> str:
    kind = enum_text(flow_pb2.L7FlowType, layer7.type).lower()
    record = layer7.WhichOneof("record")
    if record == "dns":
        return f"dns-{kind} {layer7.dns.observation_source}".rstrip()
    return f"{'http' if record == 'http' else 'l7' if record is None else record}-{kind}"


def drop_text(reason: int) -> str:
    """Words for a drop reason; `N, 0` for an unknown number."""
    if reason in _DROP_TEXTS:
        return _DROP_TEXTS[reason]
    if not reason or reason not in flow_pb2.DropReason.values():
        return f"{reason}, 0"
    words = (
        flow_pb2.DropReason.Name(flow_pb2.DropReason.ValueType(reason))
        .removeprefix("DROP_")
        .lower()
        .split("_")
    )
    text = " ".join(_UPPER_WORDS.get(word, word) for word in words)
    return text[0].upper() + text[1:]


def verdict_text(flow: flow_pb2.Flow, *, policy_names: bool) -> str:
    """The verdict, and after BY the policies that decided when they are wanted and known."""
    verdict = VERDICTS.get(flow.verdict) or str(flow.verdict)
    if flow.event_type.type == _POLICY_VERDICT:
        verdict = _POLICY_WORDS.get(verdict, verdict)
    names = deciding_policies(flow) if policy_names else ""
    if names and _is_default_deny(flow):
        return f"{verdict} BY DEFAULT: no rule in {names} allows it"
    return f"{verdict} BY {names}" if names else verdict


def _is_default_deny(flow: flow_pb2.Flow) -> bool:
    """Whether nothing matched: the policies named are then those that switched default deny on."""
    if flow.event_type.type == _DROP:
        reasons = (flow.drop_reason, flow.event_type.sub_type, flow.drop_reason_desc)
        return flow_pb2.POLICY_DENIED in reasons and not (flow.ingress_allowed_by or flow.egress_allowed_by)
    return flow.policy_match_type == _NO_MATCH and flow.verdict in _REFUSALS


def deciding_policies(flow: flow_pb2.Flow) -> str:
    """Names and kinds of the policies behind a verdict event or a drop; empty for other events."""
    if flow.event_type.type not in (_POLICY_VERDICT, _DROP):
        return ""
    groups = (flow.ingress_denied_by, flow.egress_denied_by, flow.ingress_allowed_by, flow.egress_allowed_by)
    found: Iterable[flow_pb2.Policy] = next((group for group in groups if group), ())
    return ", ".join(f"{policy.name} ({policy.kind})" if policy.kind else policy.name for policy in found)


def summary_text(flow: flow_pb2.Flow) -> str:
    """Trace id, summary and authentication in one text."""
    if not flow.auth_type and not flow.HasField("ip_trace_id"):
        return flow.Summary
    parts = [flow.Summary]
    if flow.ip_trace_id.trace_id:
        parts.insert(0, f"IP Trace ID: {flow.ip_trace_id.trace_id}")
    if flow.auth_type:
        parts.append(f"Auth: {enum_text(flow_pb2.AuthType, flow.auth_type)}")
    return "; ".join(part for part in parts if part)


def name_list(names: Sequence[str]) -> str:
    """Names joined by commas, cut near 50 characters."""
    text = ""
    for index, name in enumerate(names):
        if index and len(text) + len(name) > 50:
            return f"{text} (and {len(names) - index} more)"
        text += f", {name}" if index else name
    return text


def enum_text(enum: Any, number: int) -> str:
    """Name of a value of a protobuf enum, or its number when this build does not know it."""
    value = enum.DESCRIPTOR.values_by_number.get(number)
    return value.name if value is not None else str(number)
