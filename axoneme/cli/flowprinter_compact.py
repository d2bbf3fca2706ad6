"""One line a flow, in about ten microseconds: the form that is read as fast as flows come.

A line without colours is made of raw texts and cleaned as a whole; with colours each text is cleaned before
it is painted. Of a reply the ends change places and the arrow points left.
"""

from __future__ import annotations

from typing import Any, Final

from axoneme.api.hubble.flow import flow_pb2
from axoneme.cli import flowprinter_words as words
from axoneme.cli.flowprinter_text import MAGENTA, PrinterOptions, Response, TextPrinter, Write, loss_source
from axoneme.cli.flowprinter_words import VERDICTS, clean
from axoneme.lib.flows.names import EVENT_TYPES, RESERVED_IDENTITIES, TRACE_POINTS

_TRACE: Final = EVENT_TYPES["trace"]
_WITH_PORTS: Final = ("TCP", "UDP", "SCTP")
_IDENTITIES: Final = {0: "(unknown)"} | {number: f"({name})" for number, name in RESERVED_IDENTITIES.items()}


class CompactPrinter(TextPrinter):
    """The default form."""

    def __init__(self, options: PrinterOptions, out: Write, err: Write) -> None:
        super().__init__(options, out, err)
        self._stamps = options.time_format == "StampMilli"
        self._named = not options.numeric

    def _flow(self, response: Response) -> None:
        options = self._options
        if options.colour:
            node = f" [{self._node(response)}]" if options.print_node_name else ""
            self._out(f"{self._time(response)}{clean(node)}: {self._coloured(response.flow)}\n")
            return
        time = response.time
        seconds = time.seconds
        if seconds and self._stamps:
            head = f"{words.stamp(seconds)}.{time.nanos // 1_000_000:03d}"
        else:
            head = self._time(response)
        if options.print_node_name:
            head = f"{head} [{self._node(response)}]"
        line = f"{head}: {self._plain(response.flow)}"
        self._out(f"{line}\n" if line.isprintable() else f"{clean(line)}\n")

    def _plain(self, flow: flow_pb2.Flow) -> str:
        layer4 = flow.l4
        kind = layer4.WhichOneof("protocol")
        source_port = destination_port = 0
        if kind in _WITH_PORTS:
            ports: Any = getattr(layer4, kind)
            source_port, destination_port = ports.source_port, ports.destination_port
        named = self._named and flow.HasField("IP")
        source = self._end(flow, flow.source, source_port, named, True)
        destination = self._end(flow, flow.destination, destination_port, named, False)
        event = flow.event_type
        if event.type == _TRACE and not flow.HasField("l7"):  # most flows
            sub_type = event.sub_type
            what = TRACE_POINTS[sub_type] if 0 <= sub_type < len(TRACE_POINTS) else str(sub_type)
            tail = f"{what} {VERDICTS.get(flow.verdict) or flow.verdict} ({words.summary_text(flow)})"
        else:
            tail = f"{words.flow_type(flow)} {self._verdict(flow)} ({words.summary_text(flow)})"
        if not flow.HasField("is_reply"):
            return f"{source} <> {destination} {tail}"
        if flow.is_reply.value:
            return f"{destination} <- {source} {tail}"
        return f"{source} -> {destination} {tail}"

    def _end(self, flow: flow_pb2.Flow, end: flow_pb2.Endpoint, port: int, named: bool, source: bool) -> str:
        identity, pod = end.identity, end.pod_name
        label = _IDENTITIES.get(identity) or f"(ID:{identity})"
        if named and pod:
            namespace = end.namespace
            host = f"{namespace}/{pod}" if namespace else pod
            if ":" not in host:
                return f"{host}:{port} {label}" if port else f"{host} {label}"
        return f"{self._joined(flow, source=source)} {label}"

    def _joined(self, flow: flow_pb2.Flow, *, source: bool) -> str:
        return words.join_host_port(*words.host_and_port(flow, source=source, numeric=self._options.numeric))

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
