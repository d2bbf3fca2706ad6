"""Host ports: who may have one."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from axoneme.lib.errors import AlreadyExists
from shim.endpoints import Endpoint, EndpointState, HostPort
from shim.hostports import share_a_port
from shim.lb.model import PROTOCOL_NAMES, NodeView
from shim.lb.plan import listening
from shim.maps.base import address_bytes


def check_host_ports(
    wanted: Iterable[HostPort],
    endpoints: Iterable[Endpoint],
    node: NodeView,
    holder: Callable[[bytes, int, int], str],
) -> None:
    """Raises AlreadyExists (FRONTEND_IN_USE) for a host port that is taken, twice wanted included.

    `holder(address, port, protocol)` names the service that has a frontend of this node, or is empty. The
    endpoint itself is not among `endpoints`.
    """
    taken: list[tuple[HostPort, str]] = [
        (port, f"endpoint {endpoint.endpoint_id} ({endpoint.name})")
        for endpoint in endpoints
        if endpoint.state is not EndpointState.TERMINATING
        for port in endpoint.host_ports
    ]
    for port in wanted:
        for other, name in taken:
            if share_a_port(port, other):
                raise _in_use(port, name)
        for address in listening(port, node.addresses):
            if name := holder(address, port.host_port, port.protocol):
                raise _in_use(port, name)
        taken.append((port, "another host port of this endpoint"))


def host_addresses(endpoint: Endpoint) -> tuple[bytes, ...]:
    """Addresses of an endpoint, 16 bytes each."""
    return tuple(map(address_bytes, endpoint.ips))


def _in_use(port: HostPort, name: str) -> AlreadyExists:
    shown = f"{port.host_port}/{PROTOCOL_NAMES.get(port.protocol, port.protocol)}"
    where = f" on {port.host_ip}" if port.host_ip else ""
    return AlreadyExists(f"host port {shown}{where} belongs to {name}", reason="FRONTEND_IN_USE")
