"""Printers of `axoneme observe`: compact, dict, table and JSON, in the shapes of the Hubble CLI.

A printer takes GetFlowsResponse messages and gives lines; it opens and flushes nothing. Flows and losses go
to `out`, states of nodes to `err`. The words come from `flowprinter_words`, JSON from `flowprinter_json`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from axoneme.api.hubble.flow import flow_pb2
from axoneme.api.hubble.observer import observer_pb2
from axoneme.api.hubble.relay import relay_pb2
from axoneme.cli import flowprinter_words as words
from axoneme.cli.flowprinter_json import response_json

OUTPUTS: Final = ("compact", "dict", "json", "jsonpb", "table", "tab")
Write = Callable[[str], object]
Response = observer_pb2.GetFlowsResponse
_CYAN, _YELLOW, _MAGENTA, _GREEN, _RED = "36", "33", "35", "32", "31"


@dataclass(frozen=True, slots=True, kw_only=True)
class PrinterOptions:
    """How to print."""

    output: str = "compact"
    time_format: str = "StampMilli"
    print_node_name: bool = False
    print_policy_names: bool | None = None
    """None: on in compact, off elsewhere."""
    numeric: bool = False
    colour: bool = False
    debug: bool = False

    @property
    def policy_names(self) -> bool:
        """Whether to name the policies that decided."""
        return self.output == "compact" if self.print_policy_names is None else self.print_policy_names


class Printer(Protocol):
    """Takes responses one by one."""

    def write(self, response: Response) -> None:
        """Print a response or keep it for the end."""

    def close(self) -> None:
        """Print what was kept."""


def make_printer(options: PrinterOptions, out: Write, err: Write) -> Printer:
    """The printer for an output; `out` and `err` take text with its newline."""
    if options.output in ("json", "jsonpb"):
        return _JsonPrinter(options, out, err)
    kinds = {"compact": _CompactPrinter, "dict": _DictPrinter, "table": _TablePrinter, "tab": _TablePrinter}
    return kinds[options.output](options, out, err)


class _TextPrinter:
    """What the human forms share."""

    def __init__(self, options: PrinterOptions, out: Write, err: Write) -> None:
        self._options = options
        self._out = out
        self._err = err

    def write(self, response: Response) -> None:
        kind = response.WhichOneof("response_types")
        if kind == "flow":
            self._flow(response)
        elif kind == "lost_events":
            self._lost(response)
        elif kind == "node_status" and (self._options.debug or _is_trouble(response.node_status)):
            self._node_status(response)

    def close(self) -> None:
        """Nothing is kept."""

    def _flow(self, response: Response) -> None:
        raise NotImplementedError

    def _lost(self, response: Response) -> None:
        raise NotImplementedError

    def _node_status(self, response: Response) -> None:
        node = f" [{words.clean(response.node_name)}]" if response.node_name else ""
        self._err(f"{self._time(response)}{node}: {_status_text(response.node_status)}\n")

    def _time(self, response: Response) -> str:
        has_time = response.HasField("time") or response.flow.HasField("time")
        time = response.time if response.HasField("time") else response.flow.time
        return words.format_time(time, self._options.time_format) if has_time else "N/A"

    def _node(self, response: Response) -> str:
        return words.clean(response.node_name or response.flow.node_name)

    def _paint(self, text: str, colour: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._options.colour and text else text

    def _end(self, flow: flow_pb2.Flow, *, source: bool) -> str:
        host, port = words.host_and_port(flow, source=source, numeric=self._options.numeric)
        if not self._options.colour:
            return words.join_host_port(host, port)
        return self._paint(host, _CYAN) + (f":{self._paint(port, _YELLOW)}" if port else "")

    def _verdict(self, flow: flow_pb2.Flow) -> str:
        text = words.verdict_text(flow, policy_names=self._options.policy_names)
        colours = {flow_pb2.DROPPED: _RED, flow_pb2.ERROR: _RED, flow_pb2.AUDIT: _YELLOW}
        return self._paint(text, colours.get(flow.verdict, _GREEN))

    def _loss_text(self, lost: flow_pb2.LostEvent, joint: str) -> str:
        text = f"CPU({lost.cpu.value}){joint}{lost.num_events_lost}"
        if not lost.HasField("first") or not lost.HasField("last"):
            return text
        style = self._options.time_format
        first, last = words.format_time(lost.first, style), words.format_time(lost.last, style)
        return f"{text} (first: {first}, last: {last})"


class _CompactPrinter(_TextPrinter):
    """One line a flow; of a reply the ends change places and the arrow points left."""

    def _flow(self, response: Response) -> None:
        flow = response.flow
        node = f" [{self._node(response)}]" if self._options.print_node_name else ""
        source, destination = self._labelled(flow, source=True), self._labelled(flow, source=False)
        arrow = "<>"
        if flow.HasField("is_reply"):
            arrow = "<-" if flow.is_reply.value else "->"
            if flow.is_reply.value:
                source, destination = destination, source
        line = f"{self._time(response)}{node}: {source} {arrow} {destination} {words.flow_type(flow)}"
        self._out(f"{line} {self._verdict(flow)} ({words.summary_text(flow)})\n")

    def _labelled(self, flow: flow_pb2.Flow, *, source: bool) -> str:
        identity = words.identity_text(flow.source if source else flow.destination)
        return f"{self._end(flow, source=source)} {self._paint(identity, _MAGENTA)}"

    def _lost(self, response: Response) -> None:
        lost = response.lost_events
        source = flow_pb2.LostEventSource.Name(lost.source)
        self._out(f"{self._time(response)} EVENTS LOST: {source} {self._loss_text(lost, ' ')}\n")


class _DictPrinter(_TextPrinter):
    """A block of keys and values for each flow."""

    _started = False

    def _flow(self, response: Response) -> None:
        flow = response.flow
        self._block(
            response,
            [
                ("SOURCE", self._end(flow, source=True)),
                ("DESTINATION", self._end(flow, source=False)),
                ("TYPE", words.flow_type(flow)),
                ("VERDICT", self._verdict(flow)),
                ("SUMMARY", words.summary_text(flow)),
            ],
        )

    def _lost(self, response: Response) -> None:
        lost = response.lost_events
        source = flow_pb2.LostEventSource.Name(lost.source)
        rows = [("SOURCE", source), ("TYPE", "EVENTS LOST"), ("SUMMARY", self._loss_text(lost, " - "))]
        self._block(response, rows)

    def _node_status(self, response: Response) -> None:
        status = response.node_status
        state = relay_pb2.NodeState.Name(status.state_change)
        message = f'"{words.clean(status.message)}"' if status.message else "N/A"
        rows = [("STATE", state), ("NODES", words.name_list(status.node_names)), ("MESSAGE", message)]
        self._err(_rows([("TIMESTAMP", self._time(response)), *rows]))

    def _block(self, response: Response, rows: Sequence[tuple[str, str]]) -> None:
        if self._started:
            self._out("------------\n")
        self._started = True
        node = [("NODE", self._node(response))] if self._options.print_node_name else []
        self._out(_rows([("TIMESTAMP", self._time(response)), *node, *rows]))


class _TablePrinter(_TextPrinter):
    """Columns, printed at the end when their widths are known."""

    def __init__(self, options: PrinterOptions, out: Write, err: Write) -> None:
        super().__init__(options, out, err)
        self._lines: list[list[str]] = []

    def _flow(self, response: Response) -> None:
        flow = response.flow
        ends = [
            words.join_host_port(*words.host_and_port(flow, source=source, numeric=self._options.numeric))
            for source in (True, False)
        ]
        verdict = words.verdict_text(flow, policy_names=self._options.policy_names)
        self._row(response, [*ends, words.flow_type(flow), verdict, words.summary_text(flow)])

    def _lost(self, response: Response) -> None:
        lost = response.lost_events
        source = flow_pb2.LostEventSource.Name(lost.source)
        self._row(response, [source, "-", "EVENTS LOST", "-", self._loss_text(lost, " - ")])

    def _row(self, response: Response, cells: Sequence[str]) -> None:
        node = [self._node(response)] if self._options.print_node_name else []
        self._lines.append([self._time(response), *node, *cells])

    def close(self) -> None:
        if not self._lines:
            return
        node = ["NODE"] if self._options.print_node_name else []
        lines = [["TIMESTAMP", *node, "SOURCE", "DESTINATION", "TYPE", "VERDICT", "SUMMARY"], *self._lines]
        widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]) - 1)]
        for line in lines:
            cells = [cell.ljust(width) for cell, width in zip(line[:-1], widths, strict=True)]
            self._out("   ".join([*cells, line[-1]]).rstrip() + "\n")
        self._lines = []


class _JsonPrinter:
    """One GetFlowsResponse a line."""

    def __init__(self, options: PrinterOptions, out: Write, err: Write) -> None:
        self._options = options
        self._out = out
        self._err = err

    def write(self, response: Response) -> None:
        if response.WhichOneof("response_types") != "node_status":
            self._out(response_json(response) + "\n")
        elif self._options.debug or _is_trouble(response.node_status):
            self._err(response_json(response) + "\n")

    def close(self) -> None:
        """Nothing is kept."""


def _rows(rows: Sequence[tuple[str, str]]) -> str:
    return "".join(f"{key:>11}: {value}\n" for key, value in rows)


def _is_trouble(status: relay_pb2.NodeStatusEvent) -> bool:
    return status.state_change in (relay_pb2.NODE_UNAVAILABLE, relay_pb2.NODE_ERROR)


def _status_text(status: relay_pb2.NodeStatusEvent) -> str:
    count, names = len(status.node_names), words.name_list(status.node_names)
    if status.state_change == relay_pb2.NODE_CONNECTED:
        return f"Receiving flows from {count} nodes: {names}"
    if status.state_change == relay_pb2.NODE_UNAVAILABLE:
        return f"{count} nodes are unavailable: {names}"
    if status.state_change == relay_pb2.NODE_GONE:
        return f"{count} nodes removed from cluster: {names}"
    if status.state_change == relay_pb2.NODE_ERROR:
        return f'Error "{words.clean(status.message)}" on {count} nodes: {names}'
    return f"unknown state of {count} nodes: {names}"
