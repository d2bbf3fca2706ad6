"""What the ports of a service have to be. Pure."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from services.clustermesh.faults import Faults, shown
from services.clustermesh.model import Port, Protocol, Service
from services.clustermesh.pools import Pools

MAX_PORTS: Final = 100
_PORT_NAME: Final = re.compile(r"(?=.{1,15}\Z)(?=.*[a-z])[a-z0-9]+(-[a-z0-9]+)*")


def check_ports(service: Service, pools: Pools, faults: Faults) -> None:
    """Adds every fault of the ports."""
    ports = service.ports
    if not ports and not service.headless:
        faults.add("service.ports", "is empty; name at least one port")
    if len(ports) > MAX_PORTS:
        faults.add("service.ports", f"{len(ports)} ports are too many; at most {MAX_PORTS} make up a service")
        return
    for position, port in enumerate(ports):
        _check_port(f"service.ports[{position}]", port, service, pools, faults)
    _check_repetitions(ports, faults)


def normal_port(port: Port) -> Port:
    """The port with its target written out; what names its target keeps the name."""
    if port.target_port_name or port.target_port:
        return port
    return msgspec.structs.replace(port, target_port=port.port)


def _check_port(field: str, port: Port, service: Service, pools: Pools, faults: Faults) -> None:
    faults.port(f"{field}.port", port.port)
    if port.target_port:
        faults.port(f"{field}.target_port", port.target_port)
    if port.name or len(service.ports) > 1:
        faults.dns_label(f"{field}.name", port.name)
    if port.target_port_name:
        _check_target_name(field, port, faults)
    elif port.protocol is Protocol.SCTP and port.target_port not in (0, port.port):
        faults.add(
            f"{field}.target_port",
            f"{port.target_port} differs from port {port.port}; SCTP ports are never translated",
        )
    if port.node_port:
        _check_node_port(f"{field}.node_port", port, service, pools, faults)


def _check_target_name(field: str, port: Port, faults: Faults) -> None:
    name = f"{field}.target_port_name"
    if not _PORT_NAME.fullmatch(port.target_port_name):
        faults.add(
            name,
            f"{shown(port.target_port_name)} is no port name; use at most 15 lower-case letters, digits and "
            "'-', one letter at least",
        )
    if port.target_port:
        faults.add(name, "is given beside target_port; keep one of them")
    if port.protocol is Protocol.SCTP:
        faults.add(name, "is of no use to SCTP, whose ports are never translated; leave it out")


def _check_node_port(field: str, port: Port, service: Service, pools: Pools, faults: Faults) -> None:
    faults.port(field, port.node_port)
    if service.headless or not service.on_nodes:
        kind = "a headless service" if service.headless else f"type {service.type}"
        faults.add(field, f"{kind} has no node ports; take type NodePort or LoadBalancer, or leave it out")
    elif not pools.is_node_port(port.node_port):
        faults.add(
            field,
            f"{port.node_port} is outside node_port_range {pools.first_node_port}-{pools.last_node_port}; "
            "leave it out to get a free one",
        )


def _check_repetitions(ports: tuple[Port, ...], faults: Faults) -> None:
    slots = [f"{port.port}/{port.protocol.name}" for port in ports]
    faults.unique("service.ports[{}].port", slots, "the port")
    if len(ports) > 1:
        faults.unique("service.ports[{}].name", [port.name for port in ports], "the name")
    wanted = [(index, port) for index, port in enumerate(ports) if port.node_port]
    seen: dict[tuple[Protocol, int], int] = {}
    for index, port in wanted:
        first = seen.setdefault((port.protocol, port.node_port), index)
        if first != index:
            text = f"{port.node_port} is the node port of ports[{first}] too; choose another"
            faults.add(f"service.ports[{index}].node_port", text)
