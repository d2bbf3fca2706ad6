"""Printers of `axoneme observe`: compact, dict, table and JSON, in the shapes of the Hubble CLI.

A printer takes GetFlowsResponse messages and gives lines; it opens and flushes nothing. Flows and losses go
to `out`, states of nodes to `err`. The words come from `flowprinter_words`, JSON from `flowprinter_json`.
"""

from __future__ import annotations

from typing import Final, Protocol

from axoneme.cli.flowprinter_blocks import DictPrinter, TablePrinter
from axoneme.cli.flowprinter_compact import CompactPrinter
from axoneme.cli.flowprinter_json import response_json
from axoneme.cli.flowprinter_text import PrinterOptions, Response, Write, is_trouble

OUTPUTS: Final = ("compact", "dict", "json", "jsonpb", "table", "tab")
__all__ = ["OUTPUTS", "Printer", "PrinterOptions", "Response", "Write", "make_printer"]


class Printer(Protocol):
    """Takes responses one by one."""

    def write(self, response: Response) -> None:
        """Print a response or keep it for the end."""

    def note(self, text: str) -> None:
        """Print a line that belongs to the response before."""

    def close(self) -> None:
        """Print what was kept."""


def make_printer(options: PrinterOptions, out: Write, err: Write) -> Printer:
    """The printer for an output; `out` and `err` take text with its newline."""
    if options.output in ("json", "jsonpb"):
        return _JsonPrinter(options, out, err)
    kinds = {"compact": CompactPrinter, "dict": DictPrinter, "table": TablePrinter, "tab": TablePrinter}
    return kinds[options.output](options, out, err)


class _JsonPrinter:
    """One GetFlowsResponse a line."""

    def __init__(self, options: PrinterOptions, out: Write, err: Write) -> None:
        self._options = options
        self._bare = options.bare_flows and options.output == "json"
        self._out = out
        self._err = err

    def write(self, response: Response) -> None:
        if response.WhichOneof("response_types") != "node_status":
            shown = response.flow if self._bare and response.HasField("flow") else response
            self._out(response_json(shown) + "\n")
        elif self._options.debug or is_trouble(response.node_status):
            self._err(response_json(response) + "\n")

    def note(self, text: str) -> None:
        """Nothing: a line of JSON is a response."""

    def close(self) -> None:
        """Nothing is kept."""
