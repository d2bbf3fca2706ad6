"""The looking part of the node API: decode, look, encode. Maps are read in threads: they may be large."""

# ruff: noqa: ARG002  (gRPC fixes the signatures)

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc

from axoneme.api.node.v1 import node_pb2
from axoneme.lib.bpf.maps import BpfMap
from shim.cookies import CookieTable
from shim.inspection import counters
from shim.inspection.connections import Connections, Wanted
from shim.inspection.counters import CounterMaps
from shim.inspection.endpointlog import EndpointLog
from shim.inspection.frontends import Frontends, LbMaps, NamedFrontends, elements_of
from shim.inspection.translations import Translations
from shim.maps import layout, lb

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """Everything that can be looked at."""

    connections: Connections
    translations: Translations
    frontends: Frontends
    counters: CounterMaps
    log: EndpointLog
    open_table: Callable[[int], Awaitable[BpfMap | None]]


def inspection(
    maps: Mapping[str, BpfMap],
    *,
    cookies: CookieTable,
    named: NamedFrontends,
    log: EndpointLog,
    open_table: Callable[[int], Awaitable[BpfMap | None]],
) -> Inspection:
    """The inspection of a node with these maps."""
    return Inspection(
        connections=Connections(maps[layout.CT.name], origins_of=cookies.origins_of),
        translations=Translations(maps[lb.NAT.name]),
        frontends=Frontends(
            LbMaps(maps[lb.LB.name], maps[lb.LB_SLOTS.name], maps[lb.LB_BACKENDS.name]), named
        ),
        counters=CounterMaps(
            maps[layout.METRICS.name], maps[layout.EP_STATS.name], maps[layout.EP_DROPS.name]
        ),
        log=log,
        open_table=open_table,
    )


class InspectionMethods:
    """Methods of NodeService; mixed into its servicer."""

    _inspection: Inspection

    async def GetEndpointLog(
        self, request: node_pb2.GetEndpointLogRequest, context: Context
    ) -> node_pb2.GetEndpointLogResponse:
        """What happened to one endpoint."""
        return self._inspection.log.message(request.endpoint_id)

    async def ListConnections(
        self, request: node_pb2.ListConnectionsRequest, context: Context
    ) -> node_pb2.ListConnectionsResponse:
        """Connections, newest first."""
        wanted = Wanted(request.filter, request.endpoint_id if request.HasField("endpoint_id") else None)
        look = self._inspection.connections.page
        return await asyncio.to_thread(look, wanted, request.page_size, request.page_token)

    async def FlushConnections(
        self, request: node_pb2.FlushConnectionsRequest, context: Context
    ) -> node_pb2.FlushConnectionsResponse:
        """Idempotent by nature: what is gone is not removed again."""
        wanted = Wanted(request.filter, request.endpoint_id if request.HasField("endpoint_id") else None)
        removed = await asyncio.to_thread(self._inspection.connections.flush, wanted)
        return node_pb2.FlushConnectionsResponse(removed=removed)

    async def ListTranslations(
        self, request: node_pb2.ListTranslationsRequest, context: Context
    ) -> node_pb2.ListTranslationsResponse:
        """Translations by tuple."""
        look = self._inspection.translations.page
        return await asyncio.to_thread(look, request.filter, request.page_size, request.page_token)

    async def ListFrontends(
        self, request: node_pb2.ListFrontendsRequest, context: Context
    ) -> node_pb2.ListFrontendsResponse:
        """Frontends by address."""
        look = self._inspection.frontends.page
        return await asyncio.to_thread(look, request.filter, request.page_size, request.page_token)

    async def GetMaglevTable(
        self, request: node_pb2.GetMaglevTableRequest, context: Context
    ) -> node_pb2.GetMaglevTableResponse:
        """One table."""
        elements = await elements_of(request.set_id, self._inspection.open_table)
        return await asyncio.to_thread(self._inspection.frontends.table, elements)

    async def ListMetrics(
        self, request: node_pb2.ListMetricsRequest, context: Context
    ) -> node_pb2.ListMetricsResponse:
        """Counters of the programs."""
        return await asyncio.to_thread(counters.read, self._inspection.counters)
