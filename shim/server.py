"""The node API: endpoints of this node, and what its kernel holds. Decode, call, encode; no rule lives
here."""

# ruff: noqa: ARG002  (gRPC fixes the signatures)

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol, TypeVar

import grpc

from axoneme.api.node.v1 import node_pb2, node_pb2_grpc
from axoneme.lib.errors import InvalidArgument, ResourceExhausted
from axoneme.lib.pagination import page
from axoneme.lib.policy.model import MapKey
from axoneme.lib.requests import RequestLog
from shim.audit import MapAudit
from shim.cookies import CookieTable
from shim.endpoints import Endpoint, EndpointTable
from shim.health.report import HealthReport
from shim.inspection.service import Inspection, InspectionMethods
from shim.ipcache import IpcacheMerge, IpcacheValue
from shim.maps import layout
from shim.messages import endpoint_message, ipcache_entry_message, policy_entry_message
from shim.policies import PolicySink
from shim.reconciler import Table
from shim.requests import decode_wanted
from shim.status import NodeStatus
from shim.workloads import Workloads

Context = grpc.aio.ServicerContext[Any, Any]

MAX_WATCH_BACKLOG = 10_000
_Answer = TypeVar("_Answer")


class _Repeatable(Protocol):
    """A request that may come again after a lost answer."""

    request_id: str

    def SerializeToString(self, *, deterministic: bool = ...) -> bytes: ...


