"""What a laboratory tells while it works: a spinner on a terminal, else plain lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Progress:
    """Announces steps on standard error, so that standard output stays for results."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._terminal = sys.stderr.isatty() and not quiet

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Shows the step while the block runs, and how long it took once it succeeded."""
        if self._terminal:
            yield from self._spinning(text)
            return
        self.say(f"  {text}")
        yield

    def say(self, text: str) -> None:
        if not self._quiet:
            print(text, file=sys.stderr, flush=True)

    def _spinning(self, text: str) -> Iterator[None]:
        from rich.console import Console

        console = Console(stderr=True, highlight=False)
        begun = time.monotonic()
        with console.status(text):
            yield
        console.print(f"[green]✓[/green] {text} [dim]{time.monotonic() - begun:.1f} s[/dim]")
