"""The commands of CNI on the endpoints of this node.

An attachment is a container with one of its interfaces; the endpoint remembers it. Requests for one
container run one after the other: a removal that overtakes an addition that its runtime gave up would leave
the endpoint behind. A note of a removal is worked off before anything else is done for its container.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from axoneme.lib import log
from axoneme.lib.errors import AxonemeError
from shim.cnirequests import (
    CHECK_FAILED,
    NOT_AVAILABLE,
    UNKNOWN_CONTAINER,
    Refused,
    Request,
    decode_request,
    described,
)
from shim.datapath import Datapath
from shim.endpoints import Endpoint, EndpointState, EndpointTable
from shim.namedlocks import NamedLocks
from shim.wanted import Wanted
from shim.workloads import Workloads

logger = logging.getLogger(__name__)


class CniCommands:
    """What the plugin may ask for; each answers with fields of an endpoint or raises."""

    def __init__(
        self,
        *,
        workloads: Workloads,
        endpoints: EndpointTable,
        datapath: Datapath,
        not_ready: Callable[[], str | None],
        state_directory: Path,
    ) -> None:
        self._workloads = workloads
        self._endpoints = endpoints
        self._datapath = datapath
        self._not_ready = not_ready
        self._notes = state_directory / "cni"
        self._locks = NamedLocks()  # by container

    async def add(self, request: Request) -> dict[str, Any]:
        """Creates an endpoint; what an addition that fails has begun is undone."""
        wanted = decode_request(request)
        async with self._locks.of(wanted.cni_container):
            await self._work_off(wanted.cni_container, wanted.interface_name)
            await self._end_older_sandbox(wanted)
            known = self._find(wanted.cni_container, wanted.interface_name) is not None
            try:
                # The runtime may give up; the endpoint is finished or undone all the same.
                endpoint = await asyncio.shield(self._workloads.add(wanted))
            except (AxonemeError, OSError):
                if not known:
                    await self._remove(wanted.cni_container, wanted.interface_name)
                raise
        return described(endpoint)

    async def _end_older_sandbox(self, wanted: Wanted) -> None:
        """A pod has one sandbox: a new one says that the old one is over, whether its DEL came or not."""
        older = self._endpoints.find(wanted.namespace, wanted.pod_name)
        if older is not None and older.cni_container not in ("", wanted.cni_container):
            logger.info("older sandbox ends", extra={log.ENDPOINT: older.name})
            await self._workloads.delete(older.endpoint_id)

    async def delete(self, request: Request) -> dict[str, Any]:
        """Removes an endpoint; an absent one is fine."""
        container, interface = str(request["container"]), str(request["interface"])
        async with self._locks.of(container):
            await self._remove(container, interface)
            self._note(container, interface).unlink(missing_ok=True)
        return {}

    async def _remove(self, container: str, interface: str) -> None:
        """Removes an endpoint, now or later: what is recorded as being removed is not forgotten."""
        endpoint = self._find(container, interface)
        if endpoint is None:
            return
        try:
            await asyncio.shield(self._workloads.delete(endpoint.endpoint_id))
        except (AxonemeError, OSError) as error:
            present = self._endpoints.get(endpoint.endpoint_id)
            if present is not None and present.state is not EndpointState.TERMINATING:
                raise
            logger.warning(
                "endpoint removed later", extra={log.ENDPOINT: endpoint.name, log.ERROR: log.clip(error)}
            )

    async def check(self, request: Request) -> dict[str, Any]:
        """Raises Refused for an endpoint that is not whole."""
        endpoint = self._find(str(request["container"]), str(request["interface"]))
        if endpoint is None:
            raise Refused(UNKNOWN_CONTAINER, "this node has no endpoint for the container and interface")
        fault = _fault(endpoint)
        state = (await self._datapath.interfaces()).get(endpoint.endpoint_id)
        if state is None or state.ifindex != endpoint.ifindex:
            fault = fault or f"the node's side, {endpoint.interface_name}, is gone"
        elif not state.attached:
            fault = fault or f"a program is missing at {endpoint.interface_name}"
        if fault:
            raise Refused(CHECK_FAILED, f"endpoint {endpoint.endpoint_id}: {fault}")
        return described(endpoint)

    async def collect(self, request: Request) -> dict[str, Any]:
        """Removes endpoints of this network whose attachment is not valid any more."""
        await self.work_off_notes()
        valid = {(str(one["container"]), str(one["interface"])) for one in request["attachments"]}
        for endpoint in list(self._endpoints):
            place = (endpoint.cni_container, endpoint.pod_interface)
            if not endpoint.cni_container or endpoint.cni_network != request["network"] or place in valid:
                continue
            if self._locks.of(endpoint.cni_container).locked():
                continue  # is being added or removed, so the list is older than the endpoint's state
            async with self._locks.of(endpoint.cni_container):
                logger.info("endpoint without an attachment", extra={log.ENDPOINT: endpoint.name})
                await self._remove(*place)
        return {}

    async def status(self, request: Request) -> dict[str, Any]:  # noqa: ARG002
        """Raises Refused while new endpoints cannot be served."""
        problem = self._not_ready()
        if problem is not None:
            raise Refused(NOT_AVAILABLE, problem)
        return {}

    # --- notes of the plugin

    async def work_off_notes(self) -> None:
        """Does the removals that the plugin wrote down while the shim was away."""
        for path in sorted(self._notes.glob("*@*")):
            interface, _, container = path.name.rpartition("@")
            async with self._locks.of(container):
                await self._work_off(container, interface)

    async def _work_off(self, container: str, interface: str) -> None:
        note = self._note(container, interface)
        if note.exists():
            await self._remove(container, interface)
            note.unlink(missing_ok=True)

    def _note(self, container: str, interface: str) -> Path:
        return self._notes / f"{interface}@{container}".replace("/", "_")

    # --- finding

    def _find(self, container: str, interface: str) -> Endpoint | None:
        place = (container, interface)
        return next((e for e in self._endpoints if (e.cni_container, e.pod_interface) == place), None)


def _fault(endpoint: Endpoint) -> str:
    if endpoint.state in (EndpointState.LOCKED, EndpointState.TERMINATING):
        return f"is {endpoint.state.name.lower()}: {endpoint.state_reason}"
    return "" if endpoint.published else "its addresses are not published yet"
