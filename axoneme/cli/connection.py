"""How commands reach a cluster: options --context, --cluster and --timeout, and a client."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from axoneme.cli import completion
from axoneme.client.context import Context, load_context

if TYPE_CHECKING:
    from axoneme.client.sync import Client

DEFAULT_TIMEOUT_SECONDS = 10.0


def connection_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --context, --cluster and --timeout as context_file, cluster and timeout."""
    options = [
        click.option(
            "--context",
            "context_file",
            type=click.Path(dir_okay=False, path_type=Path),
            default=None,
            metavar="FILE",
            help="Context file [default: $AXONEME_CONTEXT, ~/.config/axoneme/context.json, the running lab].",
        ),
        click.option(
            "--cluster",
            default=None,
            metavar="NAME",
            shell_complete=completion.clusters,
            help="Cluster of the running lab.",
        ),
        click.option(
            "--timeout",
            type=click.FloatRange(min=0.0, min_open=True),
            default=DEFAULT_TIMEOUT_SECONDS,
            show_default=True,
            metavar="SECONDS",
            help="Deadline of each call.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def connected(command: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: adds the connection options; the command gets `client`, a sync client of the cluster."""

    @functools.wraps(command)
    def run(*args: Any, context_file: Path | None, cluster: str | None, timeout: float, **kwargs: Any) -> Any:
        with open_client(context_file, cluster, timeout) as client:
            return command(*args, client=client, **kwargs)

    return connection_options(run)


def open_client(
    context_file: Path | None, cluster: str | None, timeout: float = DEFAULT_TIMEOUT_SECONDS
) -> Client:
    """A client of the chosen cluster; gRPC is imported here. Raises NotFound, InvalidArgument."""
    context = find_context(context_file, cluster)
    from axoneme.client.sync import Client

    return Client(context, timeout_seconds=timeout)


def find_context(context_file: Path | None, cluster: str | None) -> Context:
    """The context; says so on stderr when it is the running lab that nobody asked for."""
    context = load_context(context_file, cluster=cluster)
    if context.from_lab:
        click.echo(f"using the running lab (cluster {context.cluster})", err=True)
    return context
