"""Printers of agent events and debug events, in the shapes of the Hubble CLI."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from axoneme.api.hubble.flow import flow_pb2
from axoneme.cli.flowprinter_blocks import table_text
from axoneme.cli.flowprinter_json import response_json
from axoneme.cli.flowprinter_text import PrinterOptions, Write, rows_text
from axoneme.cli.flowprinter_words import clean, enum_text, format_time
from axoneme.lib.flows.names import RESERVED_IDENTITIES

Rows = list[tuple[str, str]]
DASHES: Final = "------------\n"


@dataclass(frozen=True, slots=True)
class EventForm:
    """How one kind of events is shown: its headers, its cells in that order, and the rest of its line."""

    headers: tuple[str, ...]
    cells: Callable[[Any], tuple[str, ...]]
    line: Callable[[Any], str]


class EventPrinter:
    """Takes responses one by one; everything is clean."""

    def __init__(self, form: EventForm, options: PrinterOptions, out: Write) -> None:
        self._form = form
        self._options = options
        self._out = out
        self._started = False
        self._lines: list[list[str]] = []

    def write(self, response: Any) -> None:
        """Print a response or keep it for the end."""
        output = self._options.output
        if output in ("json", "jsonpb"):
            self._out(response_json(response) + "\n")
        elif output == "dict":
            self._block(response)
        elif output in ("table", "tab"):
            self._lines.append([clean(cell) for cell in (*self._head(response), *self._form.cells(response))])
        else:
            node = f" [{response.node_name}]" if self._options.print_node_name else ""
            self._out(clean(f"{self._time(response)}{node}: {self._form.line(response)}") + "\n")

    def close(self) -> None:
        """Print the table."""
        if self._lines:
            self._out(table_text([list(self._headers()), *self._lines]))
            self._lines = []

    def _block(self, response: Any) -> None:
        if self._started:
            self._out(DASHES)
        self._started = True
        cells = (*self._head(response), *self._form.cells(response))
        self._out(rows_text(list(zip(self._headers(), map(clean, cells), strict=True))))

    def _headers(self) -> tuple[str, ...]:
        node = ("NODE",) if self._options.print_node_name else ()
        return ("TIMESTAMP", *node, *self._form.headers)

    def _head(self, response: Any) -> Sequence[str]:
        node = (response.node_name,) if self._options.print_node_name else ()
        return (self._time(response), *node)

    def _time(self, response: Any) -> str:
        if not response.HasField("time"):
            return "N/A"
        return format_time(response.time, self._options.time_format)


def agent_details(event: flow_pb2.AgentEvent) -> str:
    """What an agent event says besides its type."""
    kind = event.WhichOneof("notification")
    notification = getattr(event, kind) if kind else None
    return _DETAILS[kind](notification) if kind in _DETAILS else "UNKNOWN"


def _pairs(*pairs: tuple[str, object]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in pairs)


def _time_started(one: flow_pb2.TimeNotification) -> str:
    return _pairs(("start time", format_time(one.time)))


def _policy_update(one: flow_pb2.PolicyUpdateNotification) -> str:
    labels = f"[{','.join(one.labels)}]"
    return _pairs(("labels", labels), ("revision", one.revision), ("count", one.rule_count))


def _endpoint_regenerated(one: flow_pb2.EndpointRegenNotification) -> str:
    pairs: list[tuple[str, object]] = [("id", one.id), ("labels", f"[{','.join(one.labels)}]")]
    return _pairs(*pairs, *([("error", one.error)] if one.error else []))


def _endpoint_updated(one: flow_pb2.EndpointUpdateNotification) -> str:
    pairs: list[tuple[str, object]] = [("id", one.id)]
    pairs += [("namespace", one.namespace)] if one.namespace else []
    pairs += [("pod name", one.pod_name)] if one.pod_name else []
    return _pairs(*pairs)


def _ipcache_updated(one: flow_pb2.IPCacheNotification) -> str:
    pairs: list[tuple[str, object]] = [("cidr", one.cidr), ("identity", one.identity)]
    pairs += [("old identity", one.old_identity.value)] if one.HasField("old_identity") else []
    pairs += [("host ip", one.host_ip)] if one.host_ip else []
    pairs += [("old host ip", one.old_host_ip)] if one.old_host_ip else []
    return _pairs(*pairs, ("encrypt key", one.encrypt_key))


def _service_upserted(one: flow_pb2.ServiceUpsertNotification) -> str:
    front = f"{one.frontend_address.ip}:{one.frontend_address.port}"
    back = ",".join(f"{address.ip}:{address.port}" for address in one.backend_addresses)
    pairs: list[tuple[str, object]] = [("id", one.id), ("frontend", front), ("backends", f"[{back}]")]
    pairs += [("type", one.type)] if one.type else []
    return _pairs(*pairs, ("namespace", one.namespace), ("name", one.name))


def _service_deleted(one: flow_pb2.ServiceDeleteNotification) -> str:
    return _pairs(("id", one.id))


def _unknown(one: flow_pb2.AgentEventUnknown) -> str:
    return _pairs(("type", one.type), ("notification", one.notification))


_DETAILS: Final[dict[str, Callable[[Any], str]]] = {
    "agent_start": _time_started,
    "policy_update": _policy_update,
    "endpoint_regenerate": _endpoint_regenerated,
    "endpoint_update": _endpoint_updated,
    "ipcache_update": _ipcache_updated,
    "service_upsert": _service_upserted,
    "service_delete": _service_deleted,
    "unknown": _unknown,
}


def _agent_type(response: Any) -> str:
    return enum_text(flow_pb2.AgentEventType, response.agent_event.type)


def debug_source(end: flow_pb2.Endpoint) -> str:
    """`shop/web (ID: 401)`, `reserved:host (ID: 1)`, `N/A`."""
    if end.pod_name:
        name = f"{end.namespace}/{end.pod_name}" if end.namespace else end.pod_name
    elif end.identity in RESERVED_IDENTITIES:
        name = f"reserved:{RESERVED_IDENTITIES[end.identity]}"
    elif not end.ID and not end.identity:
        return "N/A"
    else:
        name = ",".join(end.labels)
    return f"{name} (ID: {end.ID})".lstrip()


def _mark(event: flow_pb2.DebugEvent) -> str:
    return f"{event.hash.value:#x}" if event.HasField("hash") else "N/A"


def _cpu(event: flow_pb2.DebugEvent) -> str:
    return f"{event.cpu.value:02d}" if event.HasField("cpu") else "N/A"


def _debug_cells(response: Any) -> tuple[str, ...]:
    event: flow_pb2.DebugEvent = response.debug_event
    kind = enum_text(flow_pb2.DebugEventType, event.type)
    place = f"{_cpu(event)}/{_mark(event)}"
    return debug_source(event.source), kind, place, event.message or "No message"


def _debug_line(response: Any) -> str:
    event: flow_pb2.DebugEvent = response.debug_event
    source, kind, _, message = _debug_cells(response)
    return f"{source} {kind} MARK: {_mark(event)} CPU: {_cpu(event)} ({message})"


AGENT: Final = EventForm(
    ("TYPE", "DETAILS"),
    lambda response: (_agent_type(response), agent_details(response.agent_event)),
    lambda response: f"{_agent_type(response)} ({agent_details(response.agent_event)})",
)
DEBUG: Final = EventForm(("FROM", "TYPE", "CPU/MARK", "MESSAGE"), _debug_cells, _debug_line)
