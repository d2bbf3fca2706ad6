"""Options that the commands of flows share, with the names of the stock CLI; unset ones stay None."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from axoneme.cli import completion

TIME_FORMATS: Final = (
    "StampMilli", "YearMonthDay", "YearMonthDayHour", "YearMonthDayHourMinute", "RFC3339", "RFC3339Milli",
    "RFC3339Micro", "RFC3339Nano", "RFC1123Z",
)  # fmt: skip
EVENT_OUTPUTS: Final = ("compact", "dict", "json", "jsonpb", "table", "tab")
Decorator = Callable[[Any], Any]


def _combined(*options: Decorator) -> Decorator:
    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _switch(name: str, text: str, *shorts: str) -> Decorator:
    return click.option(f"--{name}/--no-{name}", *shorts, default=None, help=text)


def _hidden(*names: str) -> Decorator:
    return click.option(*names, default=None, hidden=True)


tls_options = _combined(
    _switch("tls", "Speak TLS to --server; --tls=false: plaintext."),
    _switch("tls-allow-insecure", "Do not verify the server's certificate."),
    click.option("--tls-ca-cert-files", multiple=True, metavar="FILE,…", help="CA certificates (PEM)."),
    click.option("--tls-client-cert-file", metavar="FILE", help="Own certificate (PEM)."),
    click.option("--tls-client-key-file", metavar="FILE", help="Key of the own certificate (PEM)."),
    click.option("--tls-server-name", metavar="NAME", help="Name in the certificate of --server."),
    click.option("--basic-auth-username", metavar="NAME", help="User of basic authentication."),
    click.option("--basic-auth-password", metavar="TEXT", help="Its password."),
)

endpoint_options = _combined(
    click.option(
        "--server", metavar="TARGET", help="host:port, tls://host:port or unix:///path of a relay or node."
    ),
    click.option("--socket", "socket_path", metavar="PATH", help="Unix socket of one node instead."),
    click.option(
        "--node",
        metavar="NAME",
        shell_complete=completion.nodes,
        help="One node on this machine instead, by its name in the context.",
    ),
    tls_options,
    click.option("--request-timeout", metavar="TIME", help="Deadline of calls that are no streams [12s]."),
    click.option(
        "--config",
        "config_file",
        default=None,
        metavar="FILE",
        help="Settings as YAML [$HUBBLE_CONFIG, ~/.config/hubble/config.yaml].",
    ),
    _switch("debug", "Report all states of nodes.", "-D"),
    click.option("-P", "--port-forward", is_flag=True, default=None, hidden=True),
    _hidden("--port-forward-port"),
    _hidden("--kube-context"),
    _hidden("--kube-namespace"),
    _hidden("--kubeconfig"),
)

server_options = _combined(
    endpoint_options,
    click.option("--timeout", metavar="TIME", help="The same."),
    click.option(
        "--context",
        "context_file",
        type=click.Path(dir_okay=False, path_type=Path),
        default=None,
        metavar="FILE",
        help="Context file [default: $AXONEME_CONTEXT, ~/.config/axoneme/context.json, the running lab].",
    ),
    click.option(
        "--lab-cluster",
        default=None,
        metavar="NAME",
        shell_complete=completion.clusters,
        help="Cluster of the running lab that is asked.",
    ),
)

selector_options = _combined(
    click.option("--last", type=click.IntRange(0), metavar="N", help="Newest N of each node [20]."),
    click.option("--first", type=click.IntRange(0), metavar="N", help="Oldest N of each node."),
    click.option("--all", "take_all", is_flag=True, help="All that the nodes hold."),
    click.option("-f", "--follow", is_flag=True, help="Go on with what happens; survives a restart."),
    click.option("--since", metavar="TIME", help="From a time on: 5m, 1h30m, 2026-03-01T10:00:00Z."),
    click.option("--until", metavar="TIME", help="Up to a time."),
)

format_options = _combined(
    click.option(
        "-o",
        "--output",
        type=click.Choice(EVENT_OUTPUTS),
        default="compact",
        show_default=True,
        help="Form of the output.",
    ),
    click.option(
        "--time-format",
        type=click.Choice(TIME_FORMATS),
        default="StampMilli",
        show_default=True,
        metavar="NAME",
        help=f"{', '.join(TIME_FORMATS)}.",
    ),
    click.option("--print-node-name", is_flag=True, help="Show the node of each line."),
    click.option("-s", "--silent-errors", is_flag=True, help="Do not report states of nodes."),
)
