"""What happened to each endpoint: its newest steps and changes, kept a while beyond its end."""

from __future__ import annotations

import datetime as dt
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

from axoneme.api.node.v1 import node_pb2
from axoneme.lib.errors import NotFound
from shim.endpoints import Endpoint, EndpointTable

ENTRIES, GONE = 256, 256
"""Entries of one endpoint; endpoints that are gone and still remembered."""


@dataclass(frozen=True, slots=True)
class Happened:
    """One entry."""

    time: dt.datetime
    state: int
    message: str


class EndpointLog:
    """Listens to the table of endpoints."""

    def __init__(self, endpoints: EndpointTable, *, now: Callable[[], dt.datetime]) -> None:
        self._now = now
        self._entries: OrderedDict[int, deque[Happened]] = OrderedDict()
        self._known: dict[int, Endpoint] = {}
        for endpoint in endpoints:
            self._changed(endpoint.endpoint_id, endpoint)
        endpoints.listen(self._changed)

    def note(self, endpoint_id: int, message: str) -> None:
        """Something that somebody did to an endpoint without changing it."""
        known = self._known.get(endpoint_id)
        self._add(endpoint_id, int(known.state) if known else 0, message)

    def entries(self, endpoint_id: int) -> list[Happened]:
        """Oldest first. Raises NotFound for a number without entries."""
        found = self._entries.get(endpoint_id)
        if found is None:
            raise NotFound(
                f"endpoint {endpoint_id} was never seen on this node since its shim started",
                reason="ENDPOINT_NOT_FOUND",
            )
        return list(found)

    def message(self, endpoint_id: int) -> node_pb2.GetEndpointLogResponse:
        """The entries as the API has them."""
        response = node_pb2.GetEndpointLogResponse()
        for entry in self.entries(endpoint_id):
            added = response.entries.add(
                state=node_pb2.EndpointState.ValueType(entry.state), message=entry.message
            )
            added.time.FromDatetime(entry.time)
        return response

    def _changed(self, endpoint_id: int, endpoint: Endpoint | None) -> None:
        before = self._known.pop(endpoint_id, None)
        if endpoint is None:
            self._add(endpoint_id, 0, "removed")
            self._forget_oldest()
            return
        self._known[endpoint_id] = endpoint
        for message in differences(before, endpoint):
            self._add(endpoint_id, int(endpoint.state), message)

    def _add(self, endpoint_id: int, state: int, message: str) -> None:
        entries = self._entries.setdefault(endpoint_id, deque(maxlen=ENTRIES))
        entries.append(Happened(self._now(), state, message))
        self._entries.move_to_end(endpoint_id)

    def _forget_oldest(self) -> None:
        gone = [number for number in self._entries if number not in self._known]
        for number in gone[: max(len(gone) - GONE, 0)]:
            del self._entries[number]


def differences(before: Endpoint | None, after: Endpoint) -> list[str]:
    """What a change means, in words; empty when nothing that matters changed."""
    if before is None:
        ips = ", ".join(after.ips) or "no address"
        return [f"created as {after.name} with identity {after.identity} and {ips}"]
    found = []
    if before.state is not after.state or before.state_reason != after.state_reason:
        reason = f": {after.state_reason}" if after.state_reason else ""
        found.append(f"{before.state.name.lower()} -> {after.state.name.lower()}{reason}")
    if before.identity != after.identity:
        found.append(f"identity {before.identity} -> {after.identity}")
    if before.policy_generation != after.policy_generation:
        found.append(f"policy generation {after.policy_generation} is in the kernel")
    if before.interface_name != after.interface_name or before.ifindex != after.ifindex:
        found.append(f"interface {after.interface_name or 'none'}, index {after.ifindex}")
    if before.published != after.published:
        found.append("addresses published" if after.published else "addresses withdrawn")
    if before.audit != after.audit:
        found.append(f"policy auditing {'on' if after.audit else 'off'}")
    return found
