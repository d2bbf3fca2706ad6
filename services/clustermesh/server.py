"""ClusterMeshService: decode, call the domain, encode. No rule about services lives here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc

from axoneme.api.clustermesh.v1 import clustermesh_pb2 as pb
from axoneme.api.clustermesh.v1 import clustermesh_pb2_grpc
from axoneme.lib.grpcserver import caller
from axoneme.lib.kvstore.port import Store
from axoneme.lib.pagination import encode_token, page
from axoneme.lib.requests import RequestLog
from services.clustermesh.faults import Faults
from services.clustermesh.features import check_features
from services.clustermesh.messages import MAX_BYTES, service_message
from services.clustermesh.model import Service, ServiceKey
from services.clustermesh.pools import Pools
from services.clustermesh.requests import service_from_message
from services.clustermesh.state import MeshState
from services.clustermesh.store import ServiceStore, Written, not_found
from services.clustermesh.validation import checked
from services.clustermesh.view import View
from services.clustermesh.warnings import warnings_of
from services.clustermesh.watch import watch_services

Context = grpc.aio.ServicerContext[Any, Any]


class ClusterMeshServicer(clustermesh_pb2_grpc.ClusterMeshServiceServicer):
    """Serves one replica from its state; writes go to the store and come back by its watch."""

    def __init__(
        self, *, state: MeshState, store: ServiceStore, kvstore: Store, pools: Pools, log: RequestLog
    ) -> None:
        self._state = state
        self._store = store
        self._kvstore = kvstore
        self._pools = pools
        self._log = log

    async def ApplyService(
        self, request: pb.ApplyServiceRequest, context: Context
    ) -> pb.ApplyServiceResponse:
        """Store one service with what it needs, or nothing."""
        self._state.check_ready()
        return await self._log.run(
            caller(context),
            "ApplyService",
            request.request_id,
            lambda: self._apply(request),
            content=request.SerializeToString(deterministic=True),
        )

    async def DeleteService(
        self, request: pb.DeleteServiceRequest, context: Context
    ) -> pb.DeleteServiceResponse:
        """Delete one service and free what it had."""
        self._state.check_ready()
        return await self._log.run(
            caller(context),
            "DeleteService",
            request.request_id,
            lambda: self._delete(request),
            content=request.SerializeToString(deterministic=True),
        )

    async def GetService(self, request: pb.GetServiceRequest, _context: Context) -> pb.GetServiceResponse:
        """Return one service."""
        self._state.check_ready()
        key = _key(request.namespace, request.name)
        view = self._state.views.get(key)
        if view is None:
            raise not_found(key)
        return pb.GetServiceResponse(service=service_message(view, self._state.cluster))

    async def ListServices(
        self, request: pb.ListServicesRequest, _context: Context
    ) -> pb.ListServicesResponse:
        """List services, sorted by namespace and name."""
        self._state.check_ready()
        found = sorted(str(key) for key in self._state.views if request.filter in str(key))
        part, token = page(found, str, request.page_size, request.page_token)
        answer = pb.ListServicesResponse(next_page_token=token, revision=self._state.revision)
        size = 0
        for name in part:
            message = service_message(self._state.views[ServiceKey(*name.split("/"))], self._state.cluster)
            size += message.ByteSize()
            if answer.services and size > MAX_BYTES:
                last = answer.services[-1]
                answer.next_page_token = encode_token(f"{last.namespace}/{last.name}")
                break
            answer.services.append(message)
        return answer

    async def WatchServices(
        self, request: pb.WatchServicesRequest, _context: Context
    ) -> AsyncIterator[pb.WatchServicesResponse]:
        """Stream services, a bookmark, then changes."""
        async for step in watch_services(self._state, self._kvstore, request.revision):
            yield step

    async def SubscribeServices(  # type: ignore[override]  # reads and writes by its context
        self, _requests: object, context: Context
    ) -> None:
        """Stream frontends with their backends to a shim."""
        await self._state.host.serve(context)

    async def _apply(self, request: pb.ApplyServiceRequest) -> pb.ApplyServiceResponse:
        faults = Faults()
        wanted = service_from_message(request.service, faults)
        if request.expected_revision < -1:
            faults.add("expected_revision", "use a revision, 0 to accept any, or -1 for a new service")
        service = checked(wanted, self._pools, faults)
        check_features(service, self._state.features)
        dry = request.validate_only
        written = await self._store.apply(service, expected_revision=request.expected_revision, dry=dry)
        if not dry:
            await self._state.reached(written.revision)
        view = self._view(written, service, dry=dry)
        return pb.ApplyServiceResponse(
            service=service_message(view, self._state.cluster),
            created=written.created,
            warnings=warnings_of(view),
        )

    def _view(self, written: Written, wanted: Service, *, dry: bool) -> View:
        """What was stored with the backends that it has; what is only checked gets those it would have."""
        shown = self._state.views.get(wanted.key)
        if not dry and shown is not None and shown.revision == written.revision:
            return shown
        return self._state.preview(written.service, written.revision)

    async def _delete(self, request: pb.DeleteServiceRequest) -> pb.DeleteServiceResponse:
        faults = Faults()
        if request.expected_revision < 0:
            faults.add("expected_revision", "is negative; use a revision, or 0 to accept any")
        key = _key(request.namespace, request.name, faults)
        revision = await self._store.delete(
            key, expected_revision=request.expected_revision, dry=request.validate_only
        )
        if not request.validate_only:
            await self._state.reached(revision)
        return pb.DeleteServiceResponse(revision=revision)


def _key(namespace: str, name: str, faults: Faults | None = None) -> ServiceKey:
    """Raises InvalidArgument for names that no service can have."""
    faults = faults or Faults()
    faults.dns_label("namespace", namespace)
    faults.dns_label("name", name)
    faults.raise_if_any()
    return ServiceKey(namespace, name)
