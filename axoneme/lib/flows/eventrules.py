"""Filter fields that look at what happened: verdict, event, reason, direction, interface, trace."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from axoneme.api.hubble.flow import flow_pb2
from axoneme.lib.errors import InvalidArgument
from axoneme.lib.flows.rule import Predicate, Rule


def number(attribute: str) -> Rule:
    """One of several values of a field of the flow."""

    def rule(_: str, values: Sequence[Any]) -> Predicate:
        wanted = frozenset(values)
        return lambda flow: getattr(flow, attribute) in wanted

    return rule


def drop_reason(_: str, values: Sequence[int]) -> Predicate:
    """The reason of a drop; flows that were not dropped have none."""
    wanted = frozenset(values)
    return lambda flow: flow.verdict == flow_pb2.DROPPED and flow.drop_reason_desc in wanted


def event_type(_: str, values: Sequence[flow_pb2.EventTypeFilter]) -> Predicate:
    """Kind of the event, and its sub type when that is to match."""
    wanted = [(value.type, value.sub_type if value.match_sub_type else None) for value in values]

    def predicate(flow: flow_pb2.Flow) -> bool:
        event = flow.event_type
        return any(event.type == kind and sub in (None, event.sub_type) for kind, sub in wanted)

    return predicate


def reply(_: str, values: Sequence[bool]) -> Predicate:
    """Whether the packet is a reply."""
    wanted = frozenset(values)

    def predicate(flow: flow_pb2.Flow) -> bool:
        if flow.HasField("is_reply"):
            return flow.is_reply.value in wanted
        return flow.verdict == flow_pb2.DROPPED and False in wanted  # a dropped packet counts as a request

    return predicate


def interface(_: str, values: Sequence[flow_pb2.NetworkInterface]) -> Predicate:
    """The interface by index, name or both."""
    wanted = [(value.index, value.name) for value in values]

    def predicate(flow: flow_pb2.Flow) -> bool:
        found = flow.interface
        return flow.HasField("interface") and any(
            index in (0, found.index) and name in ("", found.name) for index, name in wanted
        )

    return predicate


def trace_id(_: str, values: Sequence[str]) -> Predicate:
    """The trace that the flow belongs to."""
    wanted = frozenset(values)
    return lambda flow: flow.trace_context.parent.trace_id in wanted


def ip_trace_id(where: str, values: Sequence[int]) -> Predicate:
    """The trace number inside the packet."""
    if 0 in values:
        raise InvalidArgument.of_field(where, "0 is not a trace id")
    wanted = frozenset(values)
    return lambda flow: flow.ip_trace_id.trace_id in wanted
