"""The health of a node in numbers and in words; each problem says what to look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from axoneme.api.node.v1 import node_pb2
from axoneme.lib.bpf.features import REQUIRED
from axoneme.lib.bpf.maps import split_cpus
from axoneme.lib.intentstream import StreamState
from shim.audit import MapAudit
from shim.datapath import Datapath
from shim.endpoints import EndpointState, EndpointTable
from shim.features import PRESENT
from shim.links import LinkCheck
from shim.maps import layout
from shim.maps.levels import map_levels
from shim.membership import Membership

FULL_SHARE = 0.9
MAX_NAMED = 10
SERVICE_BY_STREAM = {
    "SubscribeIpcache": "identity",
    "SubscribeNodes": "identity",
    "SubscribeEndpointPolicies": "policy",
    "SubscribeServices": "clustermesh",
    "SubscribeNames": "fqdn",
    "SyncRedirects": "fqdn",
}
_TOLD_BY_ITS_PART = "SyncRedirects"
_NO_PART_OF_POLICY = ("clustermesh", "fqdn")
"""An endpoint may start before their first snapshot."""


class NodeStatus:
    """Collects the answer of GetNodeStatus."""

    def __init__(
        self,
        *,
        node_name: str,
        cluster_name: str,
        version: str,
        endpoints: EndpointTable,
        datapath: Datapath,
        membership: Membership,
        audit: MapAudit,
        links: LinkCheck,
        streams: Callable[[], Sequence[StreamState]],
        lost_events: Callable[[], int],
        policy_audit: bool = False,
        parts: Sequence[Callable[[], Iterable[str]]] = (),
    ) -> None:
        """`parts` say in words what is wrong with them."""
        self.features: dict[str, str] = {}
        self._node_name, self._cluster_name, self._version = node_name, cluster_name, version
        self._endpoints = endpoints
        self._datapath = datapath
        self._membership = membership
        self._audit = audit
        self._links = links
        self._streams = streams
        self._lost_events = lost_events
        self._policy_audit = policy_audit
        self._parts = parts

    def message(self) -> node_pb2.GetNodeStatusResponse:
        """Everything at this moment."""
        levels = list(map_levels(self._datapath.maps))
        answer = node_pb2.GetNodeStatusResponse(
            node_name=self._node_name,
            cluster=self._cluster_name,
            version=self._version,
            simulated=self._datapath.simulated,
            streams=[_stream(state) for state in self._streams()],
            maps=[node_pb2.MapStatus(name=n, entries=held, max_entries=room) for n, held, room in levels],
            endpoints=dict(Counter(one.state.name for one in self._endpoints if not one.is_own)),
            problems=self.problems(levels),
            features=self.features,
            audit_repairs=self._audit.repairs,
            lost_events=self._lost_events(),
        )
        if self._audit.last_time is not None:
            answer.last_audit_time.FromDatetime(self._audit.last_time)
        return answer

    def problems(self, levels: Iterable[tuple[str, int, int]] = ()) -> list[str]:
        """What is wrong, in words."""
        found = [] if not self._membership.problem else [self._membership.problem]
        if self._policy_audit:
            found.append("policy denials are reported and not enforced on this node; switch policy_audit off")
        for state in self._streams():
            if state.name != _TOLD_BY_ITS_PART:
                found += stream_problems(state)
        for endpoint in self._endpoints:
            if endpoint.state is not EndpointState.READY:
                found.append(
                    f"endpoint {endpoint.endpoint_id} ({endpoint.name}) is {endpoint.state.name}: "
                    f"{endpoint.state_reason}"
                )
        for name, held, room in levels:
            if room and held >= FULL_SHARE * room:
                found.append(
                    f"map {name} holds {held} of {room} entries; new ones will be refused when it is full"
                )
        for part in self._parts:
            found += part()
        found += self._links.problems()
        if self._audit.problem:
            found.append(self._audit.problem)
        lacking = {name: self.features.get(name, PRESENT) for name in REQUIRED}
        if missing := [f"{name} ({reason})" for name, reason in lacking.items() if reason != PRESENT]:
            found.append(f"this kernel lacks {', '.join(missing)}")
        return found

    def not_ready(self) -> str | None:
        """Why the node cannot serve new endpoints yet; None when it can."""
        if not self._membership.registered:
            return self._membership.problem
        streams = [one for one in self._streams() if _service_of(one) not in _NO_PART_OF_POLICY]
        waiting = [state for state in streams if not state.synced]
        return stream_problems(waiting[0])[0] if waiting else None


def stream_problems(state: StreamState) -> list[str]:
    """What is wrong with a stream, in words."""
    service = _service_of(state)
    found = []
    why = state.error.partition("; last error")[0]
    if not state.synced:
        found.append(
            f"{state.name} has not brought its first snapshot ({why or 'waiting'}); "
            f"is the {service} service reachable?"
        )
    elif state.stale_seconds > 0:
        found.append(
            f"{state.name} is stale for {state.stale_seconds:.0f} s ({why or 'silent'}): "
            f"the last state stays in force; is the {service} service reachable?"
        )
    for key, failure in sorted(state.failures.items())[:MAX_NAMED]:
        found.append(f"{key} is not in the kernel: {failure.message} ({failure.reason}); it is tried again")
    if (more := len(state.failures) - MAX_NAMED) > 0:
        found.append(f"{state.name}: {more} more resources are not in the kernel; they are tried again")
    return found


def _service_of(state: StreamState) -> str:
    return SERVICE_BY_STREAM.get(state.name, "responsible")


def lost_events_of(datapath: Datapath) -> int:
    """Events that found no room in the ring, over all CPUs."""
    metrics = datapath.maps[layout.METRICS.name]
    raw = metrics.lookup(layout.lost_events_key())
    if raw is None:
        return 0
    return sum(layout.MetricEntry.unpack(slot).packets for slot in split_cpus(raw, metrics.value_size))


def _stream(state: StreamState) -> node_pb2.StreamStatus:
    return node_pb2.StreamStatus(
        name=state.name,
        synced=state.synced,
        stale_seconds=state.stale_seconds,
        epoch=state.epoch,
        revision=state.revision,
        error=state.error,
        failures=len(state.failures),
    )
