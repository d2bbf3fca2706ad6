"""Wires the log of agent events to the node's tables."""

from __future__ import annotations

from functools import partial

from google.protobuf.timestamp_pb2 import Timestamp

from axoneme.api.hubble.flow import flow_pb2
from shim.agentevents.addresses import AddressEvents
from shim.agentevents.endpoints import EndpointEvents
from shim.agentevents.log import AgentEventLog
from shim.agentevents.policies import PolicyEvents
from shim.agentevents.services import ServiceEvents
from shim.endpoints import Endpoint
from shim.nodeparts import NodeParts


def recorded(parts: NodeParts, log: AgentEventLog) -> AgentEventLog:
    """From now on the log has what happens to endpoints, addresses, policies and services."""
    log.add(partial(_started, log.now_ns()))
    EndpointEvents(log, parts.endpoints)
    AddressEvents(log, parts.ipcache.merge)
    ServiceEvents(log, parts.balancer)

    def judged() -> list[Endpoint]:
        return [*parts.endpoints, *([parts.host.endpoint] if parts.host is not None else [])]

    policies = PolicyEvents(log, parts.policies.in_force, judged)
    parts.policies.judged_by.listen(policies.switched)
    return log


def _started(now_ns: int) -> flow_pb2.AgentEvent:
    time = Timestamp()
    time.FromNanoseconds(now_ns)
    return flow_pb2.AgentEvent(type=flow_pb2.AGENT_STARTED, agent_start=flow_pb2.TimeNotification(time=time))
