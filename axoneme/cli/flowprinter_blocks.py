"""Flows as blocks of keys and values, and as a table."""

from __future__ import annotations

from collections.abc import Sequence

from axoneme.api.hubble.relay import relay_pb2
from axoneme.cli import flowprinter_words as words
from axoneme.cli.flowprinter_text import PrinterOptions, Response, TextPrinter, Write, loss_source, rows_text
from axoneme.cli.flowprinter_words import clean

GUTTER = "   "


class DictPrinter(TextPrinter):
    """A block of keys and values for each flow."""

    _started = False

    def _flow(self, response: Response) -> None:
        flow = response.flow
        ends = [self._shown_end(response, source=True), self._shown_end(response, source=False)]
        verdict = self._painted_verdict(flow) if self._options.colour else clean(self._verdict(flow))
        rows = [
            ("SOURCE", ends[0]),
            ("DESTINATION", ends[1]),
            ("TYPE", clean(words.flow_type(flow))),
            ("VERDICT", verdict),
            ("SUMMARY", clean(words.summary_text(flow))),
        ]
        self._block(response, rows)

    def note(self, text: str) -> None:
        """A further line of the block."""
        self._out(rows_text([("EXPLANATION", clean(text))]))

    def _shown_end(self, response: Response, *, source: bool) -> str:
        if self._options.colour:
            return self._painted_end(response.flow, source=source)
        numeric = self._options.numeric
        return clean(
            words.join_host_port(*words.host_and_port(response.flow, source=source, numeric=numeric))
        )

    def _lost(self, response: Response) -> None:
        loss = self._loss_text(response.lost_events, " - ")
        rows = [("SOURCE", loss_source(response.lost_events)), ("TYPE", "EVENTS LOST"), ("SUMMARY", loss)]
        self._block(response, rows)

    def _node_status(self, response: Response) -> None:
        status = response.node_status
        state = words.enum_text(relay_pb2.NodeState, status.state_change)
        message = f'"{status.message}"' if status.message else "N/A"
        rows = [("STATE", state), ("NODES", words.name_list(status.node_names)), ("MESSAGE", message)]
        self._err(
            rows_text([("TIMESTAMP", self._time(response)), *((key, clean(text)) for key, text in rows)])
        )

    def _block(self, response: Response, rows: Sequence[tuple[str, str]]) -> None:
        if self._started:
            self._out("------------\n")
        self._started = True
        node = [("NODE", clean(self._node(response)))] if self._options.print_node_name else []
        self._out(rows_text([("TIMESTAMP", self._time(response)), *node, *rows]))


class TablePrinter(TextPrinter):
    """Columns, printed at the end when their widths are known."""

    def __init__(self, options: PrinterOptions, out: Write, err: Write) -> None:
        super().__init__(options, out, err)
        self._lines: list[list[str]] = []

    def note(self, text: str) -> None:
        """A row that has only a summary."""
        self._lines.append([""] * (len(self._lines[-1]) - 1) + [clean(text)])

    def _flow(self, response: Response) -> None:
        flow, numeric = response.flow, self._options.numeric
        ends = [
            words.join_host_port(*words.host_and_port(flow, source=source, numeric=numeric))
            for source in (True, False)
        ]
        rest = [words.flow_type(flow), self._verdict(flow), words.summary_text(flow)]
        self._row(response, [*ends, *rest])

    def _lost(self, response: Response) -> None:
        lost = response.lost_events
        self._row(response, [loss_source(lost), "-", "EVENTS LOST", "-", self._loss_text(lost, " - ")])

    def _row(self, response: Response, cells: Sequence[str]) -> None:
        node = [self._node(response)] if self._options.print_node_name else []
        self._lines.append([clean(cell) for cell in (self._time(response), *node, *cells)])

    def close(self) -> None:
        """Print all rows under their headers."""
        if not self._lines:
            return
        node = ["NODE"] if self._options.print_node_name else []
        header = ["TIMESTAMP", *node, "SOURCE", "DESTINATION", "TYPE", "VERDICT", "SUMMARY"]
        self._out(table_text([header, *self._lines]))
        self._lines = []


def table_text(lines: Sequence[Sequence[str]]) -> str:
    """Rows of equal length in columns, as text/tabwriter makes them: the last one is not padded."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]) - 1)]
    texts = []
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line[:-1], widths, strict=True)]
        texts.append(GUTTER.join([*cells, line[-1]]).rstrip() + "\n")
    return "".join(texts)