class NodeService(InspectionMethods, node_pb2_grpc.NodeServiceServicer):
    """Serves one node on its unix socket."""

    def __init__(
        self,
        *,
        endpoints: EndpointTable,
        workloads: Workloads,
        policies: PolicySink,
        cookies: CookieTable,
        merge: IpcacheMerge,
        ipcache_table: Table[str, IpcacheValue],
        audit: MapAudit,
        status: NodeStatus,
        health: HealthReport,
        inspection: Inspection,
        requests: RequestLog,
    ) -> None:
        self._inspection = inspection
        self._endpoints = endpoints
        self._workloads = workloads
        self._policies = policies
        self._cookies = cookies
        self._merge = merge
        self._ipcache_table = ipcache_table
        self._audit = audit
        self._status = status
        self._health = health
        self._requests = requests

    def add_to(self, server: grpc.aio.Server) -> list[str]:
        """Adds the service and returns its name for health and reflection."""
        node_pb2_grpc.add_NodeServiceServicer_to_server(self, server)
        return [node_pb2.DESCRIPTOR.services_by_name["NodeService"].full_name]

    async def AddEndpoint(
        self, request: node_pb2.AddEndpointRequest, context: Context
    ) -> node_pb2.AddEndpointResponse:
        """Creates an endpoint."""
        wanted = decode_wanted(request)

        async def add() -> node_pb2.AddEndpointResponse:
            # The caller may give up; the endpoint is finished or undone all the same.
            endpoint = await asyncio.shield(self._workloads.add(wanted))
            return node_pb2.AddEndpointResponse(endpoint=self._message(endpoint))

        return await self._once(request, "AddEndpoint", add)

    async def DeleteEndpoint(
        self, request: node_pb2.DeleteEndpointRequest, context: Context
    ) -> node_pb2.DeleteEndpointResponse:
        """Removes an endpoint."""

        async def delete() -> node_pb2.DeleteEndpointResponse:
            await asyncio.shield(self._workloads.delete(request.endpoint_id))
            return node_pb2.DeleteEndpointResponse()

        return await self._once(request, "DeleteEndpoint", delete)

    async def GetEndpoint(
        self, request: node_pb2.GetEndpointRequest, context: Context
    ) -> node_pb2.GetEndpointResponse:
        """Returns one endpoint."""
        endpoint = self._endpoints.require(request.endpoint_id)
        return node_pb2.GetEndpointResponse(endpoint=self._message(endpoint))

    async def SetEndpointAudit(
        self, request: node_pb2.SetEndpointAuditRequest, context: Context
    ) -> node_pb2.SetEndpointAuditResponse:
        """Switches policy auditing of one endpoint."""

        async def switch() -> node_pb2.SetEndpointAuditResponse:
            endpoint = await asyncio.shield(
                self._workloads.switches.set_audit(request.endpoint_id, request.audit)
            )
            return node_pb2.SetEndpointAuditResponse(endpoint=self._message(endpoint))

        return await self._once(request, "SetEndpointAudit", switch)

    async def SetEndpointConfig(
        self, request: node_pb2.SetEndpointConfigRequest, context: Context
    ) -> node_pb2.SetEndpointConfigResponse:
        """Changes the switches that are set."""
        audit = request.audit if request.HasField("audit") else None
        level = request.aggregation if request.HasField("aggregation") else None
        if level is not None and level not in node_pb2.AggregationLevel.values():
            raise InvalidArgument.of_field("aggregation", f"{level} is no level")

        async def change() -> node_pb2.SetEndpointConfigResponse:
            endpoint = await asyncio.shield(
                self._workloads.switches.configure(request.endpoint_id, audit=audit, aggregation=level)
            )
            return node_pb2.SetEndpointConfigResponse(endpoint=self._message(endpoint))

        return await self._once(request, "SetEndpointConfig", change)

    async def RegenerateEndpoint(
        self, request: node_pb2.RegenerateEndpointRequest, context: Context
    ) -> node_pb2.RegenerateEndpointResponse:
        """Attaches and computes anew; the audit says what was wrong before."""

        async def regenerate() -> node_pb2.RegenerateEndpointResponse:
            repairs = await asyncio.shield(self._workloads.switches.regenerate(request.endpoint_id))
            repairs += await asyncio.shield(self._audit.run())
            self._inspection.log.note(request.endpoint_id, f"regenerated, {len(repairs)} repairs")
            endpoint = self._endpoints.require(request.endpoint_id)
            return node_pb2.RegenerateEndpointResponse(endpoint=self._message(endpoint), repairs=repairs)

        return await self._once(request, "RegenerateEndpoint", regenerate)

    async def ListEndpoints(
        self, request: node_pb2.ListEndpointsRequest, context: Context
    ) -> node_pb2.ListEndpointsResponse:
        """Lists endpoints by number."""
        found = [e for e in self._endpoints if _matches(e, request.filter)]
        chosen, token = page(found, lambda e: f"{e.endpoint_id:05d}", request.page_size, request.page_token)
        return node_pb2.ListEndpointsResponse(
            endpoints=[self._message(e) for e in chosen],
            next_page_token=token,
            revision=self._endpoints.revision,
        )

    async def WatchEndpoints(
        self, request: node_pb2.WatchEndpointsRequest, context: Context
    ) -> AsyncIterator[node_pb2.WatchEndpointsResponse]:
        """All endpoints, a bookmark, then changes; a reader that falls behind by too much is ended."""
        queue: asyncio.Queue[tuple[int, Endpoint | None]] = asyncio.Queue()
        stop = self._endpoints.listen(lambda number, endpoint: queue.put_nowait((number, endpoint)))
        try:
            for endpoint in self._endpoints:
                yield node_pb2.WatchEndpointsResponse(put=self._message(endpoint))
            yield node_pb2.WatchEndpointsResponse(bookmark=True)
            while True:
                number, changed = await queue.get()
                if queue.qsize() > MAX_WATCH_BACKLOG:
                    raise ResourceExhausted("too many endpoint changes are unread; watch again")
                if changed is None:
                    yield node_pb2.WatchEndpointsResponse(deleted=number)
                else:
                    yield node_pb2.WatchEndpointsResponse(put=self._message(changed))
        finally:
            stop()

    async def ListIpcache(
        self, request: node_pb2.ListIpcacheRequest, context: Context
    ) -> node_pb2.ListIpcacheResponse:
        """Lists what the kernel's two ipcache maps hold."""
        found = [(prefix, value) for prefix, value in self._ipcache_table.items() if request.filter in prefix]
        found.sort(key=lambda item: _order(item[0]))
        chosen, token = page(found, lambda item: _order(item[0]), request.page_size, request.page_token)
        return node_pb2.ListIpcacheResponse(
            entries=[ipcache_entry_message(prefix, value, self._merge) for prefix, value in chosen],
            next_page_token=token,
        )

    async def GetPolicyMap(
        self, request: node_pb2.GetPolicyMapRequest, context: Context
    ) -> node_pb2.GetPolicyMapResponse:
        """Lists what the kernel's policy map of an endpoint, or of the host (0), holds, if it has one."""
        endpoint = self._policies.holder(request.endpoint_id)
        bpf_map = self._policies.map_of(endpoint.endpoint_id)
        rows = [] if bpf_map is None else bpf_map.items()
        decoded = sorted((layout.policy_key_from_bytes(key), value) for key, value in rows)
        return node_pb2.GetPolicyMapResponse(
            entries=[self._policy_entry(key, value) for key, value in decoded],
            policy_generation=endpoint.policy_generation,
            max_entries=layout.POLICY_INNER.max_entries,
        )

    async def GetNodeStatus(
        self, request: node_pb2.GetNodeStatusRequest, context: Context
    ) -> node_pb2.GetNodeStatusResponse:
        """The health of the node."""
        return self._status.message()

    async def AuditMaps(
        self, request: node_pb2.AuditMapsRequest, context: Context
    ) -> node_pb2.AuditMapsResponse:
        """Audits now."""
        return node_pb2.AuditMapsResponse(repairs=await self._audit.run())

    async def GetHealth(
        self, request: node_pb2.GetHealthRequest, context: Context
    ) -> node_pb2.GetHealthResponse:
        """What this node reaches."""
        return await self._health.answer(probe=request.probe)

    def _message(self, endpoint: Endpoint) -> node_pb2.Endpoint:
        policy = self._policies.in_force(endpoint.endpoint_id)
        return endpoint_message(endpoint, policy, audits_all=self._workloads.switches.audits_all)

    def _policy_entry(self, key: MapKey, value: bytes) -> node_pb2.PolicyMapEntry:
        entry = layout.PolicyEntry.unpack(value)
        return policy_entry_message(key, entry, self._cookies.origins_of(entry.cookie))

    async def _once(
        self, request: _Repeatable, name: str, doing: Callable[[], Awaitable[_Answer]]
    ) -> _Answer:
        """What a request id asks for is done once; a repetition gets the same answer."""
        content = request.SerializeToString(deterministic=True)
        return await self._requests.run("local", name, request.request_id, doing, content=content)


def _matches(endpoint: Endpoint, text: str) -> bool:
    return not text or text in endpoint.name or any(text in label for label in endpoint.labels.texts())


def _order(prefix: str) -> str:
    """Sorts IPv4 before IPv6, then by address, then shorter prefixes first."""
    network = ipaddress.ip_network(prefix)
    return f"{network.version} {network.network_address.packed.hex()} {network.prefixlen:03d}"
