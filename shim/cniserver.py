"""The node's side of `axoneme-cni`: one JSON request a connection on `cni.sock`, root only.

    runtime ─► axoneme-cni ── cni.sock ──► CniServer ─► Workloads (the functions of the node API)
                    └─ shim away: note in <state_directory>/cni ──► worked off at the next start

An attachment is a container with one of its interfaces; the endpoint remembers it. Requests for one
container run one after the other: a removal that overtakes an addition that its runtime gave up would leave
the endpoint behind. A note of a removal is worked off before anything else is done for its container.
docs/cni.md has the schema; nothing here knows versions of CNI, which are the plugin's.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from axoneme.api.node.v1 import node_pb2
from axoneme.lib import log
from axoneme.lib.errors import AxonemeError, InvalidArgument
from shim.datapath import Datapath
from shim.endpoints import Endpoint, EndpointState, EndpointTable
from shim.hostports import host_ports_from_mappings
from shim.server import decode_wanted
from shim.wanted import Wanted
from shim.workloads import Workloads

logger = logging.getLogger(__name__)

PROTOCOL_VERSION = 1
MAX_REQUEST_BYTES = 4 << 20
MAX_REQUESTS = 64
READ_SECONDS = 5.0

UNKNOWN_CONTAINER, TRY_AGAIN_LATER, NOT_AVAILABLE = 3, 11, 50
REFUSED, EXISTS, EXHAUSTED, CHECK_FAILED, GONE, FAILED = 100, 101, 102, 103, 104, 105
_CODES = {
    "UNAVAILABLE": TRY_AGAIN_LATER,
    "ABORTED": TRY_AGAIN_LATER,
    "DEADLINE_EXCEEDED": TRY_AGAIN_LATER,
    "INVALID_ARGUMENT": REFUSED,
    "ALREADY_EXISTS": EXISTS,
    "RESOURCE_EXHAUSTED": EXHAUSTED,
    "NOT_FOUND": GONE,
}

Request = dict[str, Any]


class Refused(Exception):  # noqa: N818 - an answer, not a fault
    """An answer with a code of CNI that no error of the node API stands for."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class CniServer:
    """Serves the plugin for one node."""

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
        self._running = 0
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._commands: dict[str, Callable[[Request], Awaitable[dict[str, Any]]]] = {
            "ADD": self._add,
            "DEL": self._delete,
            "CHECK": self._check,
            "GC": self._collect,
            "STATUS": self._status,
        }

    @contextlib.asynccontextmanager
    async def serving(self, path: Path) -> AsyncIterator[None]:
        """Listens on a socket of mode 0600 in a directory of mode 0700."""
        server = await asyncio.start_unix_server(self._on_connection, sock=_listener(path))
        async with server:
            yield

    # --- one connection

    async def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self._is_root(writer):
                request = await _read(reader)
                answer = json.dumps(await self.answer(request)).encode()
                writer.write(len(answer).to_bytes(4, "big") + answer)
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError) as error:
            logger.warning("CNI request not served", extra={log.ERROR: log.clip(error)})
        finally:
            writer.close()

    def _is_root(self, writer: asyncio.StreamWriter) -> bool:
        connection: socket.socket = writer.get_extra_info("socket")
        _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid != 0:
            logger.warning("CNI client refused", extra={log.CALLER: uid})
        return bool(uid == 0)

    async def answer(self, request: Request) -> dict[str, Any]:
        """The answer to a request; every expected error is one."""
        self._running += 1
        try:
            if self._running > MAX_REQUESTS:
                raise Refused(TRY_AGAIN_LATER, "too many requests of the CNI plugin at once; ask again")
            command = self._commands.get(str(request.get("command")))
            if command is None or request.get("version") != PROTOCOL_VERSION:
                raise Refused(REFUSED, "this shim does not know the plugin's request; install its own plugin")
            return {"ok": True, "endpoint": await command(request)}
        except Refused as error:
            return _failure(error.code, str(error))
        except AxonemeError as error:
            return _failure(_CODES.get(error.code, FAILED), error.message, error.reason)
        except OSError as error:
            return _failure(TRY_AGAIN_LATER, f"the kernel or the disk refused: {error}", "KERNEL_REFUSED")
        except (KeyError, TypeError, AttributeError) as error:
            return _failure(REFUSED, "the plugin's request is not well formed", repr(error))
        finally:
            self._running -= 1

    # --- commands

    async def _add(self, request: Request) -> dict[str, Any]:
        wanted = decode_request(request)
        async with self._lock(wanted.cni_container):
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

    async def _delete(self, request: Request) -> dict[str, Any]:
        container, interface = str(request["container"]), str(request["interface"])
        async with self._lock(container):
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

    async def _check(self, request: Request) -> dict[str, Any]:
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

    async def _collect(self, request: Request) -> dict[str, Any]:
        """Removes endpoints of this network whose attachment is not valid any more."""
        await self.work_off_notes()
        valid = {(str(one["container"]), str(one["interface"])) for one in request["attachments"]}
        for endpoint in list(self._endpoints):
            place = (endpoint.cni_container, endpoint.pod_interface)
            if not endpoint.cni_container or endpoint.cni_network != request["network"] or place in valid:
                continue
            if self._lock(endpoint.cni_container).locked():
                continue  # is being added or removed, so the list is older than the endpoint's state
            async with self._lock(endpoint.cni_container):
                logger.info("endpoint without an attachment", extra={log.ENDPOINT: endpoint.name})
                await self._remove(*place)
        return {}

    async def _status(self, request: Request) -> dict[str, Any]:  # noqa: ARG002
        problem = self._not_ready()
        if problem is not None:
            raise Refused(NOT_AVAILABLE, problem)
        return {}

    # --- notes of the plugin

    async def work_off_notes(self) -> None:
        """Does the removals that the plugin wrote down while the shim was away."""
        for path in sorted(self._notes.glob("*@*")):
            interface, _, container = path.name.rpartition("@")
            async with self._lock(container):
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

    def _lock(self, container: str) -> asyncio.Lock:
        lock = self._locks.get(container)
        if lock is None:
            lock = self._locks[container] = asyncio.Lock()
        return lock


