"""`axoneme trace drops|connects|retransmits|latency`: the node's kernel, watched while the command runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from axoneme.cli import completion
from axoneme.cli.connection import connection_options, open_client
from axoneme.cli.render import output_option
from axoneme.lib.errors import AxonemeError, NotFound

if TYPE_CHECKING:
    from shim.diagnostics.names import Names


@click.group(
    epilog="""\b
Examples:
  axoneme trace drops --duration 10
  axoneme trace connects --pod default/web"""
)
def trace() -> None:
    """Trace this machine's kernel: what it drops, connects and sends again.

    Small programs are compiled with BCC (Debian's python3-bpfcc) in a child process and go with the command.
    Needs root; nothing of it runs otherwise. It sees every network namespace of the machine.
    """


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    decorators = (
        click.option(
            "--duration",
            type=click.FloatRange(min=0.0),
            default=0.0,
            metavar="SECONDS",
            help="End after so long [default: with Ctrl-C].",
        ),
        click.option(
            "--pod",
            default="",
            metavar="[NAMESPACE/]NAME",
            shell_complete=completion.pods,
            help="Only packets of this pod.",
        ),
        output_option,
        connection_options,
    )
    for decorate in reversed(decorators):
        command = decorate(command)
    return command


@trace.command("drops")
@_options
def drops(**options: Any) -> None:
    """Show packets that the kernel drops, with its reason.

    \b
    Examples:
      axoneme trace drops
      axoneme trace drops --pod default/web --duration 10 -o json
    """
    run("drops", **options)


@trace.command("connects")
@_options
def connects(**options: Any) -> None:
    """Show TCP connections that are opened here, how long that took, and which failed.

    \b
    Examples:
      axoneme trace connects
      axoneme trace connects --pod default/web --duration 10
    """
    run("connects", **options)


@trace.command("retransmits")
@_options
def retransmits(**options: Any) -> None:
    """Show TCP segments that are sent again.

    \b
    Examples:
      axoneme trace retransmits
      axoneme trace retransmits --duration 60 -o json
    """
    run("retransmits", **options)


@trace.command("latency")
@_options
def latency(**options: Any) -> None:
    """Show histograms of the time to connect and of round-trip times.

    \b
    Examples:
      axoneme trace latency --duration 10
      axoneme trace latency --pod default/web
    """
    run("latency", **options)


def run(
    kind: str,
    *,
    duration: float,
    pod: str,
    output: str,
    context_file: Path | None,
    cluster: str | None,
    timeout: float,
) -> None:
    """Follows the probe until its end or Ctrl-C. Raises AxonemeError."""
    from shim.diagnostics.child import probed

    names = _names(context_file, cluster, timeout)
    addresses = names.addresses(pod) if pod else []
    if pod and not addresses:
        raise NotFound(f"no endpoint {pod} on any node of the context; `axoneme endpoint list` shows them")
    show = _print_json if output == "json" else _Printer(names)
    for line in probed(kind, duration, addresses):
        show(line)


def _print_json(line: dict[str, Any]) -> None:
    """One object a line, as the probe wrote it; `ready` says when nothing is missed any more."""
    click.echo(json.dumps(line))


def _names(context_file: Path | None, cluster: str | None, timeout: float) -> Names:
    """Names of pods, if a context and its nodes are there; tracing goes on without."""
    from shim.diagnostics.names import Names

    try:
        with open_client(context_file, cluster, timeout) as client:
            names = Names.read(client)
    except AxonemeError as error:
        names = Names()
        names.problem = f"addresses have no names: {error}"
    if names.problem:
        click.echo(names.problem, err=True)
    return names


class _Printer:
    """Prints lines for people."""

    def __init__(self, names: Names) -> None:
        from shim.diagnostics.render import Summary

        self._names, self._summary = names, Summary()

    def __call__(self, line: dict[str, Any]) -> None:
        from shim.diagnostics.render import histogram, line_of

        if "event" in line:
            self._summary.add(line)
            click.echo(line_of(line, self._names))
        elif "ready" in line:
            click.echo("tracing; Ctrl-C ends it", err=True)
        elif "histogram" in line:
            click.echo("\n".join(("", *histogram(line["histogram"], line["buckets"]))))
        elif "lost" in line:
            for text in self._summary.lines():
                click.echo(text)
            if line["lost"]:
                click.echo(f"{line['lost']} events were lost: the reader is too slow", err=True)
