"""Host ports of a workload between the node API, the command line, CNI and the shim's own form, without I/O.

The own form is a sorted tuple of `HostPort`: equal ports are equal tuples. A port of the node leads to one
place: the same port, protocol and address given twice is refused, and so is an address beside "all".
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any

from axoneme.api.node.v1 import node_pb2
from axoneme.lib.errors import InvalidArgument
from shim.endpoints import HostPort

HostPorts = tuple[HostPort, ...]

MAX_HOST_PORTS = 128
_FIELD = "host_ports"
_NUMBER_BY_PROTOCOL = {"TCP": 6, "UDP": 17, "SCTP": 132}
_PROTOCOL_BY_NUMBER = {number: name for name, number in _NUMBER_BY_PROTOCOL.items()}


def decode_host_ports(ports: Iterable[node_pb2.HostPort]) -> HostPorts:
    """Ports of a request. Raises InvalidArgument."""
    return _checked((port.host_port, port.container_port, port.protocol, port.host_ip) for port in ports)


def host_ports_message(ports: HostPorts) -> list[node_pb2.HostPort]:
    """Ports of a request or an answer."""
    return [
        node_pb2.HostPort(
            host_port=port.host_port,
            container_port=port.container_port,
            protocol=_PROTOCOL_BY_NUMBER[port.protocol],
            host_ip=port.host_ip,
        )
        for port in ports
    ]


def parse_host_ports(texts: Iterable[str]) -> HostPorts:
    """Ports as people write them: `8080:80/tcp`, `192.0.2.1:53:53/udp`, `[2001:db8::1]:8080:80`.

    Raises InvalidArgument.
    """
    return _checked(_words(text) for text in texts)


def host_ports_from_mappings(mappings: Any) -> HostPorts:
    """Ports as the CNI capability `portMappings` gives them; one without a host port asks for nothing.

    Raises InvalidArgument.
    """
    if not isinstance(mappings, list) or not all(isinstance(one, dict) for one in mappings):
        raise InvalidArgument.of_field("portMappings", "must be a list of objects")
    return _checked(
        (one["hostPort"], one.get("containerPort"), one.get("protocol") or "tcp", one.get("hostIP") or "")
        for one in mappings
        if one.get("hostPort")
    )


def _words(text: str) -> tuple[int, int, str, str]:
    rest, _, protocol = text.partition("/")
    head, colon, inner = rest.rpartition(":")
    address, _, outer = head.rpartition(":")
    if not colon or not all(part.isascii() and part.isdecimal() for part in (inner, outer)):
        raise InvalidArgument.of_field(
            _FIELD, f"{text[:64]!r} is not [ADDRESS:]PORT:PORT/PROTOCOL; write 8080:80/tcp"
        )
    return int(outer), int(inner), protocol or "tcp", address.strip("[]")


def _checked(ports: Iterable[tuple[Any, Any, Any, Any]]) -> HostPorts:
    found = {_host_port(*port) for port in ports}
    if len(found) > MAX_HOST_PORTS:
        raise InvalidArgument.of_field(_FIELD, f"{len(found)} are given; at most {MAX_HOST_PORTS} are kept")
    for one in found:
        for other in found - {one}:
            if share_a_port(one, other):
                raise InvalidArgument.of_field(_FIELD, f"{one.host_port} leads to two ports; keep one")
    return tuple(sorted(found))


def share_a_port(one: HostPort, other: HostPort) -> bool:
    """Whether both listen on the same port, protocol and address of the node."""
    same_port = (one.host_port, one.protocol) == (other.host_port, other.protocol)
    return same_port and (one.host_ip == other.host_ip or not one.host_ip or not other.host_ip)


def _host_port(host_port: Any, container_port: Any, protocol: Any, host_ip: Any) -> HostPort:
    for name, number in (("host", host_port), ("container", container_port)):
        if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= 65_535:
            raise InvalidArgument.of_field(_FIELD, f"{name} port {str(number)[:16]!r} is not within 1-65535")
    number = _NUMBER_BY_PROTOCOL.get(str(protocol or "TCP").upper())
    if number is None:
        raise InvalidArgument.of_field(
            _FIELD, f"protocol {str(protocol)[:16]!r} is none of tcp, udp and sctp"
        )
    return HostPort(host_port, container_port, number, _node_address(host_ip))


def _node_address(text: Any) -> str:
    """An address in canonical text; unspecified ones mean all, as in a container runtime."""
    if not text:
        return ""
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise InvalidArgument.of_field(_FIELD, f"{str(text)[:64]!r} is no address of the node") from error
    return "" if address.is_unspecified else str(address)
