"""Debug events: each decision of the datapath's programs in the words of Hubble's debug messages.

The programs have one kind of record, which flows are made of; they write no debug messages beside it. A
debug event is such a record read as the step that it reports: a policy that matched or denied, a delivery, an
encapsulation, a drop. How many of them there are is a switch of the endpoint: aggregation `none` reports
every packet. Mark and processor are not recorded and stay absent. Arguments 1 and 2 are the identities of
source and destination, argument 3 is the interface.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from google.protobuf.wrappers_pb2 import UInt32Value

from axoneme.api.hubble.flow import flow_pb2
from axoneme.api.hubble.observer import observer_pb2
from shim.flows import record
from shim.flows.answer import Answer, Source
from shim.flows.decode import FlowDecoder

Response = observer_pb2.GetDebugEventsResponse
_STEPS: Final[dict[int, tuple[flow_pb2.DebugEventType.ValueType, str]]] = {
    flow_pb2.TO_ENDPOINT: (flow_pb2.DBG_LOCAL_DELIVERY, "Delivering to the local endpoint"),
    flow_pb2.TO_HOST: (flow_pb2.DBG_TO_HOST, "Going to the host"),
    flow_pb2.TO_STACK: (flow_pb2.DBG_TO_STACK, "Going to the stack"),
    flow_pb2.TO_OVERLAY: (flow_pb2.DBG_ENCAP, "Encapsulating"),
    flow_pb2.FROM_OVERLAY: (flow_pb2.DBG_DECAP, "Decapsulated"),
}
_DENYING: Final = (flow_pb2.DROPPED, flow_pb2.ERROR)


async def debug_events(
    request: observer_pb2.GetDebugEventsRequest,
    sources: Sequence[Source],
    names: FlowDecoder,
    boot_clock_ns: Callable[[], int],
) -> AsyncIterator[Response]:
    """What a request gets of the records in `sources`: number, first, follow and times as in GetFlows."""
    asked = observer_pb2.GetFlowsRequest(number=request.number, first=request.first, follow=request.follow)
    if request.HasField("since"):
        asked.since.CopyFrom(request.since)
    if request.HasField("until"):
        asked.until.CopyFrom(request.until)
    async for response in Answer(asked, sources, names, boot_clock_ns).responses():
        event = _lost(response.lost_events) if response.HasField("lost_events") else event_of(response.flow)
        yield Response(debug_event=event, node_name=response.node_name, time=response.time)


def event_of(flow: flow_pb2.Flow) -> flow_pb2.DebugEvent:
    """The step that a flow reports."""
    kind, step = _step(flow)
    seen_by = flow.destination if flow.traffic_direction == flow_pb2.INGRESS else flow.source
    return flow_pb2.DebugEvent(
        type=kind,
        source=seen_by,
        arg1=UInt32Value(value=flow.source.identity),
        arg2=UInt32Value(value=flow.destination.identity),
        arg3=UInt32Value(value=flow.interface.index) if flow.interface.index else None,
        message=f"{step}: {_end(flow, 'source')} -> {_end(flow, 'destination')} ({flow.Summary})",
    )


def _step(flow: flow_pb2.Flow) -> tuple[flow_pb2.DebugEventType.ValueType, str]:
    identities = f"from {flow.source.identity} to {flow.destination.identity}"
    if flow.event_type.type == record.POLICY_VERDICT:
        if flow.verdict in _DENYING:
            return flow_pb2.DBG_POLICY_DENIED, f"Policy evaluation would deny packet {identities}"
        return flow_pb2.DBG_L4_POLICY, f"Policy lets a new connection pass {identities}"
    if flow.event_type.type == record.DROP:
        reason = flow_pb2.DropReason.Name(flow.drop_reason_desc)
        return flow_pb2.DBG_GENERIC, f"Dropped, {reason} ({flow.drop_reason})"
    point = flow.trace_observation_point
    name = flow_pb2.TraceObservationPoint.Name(point).lower().replace("_", "-")
    return _STEPS.get(point, (flow_pb2.DBG_GENERIC, f"At {name}"))


def _end(flow: flow_pb2.Flow, side: str) -> str:
    address = str(getattr(flow.IP, side))
    layer4 = flow.l4.WhichOneof("protocol")
    port = getattr(getattr(flow.l4, layer4), f"{side}_port", 0) if layer4 else 0
    if not port:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _lost(lost: flow_pb2.LostEvent) -> flow_pb2.DebugEvent:
    source = flow_pb2.LostEventSource.Name(lost.source)
    text = f"{lost.num_events_lost} events were lost ({source})"
    return flow_pb2.DebugEvent(type=flow_pb2.DBG_GENERIC, message=text)
