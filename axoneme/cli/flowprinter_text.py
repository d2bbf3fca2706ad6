"""What the printers of text share: which kinds of responses there are, times, colours, states of nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from axoneme.api.hubble.flow import flow_pb2
from axoneme.api.hubble.observer import observer_pb2
from axoneme.api.hubble.relay import relay_pb2
from axoneme.cli import flowprinter_words as words
from axoneme.cli.flowprinter_words import clean

Write = Callable[[str], object]
Response = observer_pb2.GetFlowsResponse
CYAN, YELLOW, MAGENTA, GREEN, RED = "36", "33", "35", "32", "31"
_VERDICT_COLOURS: Final[dict[int, str]] = {
    flow_pb2.DROPPED: RED, flow_pb2.ERROR: RED, flow_pb2.AUDIT: YELLOW,
}  # fmt: skip


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
    bare_flows: bool = False
    """JSON of the flow alone, as old versions of the Hubble CLI printed it."""

    @property
    def policy_names(self) -> bool:
        """Whether to name the policies that decided."""
        return self.output == "compact" if self.print_policy_names is None else self.print_policy_names


class TextPrinter:
    """What the human forms share. What is written to `out` and `err` is clean."""

    def __init__(self, options: PrinterOptions, out: Write, err: Write) -> None:
        self._options = options
        self._out = out
        self._err = err

    def write(self, response: Response) -> None:
        """Print a response or keep it for the end."""
        kind = response.WhichOneof("response_types")
        if kind == "flow":
            self._flow(response)
        elif kind == "lost_events":
            self._lost(response)
        elif kind == "node_status" and (self._options.debug or is_trouble(response.node_status)):
            self._node_status(response)

    def note(self, text: str) -> None:
        """Print a line that belongs to the response before."""
        self._out(f"    {clean(text)}\n")

    def close(self) -> None:
        """Print what was kept: nothing."""

    def _flow(self, response: Response) -> None:
        raise NotImplementedError

    def _lost(self, response: Response) -> None:
        raise NotImplementedError

    def _node_status(self, response: Response) -> None:
        node = f" [{response.node_name}]" if response.node_name else ""
        self._err(clean(f"{self._time(response)}{node}: {_status_text(response.node_status)}") + "\n")

    def _time(self, response: Response) -> str:
        time = response.time if response.HasField("time") else response.flow.time
        has_time = response.HasField("time") or response.flow.HasField("time")
        return words.format_time(time, self._options.time_format) if has_time else "N/A"

    def _node(self, response: Response) -> str:
        return response.node_name or response.flow.node_name

    def _paint(self, text: str, colour: str) -> str:
        """A clean text in a colour; the escape sequences here are the only ones that are ever printed."""
        return f"\x1b[{colour}m{clean(text)}\x1b[0m" if text else ""

    def _painted_end(self, flow: flow_pb2.Flow, *, source: bool) -> str:
        host, port = words.host_and_port(flow, source=source, numeric=self._options.numeric)
        return self._paint(host, CYAN) + (f":{self._paint(port, YELLOW)}" if port else "")

    def _verdict(self, flow: flow_pb2.Flow) -> str:
        return words.verdict_text(flow, policy_names=self._options.policy_names)

    def _painted_verdict(self, flow: flow_pb2.Flow) -> str:
        return self._paint(self._verdict(flow), _VERDICT_COLOURS.get(flow.verdict, GREEN))

    def _loss_text(self, lost: flow_pb2.LostEvent, joint: str) -> str:
        text = f"CPU({lost.cpu.value}){joint}{lost.num_events_lost}"
        if not lost.HasField("first") or not lost.HasField("last"):
            return text
        style = self._options.time_format
        first, last = words.format_time(lost.first, style), words.format_time(lost.last, style)
        return f"{text} (first: {first}, last: {last})"


def is_trouble(status: relay_pb2.NodeStatusEvent) -> bool:
    """Whether a state of nodes is shown to everybody."""
    return status.state_change in (relay_pb2.NODE_UNAVAILABLE, relay_pb2.NODE_ERROR)


def loss_source(lost: flow_pb2.LostEvent) -> str:
    """Where events were lost."""
    return words.enum_text(flow_pb2.LostEventSource, lost.source)


def rows_text(rows: Sequence[tuple[str, str]]) -> str:
    """Keys to the right, values to the left, a line each."""
    return "".join(f"{key:>11}: {value}\n" for key, value in rows)


def _status_text(status: relay_pb2.NodeStatusEvent) -> str:
    count, names = len(status.node_names), words.name_list(status.node_names)
    if status.state_change == relay_pb2.NODE_CONNECTED:
        return f"Receiving flows from {count} nodes: {names}"
    if status.state_change == relay_pb2.NODE_UNAVAILABLE:
        return f"{count} nodes are unavailable: {names}"
    if status.state_change == relay_pb2.NODE_GONE:
        return f"{count} nodes removed from cluster: {names}"
    if status.state_change == relay_pb2.NODE_ERROR:
        return f'Error "{status.message}" on {count} nodes: {names}'
    return f"unknown state of {count} nodes: {names}"
