"""The status of a relay or a node as `hubble status` prints it: `axoneme status --relay`."""

from __future__ import annotations

from typing import Any, Final

import click

from axoneme.api.hubble.observer import observer_pb2
from axoneme.cli.flowprinter_blocks import table_text
from axoneme.cli.flowprinter_json import response_json
from axoneme.cli.flowprinter_words import clean
from axoneme.cli.hubble.connection import chosen_of, open_server
from axoneme.cli.hubble.durations import format_duration
from axoneme.cli.hubble.server import Server

HEALTH_SERVICE: Final = "hubble.server.Observer"
CHECK: Final = "/grpc.health.v1.Health/Check"
STATUS: Final = "/observer.Observer/ServerStatus"
TABLE_HEADERS: Final = (
    "NUM FLOWS", "MAX FLOWS", "SEEN FLOWS", "FLOWS PER SECOND", "UPTIME", "NUM CONNECTED NODES",
    "NUM UNAVAILABLE NODES", "VERSION",
)  # fmt: skip
Status = observer_pb2.ServerStatusResponse


def relay_status(options: dict[str, Any]) -> int:
    """Print the status; 1 when the server does not serve. Raises AxonemeError."""
    output = options["output"]
    with open_server(chosen_of(options)) as server:
        state = health(server)
        serving = state == "SERVING"
        if output == "compact":
            shown = "Ok" if serving else f"Unavailable: {state}"
            click.echo(f"Healthcheck (via {clean(server.name)}): {shown}")
        if not serving:
            click.echo("not healthy", err=True)
            return 1
        status = server.unary(STATUS, observer_pb2.ServerStatusRequest(), Status())
    click.echo(status_text(status, output), nl=False)
    return 0


def health(server: Server) -> str:
    """Name of the health state."""
    from grpc_health.v1 import health_pb2

    answer = server.unary(
        CHECK, health_pb2.HealthCheckRequest(service=HEALTH_SERVICE), health_pb2.HealthCheckResponse()
    )
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


def status_text(status: Status, output: str) -> str:
    """The status in one of the forms of the Hubble CLI."""
    if output in ("json", "jsonpb"):
        return response_json(status) + "\n"
    if output == "compact":
        return "".join(f"{line}\n" for line in _compact(status))
    cells = _cells(status)
    if output == "dict":
        width = max(map(len, TABLE_HEADERS))
        pairs = zip(TABLE_HEADERS, cells, strict=True)
        return "".join(f"{header:>{width}}: {cell}\n" for header, cell in pairs)
    return table_text([TABLE_HEADERS, cells])


def rate_of(seen: int, uptime_ns: int) -> str:
    """Flows a second since the start; N/A for a server that has just begun."""
    return f"{seen / (uptime_ns / 1e9):.2f}" if uptime_ns else "N/A"


def fill_text(count: int, most: int, *, commas: bool) -> str:
    """`8,190/12,285 (66.67%)`; no share of nothing."""
    form = "," if commas else ""
    text = f"{count:{form}}/{most:{form}}"
    return f"{text} ({count / most * 100:.2f}%)" if most else text


def _compact(status: Status) -> list[str]:
    lines = [f"Current/Max Flows: {fill_text(status.num_flows, status.max_flows, commas=True)}"]
    lines.append(f"Flows/s: {_rate(status)}")
    connected, missing = status.num_connected_nodes, status.num_unavailable_nodes
    if status.HasField("num_connected_nodes"):
        lines.append(f"Connected Nodes: {connected.value}/{connected.value + missing.value}")
    if status.HasField("num_unavailable_nodes") and missing.value:
        lines.append(f"Unavailable Nodes: {missing.value}")
        lines += [f"  - {clean(name)}" for name in sorted(status.unavailable_nodes)]
        if missing.value > len(status.unavailable_nodes) > 0:
            lines.append(f"  - and {missing.value - len(status.unavailable_nodes)} more...")
    return lines


def _rate(status: Status) -> str:
    return f"{status.flows_rate:.2f}" if status.flows_rate else rate_of(status.seen_flows, status.uptime_ns)


def _cells(status: Status) -> tuple[str, ...]:
    connected, missing = status.num_connected_nodes, status.num_unavailable_nodes
    return (
        f"{status.num_flows:,}",
        f"{status.max_flows:,}",
        f"{status.seen_flows:,}",
        _rate(status),
        format_duration(status.uptime_ns),
        str(connected.value) if status.HasField("num_connected_nodes") else "N/A",
        str(missing.value) if status.HasField("num_unavailable_nodes") else "N/A",
        clean(status.version),
    )
