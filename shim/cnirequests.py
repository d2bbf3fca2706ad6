"""Requests of `axoneme-cni` and the answers to them, as values; docs/cni.md has the schema."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any, TypeAlias

from axoneme.api.node.v1 import node_pb2
from axoneme.lib.errors import AxonemeError, InvalidArgument
from shim.endpoints import Endpoint
from shim.hostports import host_ports_from_mappings
from shim.requests import decode_wanted
from shim.wanted import Wanted

Request: TypeAlias = dict[str, Any]

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


class Refused(Exception):  # noqa: N818 - an answer, not a fault
    """An answer with a code of CNI that no error of the node API stands for."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


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


def failure(code: int, message: str, details: str = "") -> dict[str, Any]:
    """An answer that says why not."""
    return {"ok": False, "code": code, "message": message, "details": details}


def failure_of(error: AxonemeError) -> dict[str, Any]:
    """The answer for an error of the node API."""
    return failure(_CODES.get(error.code, FAILED), error.message, error.reason)
