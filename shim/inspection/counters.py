"""Packets and bytes that the programs counted: of the node by direction and reason, and of each endpoint."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from axoneme.api.hubble.flow import flow_pb2
from axoneme.api.node.v1 import node_pb2
from axoneme.api.policy.v1 import policy_pb2
from axoneme.lib.bpf.maps import BpfMap, split_cpus
from shim.maps import layout

FORWARDED = 0


@dataclass(frozen=True, slots=True)
class CounterMaps:
    """The node's counters, those of endpoints, and their drops by reason."""

    node: BpfMap
    endpoints: BpfMap
    drops: BpfMap


def read(maps: CounterMaps) -> node_pb2.ListMetricsResponse:
    """Every counter that is not zero. Blocks: call it in a thread."""
    node = {_number(key): total(value) for key, value in maps.node.items()}
    lost = node.pop(layout.METRIC_LOST_EVENTS, (0, 0))
    metrics = [*_of_node(node), *_of_endpoints(maps.endpoints), *_drops(maps.drops)]
    return node_pb2.ListMetricsResponse(metrics=metrics, lost_events=lost[0])


def total(value: bytes) -> tuple[int, int]:
    """Packets and bytes over all CPUs."""
    slots = [layout.MetricEntry.unpack(one) for one in split_cpus(value, layout.MetricEntry.FORMAT.size)]
    return sum(one.packets for one in slots), sum(one.octets for one in slots)


def reason_name(reason: int) -> str:
    """Hubble's name of a drop reason; the number of one that it does not know."""
    if reason == FORWARDED:
        return "FORWARDED"
    known = flow_pb2.DropReason.DESCRIPTOR.values_by_number.get(reason)
    return known.name if known else str(reason)


def _of_node(counters: dict[int, tuple[int, int]]) -> Iterator[node_pb2.DatapathMetric]:
    for slot, counted in sorted(counters.items()):
        if any(counted):
            yield _metric(None, slot // layout.METRIC_REASONS + 1, slot % layout.METRIC_REASONS, counted)


def _of_endpoints(bpf_map: BpfMap) -> Iterator[node_pb2.DatapathMetric]:
    """What passed; what did not has its reasons in the other map."""
    for key, value in bpf_map.items():
        number, counted = _number(key), total(value)
        if not number & 1 and any(counted):
            yield _metric(number >> 2, (number >> 1 & 1) + 1, FORWARDED, counted)


def _drops(bpf_map: BpfMap) -> Iterator[node_pb2.DatapathMetric]:
    rows = [(layout.EndpointDropKey.unpack(key), value) for key, value in bpf_map.items()]
    for key, value in sorted(rows, key=lambda row: (row[0].endpoint_id, row[0].direction, row[0].reason)):
        yield _metric(key.endpoint_id, key.direction, key.reason, total(value))


def _metric(
    endpoint_id: int | None, direction: int, reason: int, counted: tuple[int, int]
) -> node_pb2.DatapathMetric:
    return node_pb2.DatapathMetric(
        endpoint_id=endpoint_id,
        direction=policy_pb2.Direction.ValueType(direction),
        reason=reason_name(reason),
        packets=counted[0],
        octets=counted[1],
    )


def _number(raw: bytes) -> int:
    return int(struct.unpack("=I", raw)[0])
