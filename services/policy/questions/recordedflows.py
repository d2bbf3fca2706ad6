"""Recorded flows reduced to what policy looks at: who, whom, protocol and port, counted once.

Replies and flows without IP or a transport are left out: policy never looked at them. Reads the jsonpb
lines that `axoneme observe -o jsonpb` and the hubble CLI write.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from axoneme.api.hubble.flow import flow_pb2
from axoneme.api.hubble.observer import observer_pb2
from axoneme.api.policy.v1 import policy_pb2 as pb
from axoneme.lib import identities

MAX_NAMES = 20
"""As many as the service takes."""
_OUTSIDE = frozenset({identities.WORLD, identities.WORLD_IPV4, identities.WORLD_IPV6})


@dataclass(slots=True)
class Recording:
    """Distinct flows with how often they were seen, and how many records say nothing about policy."""

    counts: Counter[bytes] = field(default_factory=Counter)
    skipped: int = 0

    @property
    def total(self) -> int:
        """How many records are judged."""
        return self.counts.total()

    def flows(self) -> Iterator[tuple[pb.RecordedFlow, int]]:
        """Each distinct flow with its count, the most frequent first."""
        for raw, count in sorted(self.counts.items(), key=lambda item: (-item[1], item[0])):
            yield pb.RecordedFlow.FromString(raw), count


def record(responses: Iterable[observer_pb2.GetFlowsResponse]) -> Recording:
    """Reduce the flows of an observer's answer."""
    recording = Recording()
    for response in responses:
        if not response.HasField("flow"):
            continue
        reduced = reduce(response.flow)
        if reduced is None:
            recording.skipped += 1
        else:
            recording.counts[reduced.SerializeToString(deterministic=True)] += 1
    return recording


def reduce(flow: flow_pb2.Flow) -> pb.RecordedFlow | None:
    """What policy would be asked about a flow; None for replies and for what has no ports."""
    port = _destination_port(flow)
    if port is None or not flow.HasField("IP") or (flow.HasField("is_reply") and flow.is_reply.value):
        return None
    found = pb.RecordedFlow(protocol=port[0], port=port[1])
    found.source.CopyFrom(_party(flow.source, flow.IP.source))
    found.destination.CopyFrom(_party(flow.destination, flow.IP.destination))
    if found.destination.WhichOneof("kind") == "ip":
        found.destination.dns_names.extend(sorted(flow.destination_names)[:MAX_NAMES])
    return found


def _destination_port(flow: flow_pb2.Flow) -> tuple[int, int] | None:
    kind = flow.l4.WhichOneof("protocol")
    if kind in ("TCP", "UDP", "SCTP"):
        numbers = {"TCP": 6, "UDP": 17, "SCTP": 132}
        return numbers[kind], getattr(flow.l4, kind).destination_port
    if kind == "ICMPv4":
        return 1, flow.l4.ICMPv4.type
    if kind == "ICMPv6":
        return 58, flow.l4.ICMPv6.type
    return None


def _party(end: flow_pb2.Endpoint, ip: str) -> pb.FlowParty:
    outside = end.identity in _OUTSIDE or identities.is_local(end.identity)
    if outside or not end.labels:
        if end.identity and not outside:
            return pb.FlowParty(identity=end.identity)
        return pb.FlowParty(ip=ip)
    return pb.FlowParty(labels=pb.LabelTexts(labels=sorted(end.labels)))