def decode_request(request: Request) -> Wanted:
    """The endpoint that an ADD asks for, checked as the node API does. Raises InvalidArgument."""
    container, network = str(request["container"]), str(request["network"])
    if not container or not network:
        raise InvalidArgument("container and network are missing")
    message = node_pb2.AddEndpointRequest(
        namespace=request["namespace"],
        pod_name=request["pod_name"] or pod_name_of(container),
        labels=request["labels"],
        netns=request["netns"],
        interface_name=request["interface"],
        ips=request["ips"],
        adopt=request["adopt"],
    )
    return replace(
        decode_wanted(message),
        host_ports=host_ports_from_mappings(request["port_mappings"]),
        cni_container=container,
        cni_network=network,
    )


def pod_name_of(container: str) -> str:
    """A DNS name for a container that belongs to no pod: its id, with a digest where that is no DNS name."""
    plain = "".join(c if c.isalnum() or c in "-." else "-" for c in container.lower())[:200].rstrip("-.")
    if plain == container:
        return plain
    return f"{plain}-{hashlib.sha256(container.encode()).hexdigest()[:10]}"


def described(endpoint: Endpoint) -> dict[str, Any]:
    """What the plugin needs of an endpoint for its result."""
    return {
        "endpoint_id": endpoint.endpoint_id,
        "identity": endpoint.identity,
        "interface_name": endpoint.interface_name,
        "mac": endpoint.mac,
        "host_mac": endpoint.host_mac,
        "ips": list(endpoint.ips),
    }


def _fault(endpoint: Endpoint) -> str:
    if endpoint.state in (EndpointState.LOCKED, EndpointState.TERMINATING):
        return f"is {endpoint.state.name.lower()}: {endpoint.state_reason}"
    return "" if endpoint.published else "its addresses are not published yet"


def _failure(code: int, message: str, details: str = "") -> dict[str, Any]:
    return {"ok": False, "code": code, "message": message, "details": details}


def _listener(path: Path) -> socket.socket:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    umask = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(umask)
    return listener


async def _read(reader: asyncio.StreamReader) -> Request:
    """One frame: four bytes of length, big-endian, and JSON. Raises ValueError for anything else."""
    async with asyncio.timeout(READ_SECONDS):
        length = int.from_bytes(await reader.readexactly(4), "big")
        if length > MAX_REQUEST_BYTES:
            raise ValueError(f"request of {length} bytes")
        request = json.loads(await reader.readexactly(length))
    if not isinstance(request, dict):
        raise ValueError("request is not an object")
    return request
