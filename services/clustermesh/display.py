"""Services on the terminal: a table, or the API's form as JSON or YAML."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import click

from axoneme.cli.render import message_dict, print_json, print_table

if TYPE_CHECKING:
    from axoneme.api.clustermesh.v1.clustermesh_pb2 import Backend, Service, ServicePort

HEADERS: Final = ("namespace", "name", "type", "cluster ips", "ports", "external", "backends")
_TYPES: Final = {1: "ClusterIP", 2: "NodePort", 3: "LoadBalancer"}
_PROTOCOLS: Final = {6: "TCP", 17: "UDP", 132: "SCTP"}
_STATES: Final = {1: "", 2: " terminating", 3: " maintenance"}


def show(services: list[Service], output: str, *, single: bool = False) -> None:
    """Prints services in the wanted form."""
    if output == "table":
        print_table(HEADERS, map(row, services), empty="no services")
        return
    value: Any = message_dict(services[0]) if single else {"services": list(map(message_dict, services))}
    if output == "json":
        print_json(value)
        return
    import yaml

    documents = [value] if single else value["services"]
    click.echo(yaml.safe_dump_all(documents, sort_keys=False, allow_unicode=True), nl=False)


def row(service: Service) -> tuple[object, ...]:
    """The cells of a service."""
    external = [*service.external_ips, *service.load_balancer_ips]
    kind = "headless" if service.headless else _TYPES.get(service.type, "unknown")
    return (
        service.namespace,
        service.name,
        kind,
        list(service.cluster_ips),
        [_port(one) for one in service.ports],
        external,
        _count(service.backends),
    )


def backend_rows(service: Service) -> Iterable[tuple[object, ...]]:
    """The cells of the backends of a service."""
    for one in service.backends:
        state = _STATES.get(one.state, " terminating").strip() or "active"
        ports = [f"{name or 'port'}={number}" for name, number in sorted(one.ports.items())]
        yield one.ip, state, one.node_name, one.cluster, ports


def _port(port: ServicePort) -> str:
    target = port.target_port_name or port.target_port
    text = str(port.port) if target == port.port else f"{port.port}:{target}"
    node = f"@{port.node_port}" if port.node_port else ""
    return f"{text}{node}/{_PROTOCOLS.get(port.protocol, '?')}"


def _count(backends: Iterable[Backend]) -> str:
    states = [one.state for one in backends]
    active = sum(state == 1 for state in states)
    return str(active) if active == len(states) else f"{active} of {len(states)}"
