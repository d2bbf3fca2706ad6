"""Requests for endpoints: from messages of the node API to what is wanted."""

from __future__ import annotations

import re

from axoneme.api.node.v1 import node_pb2
from axoneme.lib.errors import InvalidArgument
from shim.hostports import decode_host_ports
from shim.ipam import decode_ips
from shim.namedports import decode_named_ports
from shim.privileged import fields
from shim.wanted import Wanted

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


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
        netns=fields.netns("netns", request.netns),
        interface_name=fields.interface("interface_name", request.interface_name or "eth0"),
        named_ports=decode_named_ports(request.named_ports),
        audit=request.audit,
        ips=decode_ips(request.ips),
        host_ports=decode_host_ports(request.host_ports),
        adopt=request.adopt,
        request_id=request.request_id,
    )
