"""The node API: endpoints of this node, and what its kernel holds. Decode, call, encode; no rule lives
here."""

# ruff: noqa: ARG002  (gRPC fixes the signatures)

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import AsyncIterator
from typing import Any

import grpc

from axoneme.api.node.v1 import node_pb2, node_pb2_grpc
from axoneme.api.policy.v1 import policy_pb2
from axoneme.lib.errors import InvalidArgument, ResourceExhausted
from axoneme.lib.pagination import page
from axoneme.lib.policy.model import Direction, MapKey, Origin
from axoneme.lib.requests import RequestLog
from shim.audit import MapAudit
from shim.cookies import CookieTable
from shim.endpoints import Endpoint, EndpointTable
from shim.health.report import HealthReport
from shim.hostports import decode_host_ports, host_ports_message
from shim.inspection.service import Inspection, InspectionMethods
from shim.ipam import decode_ips
from shim.ipcache import IpcacheMerge, IpcacheValue
from shim.maps import layout
from shim.namedports import decode_named_ports, named_ports_message
from shim.policies import PolicySink
from shim.privileged import protocol
from shim.reconciler import Table
from shim.status import NodeStatus
from shim.wanted import Wanted
from shim.workloads import Workloads

Context = grpc.aio.ServicerContext[Any, Any]

MAX_WATCH_BACKLOG = 10_000
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


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

        content = request.SerializeToString(deterministic=True)
        return await self._requests.run("local", "AddEndpoint", request.request_id, add, content=content)

    async def DeleteEndpoint(
        self, request: node_pb2.DeleteEndpointRequest, context: Context
    ) -> node_pb2.DeleteEndpointResponse:
        """Removes an endpoint."""

        async def delete() -> node_pb2.DeleteEndpointResponse:
            await asyncio.shield(self._workloads.delete(request.endpoint_id))
            return node_pb2.DeleteEndpointResponse()

        content = request.SerializeToString(deterministic=True)
        return await self._requests.run(
            "local", "DeleteEndpoint", request.request_id, delete, content=content
        )

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
            endpoint = await asyncio.shield(self._workloads.set_audit(request.endpoint_id, request.audit))
            return node_pb2.SetEndpointAuditResponse(endpoint=self._message(endpoint))

        content = request.SerializeToString(deterministic=True)
        return await self._requests.run(
            "local", "SetEndpointAudit", request.request_id, switch, content=content
        )

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
                self._workloads.configure(request.endpoint_id, audit=audit, aggregation=level)
            )
            return node_pb2.SetEndpointConfigResponse(endpoint=self._message(endpoint))

        content = request.SerializeToString(deterministic=True)
        return await self._requests.run(
            "local", "SetEndpointConfig", request.request_id, change, content=content
        )

    async def RegenerateEndpoint(
        self, request: node_pb2.RegenerateEndpointRequest, context: Context
    ) -> node_pb2.RegenerateEndpointResponse:
        """Attaches and computes anew; the audit says what was wrong before."""

        async def regenerate() -> node_pb2.RegenerateEndpointResponse:
            repairs = await asyncio.shield(self._workloads.regenerate(request.endpoint_id))
            repairs += await asyncio.shield(self._audit.run())
            self._inspection.log.note(request.endpoint_id, f"regenerated, {len(repairs)} repairs")
            endpoint = self._endpoints.require(request.endpoint_id)
            return node_pb2.RegenerateEndpointResponse(endpoint=self._message(endpoint), repairs=repairs)

        content = request.SerializeToString(deterministic=True)
        return await self._requests.run(
            "local", "RegenerateEndpoint", request.request_id, regenerate, content=content
        )

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
            entries=[self._ipcache_entry(prefix, value) for prefix, value in chosen], next_page_token=token
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
            entries=[self._policy_entry(key, layout.PolicyEntry.unpack(value)) for key, value in decoded],
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
        return node_pb2.Endpoint(
            endpoint_id=endpoint.endpoint_id,
            namespace=endpoint.namespace,
            pod_name=endpoint.pod_name,
            labels=endpoint.labels.texts(),
            identity=endpoint.identity,
            ips=endpoint.ips,
            interface_name=endpoint.interface_name,
            state=node_pb2.EndpointState.ValueType(endpoint.state),
            state_reason=endpoint.state_reason,
            netns=endpoint.netns,
            ingress=policy_pb2.Enforcement.ValueType(policy.ingress if policy else 0),
            egress=policy_pb2.Enforcement.ValueType(policy.egress if policy else 0),
            policy_generation=endpoint.policy_generation,
            named_ports=named_ports_message(endpoint.named_ports),
            audit=endpoint.audit or self._workloads.audits_all,
            host_ports=host_ports_message(endpoint.host_ports),
            adopted=endpoint.adopted,
            aggregation=node_pb2.AggregationLevel.ValueType(endpoint.aggregation),
        )

    def _ipcache_entry(self, prefix: str, value: IpcacheValue) -> node_pb2.IpcacheMapEntry:
        winner = self._merge.winner(prefix)
        known = winner is not None and winner.value == value
        return node_pb2.IpcacheMapEntry(
            prefix=prefix,
            identity=value.identity,
            tunnel_endpoint=value.tunnel_endpoint,
            source=winner.rank.title if winner is not None and known else "",
        )

    def _policy_entry(self, key: MapKey, entry: layout.PolicyEntry) -> node_pb2.PolicyMapEntry:
        return node_pb2.PolicyMapEntry(
            direction=policy_pb2.Direction.ValueType(Direction(key.direction)),
            identity=key.identity,
            protocol=key.ports.protocol,
            port=key.ports.port,
            port_prefix_length=key.ports.prefix_length,
            action=policy_pb2.Action.ValueType(entry.action),
            precedence=entry.precedence,
            origins=[_origin(origin) for origin in self._cookies.origins_of(entry.cookie)],
            audit=bool(entry.flags & layout.ENTRY_AUDIT),
        )


def decode_wanted(request: node_pb2.AddEndpointRequest) -> Wanted:
    """Checks the names and paths of a request. Raises InvalidArgument."""
    if not _LABEL.fullmatch(request.namespace):
        raise InvalidArgument.of_field("namespace", f"{request.namespace[:64]!r} is not a DNS label")
    if not _NAME.fullmatch(request.pod_name):
        raise InvalidArgument.of_field("pod_name", f"{request.pod_name[:64]!r} is not a DNS name")
    return Wanted(
        namespace=request.namespace,
        pod_name=request.pod_name,
        labels=tuple(request.labels),
        netns=protocol.check_netns("netns", request.netns),
        interface_name=protocol.check_interface("interface_name", request.interface_name or "eth0"),
        named_ports=decode_named_ports(request.named_ports),
        audit=request.audit,
        ips=decode_ips(request.ips),
        host_ports=decode_host_ports(request.host_ports),
        adopt=request.adopt,
        request_id=request.request_id,
    )


def _matches(endpoint: Endpoint, text: str) -> bool:
    return not text or text in endpoint.name or any(text in label for label in endpoint.labels.texts())


def _order(prefix: str) -> str:
    """Sorts IPv4 before IPv6, then by address, then shorter prefixes first."""
    network = ipaddress.ip_network(prefix)
    return f"{network.version} {network.network_address.packed.hex()} {network.prefixlen:03d}"


def _origin(origin: Origin) -> policy_pb2.Origin:
    return policy_pb2.Origin(
        origin_id=origin.origin_id,
        kind=origin.kind,
        namespace=origin.namespace,
        name=origin.name,
        rule=origin.rule,
        labels=origin.labels,
    )
