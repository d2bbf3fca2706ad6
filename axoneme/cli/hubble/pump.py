"""From batches of responses to the terminal: one write for each batch, until one side goes away.

The end of the source, an interrupt and a reader that closed its pipe are all success.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from axoneme.lib.errors import AxonemeError

if TYPE_CHECKING:
    from axoneme.cli.hubble.explain import Explainer

Batches = Iterable[Iterable[Any]]
"""Responses of a stream; the printer knows their type."""

FLUSH_TEXTS: Final = 64


class Console:
    """Standard output and error of a command; what goes to both stays in order."""

    def __init__(self, *, follow: bool, silent: bool) -> None:
        """With `follow` every batch is shown at once; `silent` drops what is for stderr."""
        self._follow = follow
        self._silent = silent
        self._texts: list[str] = []
        self.out: Callable[[str], object] = self._texts.append

    def batch_done(self) -> None:
        """Write what was printed."""
        if self._follow or len(self._texts) >= FLUSH_TEXTS:
            self.write()

    def write(self) -> None:
        """Write everything, and flush in a follow."""
        if self._texts:
            text = "".join(self._texts)
            self._texts.clear()  # first, so that an interrupt here prints nothing twice
            sys.stdout.write(text)
        if self._follow:
            sys.stdout.flush()

    def err(self, text: str) -> None:
        """Write to stderr, behind what was printed before."""
        if self._silent:
            return
        self.write()
        sys.stdout.flush()
        sys.stderr.write(text)
        sys.stderr.flush()


def pump(
    batches: Batches,
    printer: Any,
    console: Console,
    explainer: Explainer | None = None,
    *,
    nothing: Callable[[str], object] | None = None,
) -> int:
    """Print until the source ends; `nothing` is told when no flow came. Returns the exit code."""
    try:
        try:
            found = _print_batches(batches, printer, console, explainer, counting=nothing is not None)
            if not found and nothing is not None:
                nothing("no flow matches\n")
        except KeyboardInterrupt:
            pass
        except AxonemeError as error:
            console.write()
            sys.stdout.flush()
            if error.code != "CANCELLED":
                raise
        printer.close()
        console.write()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _print_batches(
    batches: Batches, printer: Any, console: Console, explainer: Explainer | None, *, counting: bool
) -> bool:
    """Whether there was anything but states of nodes, if that counts."""
    found = False
    for batch in batches:
        for response in batch:
            printer.write(response)
            if counting and not found:
                found = not response.HasField("node_status")
            if explainer is not None and response.HasField("flow"):
                for line in explainer.lines(response.flow):
                    printer.note(line)
        console.batch_done()
    return found


def use_colour(choice: str) -> bool:
    """Whether to colour the output."""
    if choice == "auto":
        return sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    return choice == "always"
