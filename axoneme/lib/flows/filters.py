"""Flow filters of the Hubble API, compiled to predicates over `flow.Flow`.

Within one filter all set fields must hold, values of one field are alternatives; filters of a whitelist are
alternatives, an empty whitelist takes all, and the blacklist is taken away. The observer, the relay's clients
and `axoneme observe --input-file` share this module. A field that is not understood is refused by name, for a
filter that is skipped shows flows that were to be hidden. The rules of the fields stand in modules by what
they look at; the table FIELD_RULES ties them together and a test checks that it names every field.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from axoneme.api.hubble.flow import flow_pb2
from axoneme.lib.errors import InvalidArgument, Unsupported
from axoneme.lib.flows import addressrules, celrules, eventrules, layer7rules, namerules
from axoneme.lib.flows.rule import Predicate, Rule

_L7_EVENT: Final = 129

FIELD_RULES: Final[dict[str, Rule]] = {
    "uuid": eventrules.number("uuid"),
    "source_ip": addressrules.ip("source"),
    "source_ip_xlated": addressrules.ip("source_xlated"),
    "source_pod": namerules.pod("source"),
    "source_fqdn": namerules.fqdn("source"),
    "source_label": namerules.label("source"),
    "source_service": namerules.service("source"),
    "source_workload": namerules.workload("source"),
    "source_cluster_name": namerules.cluster("source"),
    "source_port": addressrules.port("source"),
    "source_identity": namerules.identity("source"),
    "destination_ip": addressrules.ip("destination"),
    "destination_pod": namerules.pod("destination"),
    "destination_fqdn": namerules.fqdn("destination"),
    "destination_label": namerules.label("destination"),
    "destination_service": namerules.service("destination"),
    "destination_workload": namerules.workload("destination"),
    "destination_cluster_name": namerules.cluster("destination"),
    "destination_port": addressrules.port("destination"),
    "destination_identity": namerules.identity("destination"),
    "traffic_direction": eventrules.number("traffic_direction"),
    "verdict": eventrules.number("verdict"),
    "drop_reason_desc": eventrules.drop_reason,
    "interface": eventrules.interface,
    "event_type": eventrules.event_type,
    "protocol": addressrules.protocol,
    "reply": eventrules.reply,
    "dns_query": layer7rules.dns_query,
    "http_status_code": layer7rules.http_status,
    "http_method": layer7rules.http_method,
    "http_path": layer7rules.http_path,
    "http_url": layer7rules.http_url,
    "http_header": layer7rules.http_header,
    "tcp_flags": addressrules.tcp_flags,
    "node_name": namerules.node_name,
    "node_labels": namerules.node_labels,
    "ip_version": addressrules.ip_version,
    "trace_id": eventrules.trace_id,
    "ip_trace_id": eventrules.ip_trace_id,
    "encrypted": addressrules.encrypted,
    "experimental": celrules.experimental,
}
"""A test checks that the table covers FlowFilter."""


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
