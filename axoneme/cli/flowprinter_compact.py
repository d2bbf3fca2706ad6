"""One line a flow, in about ten microseconds: the form that is read as fast as flows come.

A line without colours is made of raw texts and cleaned as a whole; with colours each text is cleaned before
it is painted. Of a reply the ends change places and the arrow points left.
"""

from __future__ import annotations

from typing import Any, Final

from axoneme.api.hubble.flow import flow_pb2
from axoneme.cli import flowprinter_words as words
from axoneme.cli.flowprinter_text import MAGENTA, Response, TextPrinter, loss_source
from axoneme.cli.flowprinter_words import TRACE_POINTS, VERDICTS, clean
from axoneme.lib.flows.names import EVENT_TYPES, RESERVED_IDENTITIES

_TRACE: Final = EVENT_TYPES["trace"]
_WITH_PORTS: Final = ("TCP", "UDP", "SCTP")
_IDENTITIES: Final = {0: "(unknown)"} | {number: f"({name})" for number, name in RESERVED_IDENTITIES.items()}


class CompactPrinter(TextPrinter):
    """The default form."""

    def _flow(self, response: Response) -> None:
        node = f" [{self._node(response)}]" if self._options.print_node_name else ""
        if self._options.colour:
            self._out(f"{self._time(response)}{clean(node)}: {self._coloured(response.flow)}\n")
            return
        line = f"{self._time(response)}{node}: {self._plain(response.flow)}"
        self._out(f"{line}\n" if line.isprintable() else f"{clean(line)}\n")

    def _plain(self, flow: flow_pb2.Flow) -> str:
        kind = flow.l4.WhichOneof("protocol")
        ports: Any = getattr(flow.l4, kind) if kind in _WITH_PORTS else None
        source = self._end(flow, flow.source, ports.source_port if ports else 0, source=True)
        destination = self._end(flow, flow.destination, ports.destination_port if ports else 0, source=False)
        event = flow.event_type
        if event.type == _TRACE and not flow.HasField("l7"):  # most flows
            sub_type = event.sub_type
            what = TRACE_POINTS[sub_type] if 0 <= sub_type < len(TRACE_POINTS) else str(sub_type)
            verdict = VERDICTS.get(flow.verdict) or str(flow.verdict)
        else:
            what, verdict = words.flow_type(flow), self._verdict(flow)
        tail = f"{what} {verdict} ({words.summary_text(flow)})"
        if not flow.HasField("is_reply"):
            return f"{source} <> {destination} {tail}"
        if flow.is_reply.value:
            return f"{destination} <- {source} {tail}"
        return f"{source} -> {destination} {tail}"

    def _end(self, flow: flow_pb2.Flow, end: flow_pb2.Endpoint, port: int, *, source: bool) -> str:
        identity = end.identity
        label = _IDENTITIES.get(identity) or f"(ID:{identity})"
        pod = end.pod_name
        if pod and not self._options.numeric and flow.HasField("IP"):
            namespace = end.namespace
            host = f"{namespace}/{pod}" if namespace else pod
            if ":" not in host:
                return f"{host}:{port} {label}" if port else f"{host} {label}"
        return f"{self._joined(flow, source=source)} {label}"

    def _joined(self, flow: flow_pb2.Flow, *, source: bool) -> str:
        return words.join_host_port(
            *words.host_and_port(flow, source=source, numeric=self._options.numeric)
        )

    def _coloured(self, flow: flow_pb2.Flow) -> str:
        source, destination = self._painted(flow, source=True), self._painted(flow, source=False)
        arrow = "<>"
        if flow.HasField("is_reply"):
            arrow = "<-" if flow.is_reply.value else "->"
            if flow.is_reply.value:
                source, destination = destination, source
        tail = f"{self._painted_verdict(flow)} ({clean(words.summary_text(flow))})"
        return f"{source} {arrow} {destination} {clean(words.flow_type(flow))} {tail}"

    def _painted(self, flow: flow_pb2.Flow, *, source: bool) -> str:
        identity = words.identity_text(flow.source if source else flow.destination)
        return f"{self._painted_end(flow, source=source)} {self._paint(identity, MAGENTA)}"

    def _lost(self, response: Response) -> None:
        lost = response.lost_events
        self._out(f"{self._time(response)} EVENTS LOST: {loss_source(lost)} {self._loss_text(lost, ' ')}\n")
