"""Flow filters of the Hubble API, compiled to predicates over `flow.Flow`.

Within one filter all set fields must hold, values of one field are alternatives; filters of a whitelist are
alternatives, an empty whitelist takes all, and the blacklist is taken away. The observer, the relay's clients
and `axoneme observe --input-file` share this module. A field that is not understood is refused by name, for a
filter that is skipped shows flows that were to be hidden. Each field's rule is one function below; the table
FIELD_RULES ties them together and a test checks that it names every field of FlowFilter.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_address, ip_network
from typing import Any, Final, Literal

from axoneme.api.hubble.flow import flow_pb2
from axoneme.lib.errors import InvalidArgument, Unsupported
from axoneme.lib.flows.labelselector import index_labels, parse_selector

Predicate = Callable[[flow_pb2.Flow], bool]
Rule = Callable[[str, Sequence[Any]], Predicate]
Side = Literal["source", "destination"]

PROTOCOLS: Final = {
    "tcp": ("TCP",), "udp": ("UDP",), "sctp": ("SCTP",), "vrrp": ("VRRP",), "igmp": ("IGMP",),
    "icmp": ("ICMPv4", "ICMPv6"), "icmpv4": ("ICMPv4",), "icmpv6": ("ICMPv6",),
}  # fmt: skip
L7_PROTOCOLS: Final = ("dns", "http", "kafka")
TCP_FLAG_NAMES: Final = tuple(field.name for field in flow_pb2.TCPFlags.DESCRIPTOR.fields)
_L7_EVENT: Final = 129


class FlowMatcher:
    """Whitelist minus blacklist."""

    def __init__(
        self, whitelist: Iterable[flow_pb2.FlowFilter], blacklist: Iterable[flow_pb2.FlowFilter] = ()
    ) -> None:
        """Compile both lists. Raises InvalidArgument or Unsupported that names list, position and field."""
        self._whitelist = [compile_filter(f, f"whitelist[{i}]") for i, f in enumerate(whitelist)]
        self._blacklist = [compile_filter(f, f"blacklist[{i}]") for i, f in enumerate(blacklist)]

    def matches(self, flow: flow_pb2.Flow) -> bool:
        """Whether the flow is wanted."""
        if self._whitelist and not any(wanted(flow) for wanted in self._whitelist):
            return False
        return not any(unwanted(flow) for unwanted in self._blacklist)


def compile_filter(flow_filter: flow_pb2.FlowFilter, path: str = "filter") -> Predicate:
    """Compile one filter; `path` is where it stands in the request, for errors."""
    predicates: list[Predicate] = []
    for field, values in flow_filter.ListFields():
        rule = FIELD_RULES.get(field.name)
        where = f"{path}.{field.name}"
        if rule is None:
            raise Unsupported(f"{where}: this filter is not supported yet; remove it")
        if field.name.startswith("http_"):
            _require_l7(flow_filter, where)
        predicates.append(rule(where, values))
    return lambda flow: all(predicate(flow) for predicate in predicates)


def _require_l7(flow_filter: flow_pb2.FlowFilter, where: str) -> None:
    types = {event.type for event in flow_filter.event_type}
    if types and _L7_EVENT not in types:
        raise InvalidArgument.of_field(where, "the event type filter must be empty or contain l7 (129)")


# --- names -----------------------------------------------------------------------------------------------


def _split_name(where: str, text: str) -> tuple[str | None, str]:
    """Split `[namespace/]prefix`: no slash means namespace default, an empty namespace means any."""
    if not text:
        raise InvalidArgument.of_field(where, "empty name; use [namespace/]prefix, namespace/ or /prefix")
    namespace, slash, prefix = text.partition("/")
    if not slash:
        return "default", text
    return namespace or None, prefix


def _named(wanted: tuple[str | None, str], namespace: str, name: str) -> bool:
    wanted_namespace, prefix = wanted
    if wanted_namespace is None and not prefix:
        return bool(namespace or name)
    if wanted_namespace is not None and namespace != wanted_namespace:
        return False
    return name.startswith(prefix)


def _pod(side: Side) -> Rule:
    def rule(where: str, values: Sequence[str]) -> Predicate:
        wanted = [_split_name(where, value) for value in values]

        def predicate(flow: flow_pb2.Flow) -> bool:
            end = getattr(flow, side)
            return any(_named(one, end.namespace, end.pod_name) for one in wanted)

        return predicate

    return rule


def _service(side: Side) -> Rule:
    def rule(where: str, values: Sequence[str]) -> Predicate:
        wanted = [_split_name(where, value) for value in values]

        def predicate(flow: flow_pb2.Flow) -> bool:
            if not flow.HasField(f"{side}_service"):  # type: ignore[arg-type]
                return False
            service = getattr(flow, f"{side}_service")
            return any(_named(one, service.namespace, service.name) for one in wanted)

        return predicate

    return rule


def _workload(side: Side) -> Rule:
    def rule(_: str, values: Sequence[flow_pb2.Workload]) -> Predicate:
        wanted = [(value.kind, value.name) for value in values]

        def predicate(flow: flow_pb2.Flow) -> bool:
            return any(
                (not kind or workload.kind == kind) and (not name or workload.name == name)
                for workload in getattr(flow, side).workloads
                for kind, name in wanted
            )

        return predicate

    return rule


def _fqdn(side: Side) -> Rule:
    def rule(where: str, values: Sequence[str]) -> Predicate:
        patterns = [_fqdn_pattern(where, value) for value in values]

        def predicate(flow: flow_pb2.Flow) -> bool:
            names = [name.lower().removesuffix(".") for name in getattr(flow, f"{side}_names")]
            return any(pattern.fullmatch(name) for pattern in patterns for name in names)

        return predicate

    return rule


def _fqdn_pattern(where: str, text: str) -> re.Pattern[str]:
    name = text.strip().lower().removesuffix(".")
    if not re.fullmatch(r"[-.0-9a-z_*]+", name):
        raise InvalidArgument.of_field(where, f"{text!r} is not a DNS name or a pattern with *")
    return re.compile(re.escape(name).replace(r"\*", "[-.0-9a-z_]*"))


def _label(side: Side) -> Rule:
    def rule(where: str, values: Sequence[str]) -> Predicate:
        selectors = [parse_selector(value, where) for value in values]

        def predicate(flow: flow_pb2.Flow) -> bool:
            labels = index_labels(getattr(flow, side).labels)
            return any(selector(labels) for selector in selectors)

        return predicate

    return rule


def _node_labels(where: str, values: Sequence[str]) -> Predicate:
    selectors = [parse_selector(value, where) for value in values]

    def predicate(flow: flow_pb2.Flow) -> bool:
        labels = index_labels(flow.node_labels)
        return any(selector(labels) for selector in selectors)

    return predicate


def _identity(side: Side) -> Rule:
    def rule(_: str, values: Sequence[int]) -> Predicate:
        wanted = frozenset(values)
        return lambda flow: flow.HasField(side) and getattr(flow, side).identity in wanted

    return rule


def _cluster(side: Side) -> Rule:
    def rule(_: str, values: Sequence[str]) -> Predicate:
        wanted = frozenset(values)
        return lambda flow: getattr(flow, side).cluster_name in wanted

    return rule


def _node_name(where: str, values: Sequence[str]) -> Predicate:
    patterns = [_node_pattern(where, value) for value in values]

    def predicate(flow: flow_pb2.Flow) -> bool:
        name = flow.node_name if "/" in flow.node_name else f"default/{flow.node_name}"
        return any(pattern.fullmatch(name) for pattern in patterns)

    return predicate


def _node_pattern(where: str, text: str) -> re.Pattern[str]:
    if not re.fullmatch(r"[-.0-9A-Za-z_*]*(/[-.0-9A-Za-z_*]*)?", text) or not text:
        raise InvalidArgument.of_field(where, f"{text!r} is not [cluster/]node with * as wildcard")
    cluster, slash, node = text.partition("/")
    if not slash:
        cluster, node = "*", text
    parts = [re.escape(part or "*").replace(r"\*", "[-.0-9A-Za-z_]*") for part in (cluster, node)]
    return re.compile("/".join(parts))


# --- addresses and ports ---------------------------------------------------------------------------------


def _ip(attribute: str) -> Rule:
    def rule(where: str, values: Sequence[str]) -> Predicate:
        exact = frozenset(value for value in values if "/" not in value)
        networks = []
        for value in values:
            try:
                if "/" in value:
                    networks.append(ip_network(value, strict=False))
                else:
                    ip_address(value)
            except ValueError as error:
                raise InvalidArgument.of_field(where, f"{value!r} is not an address or a CIDR") from error

        def predicate(flow: flow_pb2.Flow) -> bool:
            text = getattr(flow.IP, attribute)
            if text in exact:
                return True
            if not networks or not text:
                return False
            try:
                address = ip_address(text)
            except ValueError:
                return False
            return any(address.version == network.version and address in network for network in networks)

        return predicate

    return rule


def _port(side: Side) -> Rule:
    def rule(where: str, values: Sequence[str]) -> Predicate:
        for value in values:
            if not value.isascii() or not value.isdigit() or int(value) > 65_535:
                raise InvalidArgument.of_field(where, f"{value!r} is not a port number (0 to 65535)")
        wanted = frozenset(int(value) for value in values)

        def predicate(flow: flow_pb2.Flow) -> bool:
            kind = flow.l4.WhichOneof("protocol")
            if kind not in ("TCP", "UDP", "SCTP"):
                return False
            return getattr(getattr(flow.l4, kind), f"{side}_port") in wanted

        return predicate

    return rule


def _protocol(where: str, values: Sequence[str]) -> Predicate:
    layer4: set[str] = set()
    layer7: set[str] = set()
    for value in values:
        name = value.lower()
        if name in L7_PROTOCOLS:
            layer7.add(name)
        elif name in PROTOCOLS:
            layer4.update(PROTOCOLS[name])
        else:
            known = ", ".join([*PROTOCOLS, *L7_PROTOCOLS])
            raise InvalidArgument.of_field(where, f"unknown protocol {value!r}; known: {known}")
    return lambda flow: flow.l4.WhichOneof("protocol") in layer4 or flow.l7.WhichOneof("record") in layer7


def _ip_version(_: str, values: Sequence[int]) -> Predicate:
    wanted = frozenset(values)
    return lambda flow: flow.IP.ipVersion in wanted


def _encrypted(_: str, values: Sequence[bool]) -> Predicate:
    wanted = frozenset(values)
    return lambda flow: flow.IP.encrypted in wanted


def _tcp_flags(where: str, values: Sequence[flow_pb2.TCPFlags]) -> Predicate:
    wanted = [[name for name in TCP_FLAG_NAMES if getattr(value, name)] for value in values]
    if not all(wanted):
        raise InvalidArgument.of_field(where, "no flag is set; set at least one")

    def predicate(flow: flow_pb2.Flow) -> bool:
        if flow.l4.WhichOneof("protocol") != "TCP" or not flow.l4.TCP.HasField("flags"):
            return False
        flags = flow.l4.TCP.flags
        return any(all(getattr(flags, name) for name in names) for names in wanted)

    return predicate


# --- what happened ---------------------------------------------------------------------------------------


def _number(attribute: str) -> Rule:
    def rule(_: str, values: Sequence[Any]) -> Predicate:
        wanted = frozenset(values)
        return lambda flow: getattr(flow, attribute) in wanted

    return rule


def _drop_reason(_: str, values: Sequence[int]) -> Predicate:
    wanted = frozenset(values)
    return lambda flow: flow.verdict == flow_pb2.DROPPED and flow.drop_reason_desc in wanted


def _event_type(_: str, values: Sequence[flow_pb2.EventTypeFilter]) -> Predicate:
    wanted = [(value.type, value.sub_type if value.match_sub_type else None) for value in values]

    def predicate(flow: flow_pb2.Flow) -> bool:
        event = flow.event_type
        return any(event.type == kind and sub in (None, event.sub_type) for kind, sub in wanted)

    return predicate


def _reply(_: str, values: Sequence[bool]) -> Predicate:
    wanted = frozenset(values)

    def predicate(flow: flow_pb2.Flow) -> bool:
        if flow.HasField("is_reply"):
            return flow.is_reply.value in wanted
        return flow.verdict == flow_pb2.DROPPED and False in wanted  # a dropped packet counts as a request

    return predicate


def _interface(_: str, values: Sequence[flow_pb2.NetworkInterface]) -> Predicate:
    wanted = [(value.index, value.name) for value in values]

    def predicate(flow: flow_pb2.Flow) -> bool:
        found = flow.interface
        return flow.HasField("interface") and any(
            index in (0, found.index) and name in ("", found.name) for index, name in wanted
        )

    return predicate


def _trace_id(_: str, values: Sequence[str]) -> Predicate:
    wanted = frozenset(values)
    return lambda flow: flow.trace_context.parent.trace_id in wanted


def _ip_trace_id(where: str, values: Sequence[int]) -> Predicate:
    if 0 in values:
        raise InvalidArgument.of_field(where, "0 is not a trace id")
    wanted = frozenset(values)
    return lambda flow: flow.ip_trace_id.trace_id in wanted


# --- layer 7 ---------------------------------------------------------------------------------------------


def _dns_query(where: str, values: Sequence[str]) -> Predicate:
    patterns = [_regex(where, value) for value in values]

    def predicate(flow: flow_pb2.Flow) -> bool:
        if flow.l7.WhichOneof("record") != "dns":
            return False
        return any(pattern.search(flow.l7.dns.query) for pattern in patterns)

    return predicate


def _regex(where: str, text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise InvalidArgument.of_field(where, f"{text!r} is not a regular expression: {error}") from error


def _http_status(where: str, values: Sequence[str]) -> Predicate:
    for value in values:
        if not re.fullmatch(r"[1-5](\d\d|\d?\+)", value):
            raise InvalidArgument.of_field(where, f"{value!r} is not a status code such as 503, 50+ or 5+")
    exact = frozenset(value for value in values if "+" not in value)
    prefixes = tuple(value.rstrip("+") for value in values if "+" in value)

    def predicate(flow: flow_pb2.Flow) -> bool:
        code = flow.l7.http.code if flow.l7.WhichOneof("record") == "http" else 0
        return code != 0 and (str(code) in exact or (bool(prefixes) and str(code).startswith(prefixes)))

    return predicate


def _http_method(_: str, values: Sequence[str]) -> Predicate:
    wanted = frozenset(value.lower() for value in values)
    return lambda flow: flow.l7.WhichOneof("record") == "http" and flow.l7.http.method.lower() in wanted


FIELD_RULES: Final[dict[str, Rule]] = {
    "uuid": _number("uuid"),
    "source_ip": _ip("source"),
    "source_ip_xlated": _ip("source_xlated"),
    "source_pod": _pod("source"),
    "source_fqdn": _fqdn("source"),
    "source_label": _label("source"),
    "source_service": _service("source"),
    "source_workload": _workload("source"),
    "source_cluster_name": _cluster("source"),
    "source_port": _port("source"),
    "source_identity": _identity("source"),
    "destination_ip": _ip("destination"),
    "destination_pod": _pod("destination"),
    "destination_fqdn": _fqdn("destination"),
    "destination_label": _label("destination"),
    "destination_service": _service("destination"),
    "destination_workload": _workload("destination"),
    "destination_cluster_name": _cluster("destination"),
    "destination_port": _port("destination"),
    "destination_identity": _identity("destination"),
    "traffic_direction": _number("traffic_direction"),
    "verdict": _number("verdict"),
    "drop_reason_desc": _drop_reason,
    "interface": _interface,
    "event_type": _event_type,
    "protocol": _protocol,
    "reply": _reply,
    "dns_query": _dns_query,
    "http_status_code": _http_status,
    "http_method": _http_method,
    "tcp_flags": _tcp_flags,
    "node_name": _node_name,
    "node_labels": _node_labels,
    "ip_version": _ip_version,
    "trace_id": _trace_id,
    "ip_trace_id": _ip_trace_id,
    "encrypted": _encrypted,
}

UNSUPPORTED_FIELDS: Final = ("http_path", "http_url", "http_header", "experimental")
"""Known fields that are refused for now; a test checks that both tables cover FlowFilter."""
