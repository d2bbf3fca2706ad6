"""Agent events of endpoints: there, gone, judged by another policy, or not."""

from __future__ import annotations

from functools import partial

from axoneme.api.hubble.flow import flow_pb2
from shim.agentevents.log import AgentEventLog
from shim.endpoints import Endpoint, EndpointState, EndpointTable


class EndpointEvents:
    """Listens to the table of endpoints."""

    def __init__(self, log: AgentEventLog, endpoints: EndpointTable) -> None:
        self._log = log
        self._known = {endpoint.endpoint_id: endpoint for endpoint in endpoints}
        endpoints.listen(self._changed)

    def _changed(self, number: int, endpoint: Endpoint | None) -> None:
        before = self._known.pop(number, None)
        if endpoint is None:
            if before is not None:
                self._log.add(partial(updated, flow_pb2.ENDPOINT_DELETED, before))
            return
        self._known[number] = endpoint
        if before is None:
            self._log.add(partial(updated, flow_pb2.ENDPOINT_CREATED, endpoint))
        elif _fails(endpoint) and (before.state, before.state_reason) != (
            endpoint.state,
            endpoint.state_reason,
        ):
            self._log.add(partial(regenerated, flow_pb2.ENDPOINT_REGENERATE_FAILURE, endpoint))
        elif before.policy_generation != endpoint.policy_generation:
            self._log.add(partial(regenerated, flow_pb2.ENDPOINT_REGENERATE_SUCCESS, endpoint))


def _fails(endpoint: Endpoint) -> bool:
    """A policy could not be applied: the last one stays, or the endpoint stays locked."""
    waiting = endpoint.state is EndpointState.LOCKED and bool(endpoint.state_reason)
    return endpoint.state is EndpointState.STALE or waiting


def updated(kind: flow_pb2.AgentEventType.ValueType, endpoint: Endpoint) -> flow_pb2.AgentEvent:
    """An endpoint appeared or went away."""
    update = flow_pb2.EndpointUpdateNotification(
        id=endpoint.endpoint_id,
        labels=endpoint.labels.texts(),
        pod_name=endpoint.pod_name,
        namespace=endpoint.namespace,
    )
    return flow_pb2.AgentEvent(type=kind, endpoint_update=update)


def regenerated(kind: flow_pb2.AgentEventType.ValueType, endpoint: Endpoint) -> flow_pb2.AgentEvent:
    """An endpoint's policy is in the kernel under a new generation, or could not be applied."""
    failed = kind == flow_pb2.ENDPOINT_REGENERATE_FAILURE
    regeneration = flow_pb2.EndpointRegenNotification(
        id=endpoint.endpoint_id,
        labels=endpoint.labels.texts(),
        error=endpoint.state_reason if failed else "",
    )
    return flow_pb2.AgentEvent(type=kind, endpoint_regenerate=regeneration)
