"""The gRPC health service: one word per service name, SERVING or not.

Setting a state is synchronous, so that it can be called from anywhere in the event loop; watchers are woken.
"""

# ruff: noqa: ARG002  the signatures are gRPC's
from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from axoneme.lib import grpcsettings  # isort: skip  (before grpc)
from grpc_health.v1 import health_pb2, health_pb2_grpc

from axoneme.lib.errors import NotFound, ResourceExhausted

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
MAX_WATCHERS = 1_000

assert grpcsettings.ENVIRONMENT


class Health(health_pb2_grpc.HealthServicer):
    """States of the services of one server; all start as NOT_SERVING."""

    def __init__(self) -> None:
        self._state_by_name: dict[str, int] = {"": NOT_SERVING}
        self._watchers: set[asyncio.Event] = set()
        self._draining = False

    def add(self, name: str) -> None:
        """Makes a name known."""
        self._state_by_name.setdefault(name, NOT_SERVING)

    def set(self, name: str, serving: bool) -> None:
        """Sets one name; the empty name sets all. While draining everything stays NOT_SERVING."""
        names = [name] if name else list(self._state_by_name)
        for each in names:
            self._state_by_name[each] = SERVING if serving and not self._draining else NOT_SERVING
        for watcher in self._watchers:
            watcher.set()

    def drain(self) -> None:
        """NOT_SERVING for good."""
        self._draining = True
        self.set("", False)

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: Any
    ) -> health_pb2.HealthCheckResponse:
        """State of one name. Raises NotFound."""
        state = self._state_by_name.get(request.service)
        if state is None:
            raise NotFound(f"no service {request.service!r} here; known are {sorted(self._state_by_name)}")
        return health_pb2.HealthCheckResponse(status=state)

    async def List(self, request: Any, context: Any) -> Any:
        """States of all names; its messages are newer than the type stubs."""
        response = health_pb2.HealthListResponse()  # type: ignore[attr-defined]
        for name, state in self._state_by_name.items():
            response.statuses[name].status = state
        return response

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: Any
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """State of one name, again at each change; SERVICE_UNKNOWN until the name is known."""
        if len(self._watchers) >= MAX_WATCHERS:
            raise ResourceExhausted(f"more than {MAX_WATCHERS} health watchers")
        changed = asyncio.Event()
        self._watchers.add(changed)
        last: int | None = None
        try:
            while True:
                changed.clear()
                state = self._state_by_name.get(request.service, SERVICE_UNKNOWN)
                if state != last:
                    last = state
                    yield health_pb2.HealthCheckResponse(status=state)
                if self._draining:
                    return  # an endless watcher would use up the whole drain time
                await changed.wait()
        finally:
            self._watchers.discard(changed)
