"""`axoneme observe`: flows from the relay, from one node or from a file.

Flags are those of the Hubble CLI. This module parses them and moves responses from the source to the printer;
filters are made in `axoneme.lib.flows`, lines in `axoneme.cli.flowprinter`. The order of filter flags matters
(`--not` is for the next one), so they are collected in the order in which they were given.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from axoneme.cli import completion
from axoneme.cli.connection import connection_options, find_context
from axoneme.lib.errors import AxonemeError, InvalidArgument, NotFound

if TYPE_CHECKING:
    from axoneme.api.hubble.observer import observer_pb2
    from axoneme.client.context import Context
    from axoneme.lib.tls import TlsFiles

NOT: Final = "--not"
PIPE_CLOSED_EXIT: Final = 0
TIME_FORMATS: Final = (
    "StampMilli", "YearMonthDay", "YearMonthDayHour", "YearMonthDayHourMinute", "RFC3339", "RFC3339Milli",
    "RFC3339Micro", "RFC3339Nano", "RFC1123Z",
)  # fmt: skip
EPILOG: Final = """\b
Examples:
  axoneme observe                                   the newest 20 flows of all nodes
  axoneme observe -f --verdict DROPPED              drops as they happen, with the deciding policy
  axoneme observe --pod default/frontend --port 8080
  axoneme observe --from-label app=batch --not --protocol icmp
  axoneme observe --since 5m -o jsonpb > flows.json
  axoneme observe --input-file flows.json --to-pod default/backend

\b
The same filter twice means OR, different filters mean AND; all --not filters together make one filter that
is taken away. --pod, --ip, --label, … look at either end; --from-… and --to-… at one."""


class ObserveCommand(click.Command):
    """A command whose filter options keep their order and may follow `--not`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take `flows` as the name of the default view, then collect filters in their order."""
        rest = args[1:] if args[:1] == ["flows"] else args
        ctx.meta[__name__] = []
        return super().parse_args(ctx, _bind_negations(self, ctx, rest))


def _bind_negations(command: click.Command, ctx: click.Context, args: Sequence[str]) -> list[str]:
    """Turn `--not --flag value` into `--not-flag value`, a hidden option."""
    names: dict[str, tuple[str, bool]] = {}
    valued: set[str] = set()
    for option in command.get_params(ctx):
        if not isinstance(option, click.Option):
            continue
        takes_value = not option.is_flag
        is_filter = (option.name or "").startswith(FILTER_PREFIX)
        long = next((text for text in option.opts if text.startswith("--")), "")
        for text in option.opts:
            if is_filter:
                names[text] = (long, takes_value)
            if takes_value:
                valued.add(text)
    result: list[str] = []
    negate, is_value = False, False
    for token in args:
        head, equals, tail = token.partition("=")
        if is_value:
            is_value = False
        elif token == NOT:
            if negate:
                raise click.UsageError("--not cannot be followed by --not", ctx)
            negate = True
            continue
        elif negate and head in names:
            long, takes_value = names[head]
            token = f"--not-{long.removeprefix('--')}{equals}{tail}"
            negate, is_value = False, takes_value and not equals
        else:
            is_value = token in valued
        result.append(token)
    if negate:
        raise click.UsageError("--not is followed by no filter", ctx)
    return result


FILTER_PREFIX: Final = "filter_"
FILTER_COMPLETIONS: Final = {
    "verdict": completion.verdicts,
    "pod": completion.pods,
    "node-name": completion.nodes,
}


def _complete_filter(name: str) -> completion.Completer | None:
    return FILTER_COMPLETIONS.get(name.removeprefix("from-").removeprefix("to-"))


def _filter_options(command: Any) -> Any:
    """Add the options of all filter flags, and their hidden negations."""
    from axoneme.lib.flows.flags import FLAGS

    for flag in reversed(FLAGS):
        name = flag.name.replace("-", "_")
        shared: dict[str, Any] = {"expose_value": False, "callback": _collect}
        if flag.is_switch:
            shared["is_flag"] = True
        else:  # a plain is_flag=False would make the value optional
            shared |= {
                "multiple": True,
                "metavar": flag.metavar,
                "shell_complete": _complete_filter(flag.name),
            }
        shorts = (flag.short,) if flag.short else ()
        negated = click.option(f"{FILTER_PREFIX}not_{name}", f"--not-{flag.name}", hidden=True, **shared)
        plain = click.option(f"{FILTER_PREFIX}{name}", f"--{flag.name}", *shorts, help=flag.help, **shared)
        command = plain(negated(command))
    return command


def _collect(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
    long = next(text for text in parameter.opts if text.startswith("--")).removeprefix("--")
    negated = long.startswith("not-")
    values = value if isinstance(value, tuple) else ("",) if value else ()
    ctx.meta[__name__] += [(long.removeprefix("not-"), text, negated) for text in values]


@click.command(cls=ObserveCommand, epilog=EPILOG, context_settings={"help_option_names": ["--help"]})
@click.option("--last", type=click.IntRange(0), metavar="N", help="Newest N flows of each node [20].")
@click.option("--first", type=click.IntRange(0), metavar="N", help="Oldest N flows of each node.")
@click.option("--all", "take_all", is_flag=True, help="All flows that the nodes hold.")
@click.option("-f", "--follow", is_flag=True, help="Go on with flows as they happen.")
@click.option("--since", metavar="TIME", help="From a time on: 5m, 1h30m, 2026-03-01T10:00:00Z.")
@click.option("--until", metavar="TIME", help="Up to a time.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["compact", "dict", "json", "jsonpb", "table", "tab"]),
    default="compact",
    show_default=True,
    help="Form of the output.",
)
@click.option(
    "--time-format",
    type=click.Choice(TIME_FORMATS),
    default="StampMilli",
    show_default=True,
    metavar="NAME",
    help=f"{', '.join(TIME_FORMATS)}.",
)
@click.option("--print-node-name", is_flag=True, help="Show the node of each flow.")
@click.option(
    "--print-policy-names/--no-print-policy-names",
    default=None,
    help="Name the policies that decided [on in compact].",
)
@click.option(
    "--color",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    help="Colours.",
)
@click.option("--numeric", is_flag=True, help="Addresses instead of names.")
@click.option("--server", metavar="TARGET", help="host:port or unix:///path of a relay or node instead.")
@click.option("--socket", "socket_path", metavar="PATH", help="Unix socket of one node instead.")
@click.option(
    "--node",
    metavar="NAME",
    shell_complete=completion.nodes,
    help="One node on this machine instead, by its name in the context.",
)
@click.option("--tls-server-name", metavar="NAME", help="Name in the certificate of --server [the relay's].")
@click.option("--input-file", metavar="FILE", help="Read flows (jsonpb lines) from a file, - for stdin.")
@click.option("--allowlist", multiple=True, metavar="JSON", help="FlowFilter as JSON, besides the flags.")
@click.option("--denylist", multiple=True, metavar="JSON", help="FlowFilter to take away, as JSON.")
@click.option("--print-raw-filters", is_flag=True, help="Print the filters as JSON and ask nobody.")
@click.option("-s", "--silent-errors", is_flag=True, help="Do not report states of nodes.")
@click.option("-D", "--debug", is_flag=True, help="Report all states of nodes.")
@connection_options
@_filter_options
@click.pass_context
def observe(ctx: click.Context, /, **options: Any) -> int:
    """Show flows: who talked to whom, what became of it, and which policy decided."""
    from axoneme.cli.flowprinter import PrinterOptions, make_printer
    from axoneme.lib.flows.request import Selectors, make_request

    chosen = {name: options[name] for name in ("last", "first", "take_all", "follow", "since", "until")}
    selectors = Selectors(**chosen)
    selectors.check(options["output"])
    whitelist, blacklist = _filters(ctx.meta[__name__], options)
    if options["print_raw_filters"]:
        return _print_raw(whitelist, blacklist)
    request = make_request(selectors, whitelist, blacklist, now_ns=time.time_ns())
    style = PrinterOptions(
        output=options["output"],
        time_format=options["time_format"],
        print_node_name=options["print_node_name"],
        print_policy_names=options["print_policy_names"],
        numeric=options["numeric"],
        colour=_use_colour(options["color"]),
        debug=options["debug"],
    )
    err = _discard if options["silent_errors"] else _write_err
    printer = make_printer(style, _writer(flush=options["follow"]), err)
    with ExitStack() as stack:
        if options["input_file"] is not None:
            responses = _from_file(stack, options["input_file"], request, everything=selectors.is_plain)
        else:
            responses = _from_server(stack, options, request)
        said = options["silent_errors"] or options["output"] in ("json", "jsonpb")
        return _print_all(responses, printer, err=_discard if said else _write_err)


def _filters(flags: Sequence[tuple[str, str, bool]], options: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """Whitelist and blacklist of flags and raw JSON, checked here so that mistakes name the flag."""
    from axoneme.lib.flows.filters import FlowMatcher
    from axoneme.lib.flows.flags import build_filters

    for name, value, _ in flags:
        _check_flag(name, value)
    whitelist, blacklist = build_filters(flags)
    whitelist += [parsed for text in options["allowlist"] for parsed in _raw_filters(text, "allowlist")]
    blacklist += [parsed for text in options["denylist"] for parsed in _raw_filters(text, "denylist")]
    FlowMatcher(whitelist, blacklist)
    return whitelist, blacklist


def _check_flag(name: str, value: str) -> None:
    """A mistake is reported under the flag that was typed, not under the filter that is made of it."""
    from axoneme.lib.flows.filters import FlowMatcher
    from axoneme.lib.flows.flags import build_filters

    alone, _ = build_filters([(name, value, False)])
    try:
        FlowMatcher(alone, [])
    except AxonemeError as error:
        text = "; ".join(violation.description for violation in error.violations[:1]) or error.message
        raise type(error)(f"--{name}: {text}") from error


def _raw_filters(text: str, flag: str) -> Iterator[Any]:
    """One or several JSON objects in a row."""
    from google.protobuf import json_format

    from axoneme.api.hubble.flow import flow_pb2

    decoder, rest = json.JSONDecoder(), text.strip()
    while rest:
        try:
            value, end = decoder.raw_decode(rest)
            yield json_format.ParseDict(value, flow_pb2.FlowFilter())
        except (ValueError, json_format.ParseError) as error:
            raise InvalidArgument(f"--{flag}: not a FlowFilter in JSON: {error}") from error
        rest = rest[end:].lstrip()


def _print_raw(whitelist: Iterable[Any], blacklist: Iterable[Any]) -> int:
    from google.protobuf import json_format

    for name, filters in (("allowlist", whitelist), ("denylist", blacklist)):
        for position, one in enumerate(filters):
            if position == 0:
                click.echo(f"{name}:")
            values = json_format.MessageToDict(one, preserving_proto_field_name=True)
            click.echo(f"    - '{json.dumps(values, separators=(',', ':'))}'")
    return 0


def _from_file(
    stack: ExitStack, path: str, request: observer_pb2.GetFlowsRequest, *, everything: bool
) -> Iterable[observer_pb2.GetFlowsResponse]:
    from axoneme.lib.flows.request import select_responses

    try:
        source = nullcontext(sys.stdin) if path == "-" else Path(path).open(encoding="utf-8")  # noqa: SIM115
        lines = stack.enter_context(source)
    except OSError as error:
        raise NotFound(f"--input-file {path}: {error.strerror}") from error
    return select_responses(_parsed(lines, path), request, everything=everything)


def _parsed(lines: Iterable[str], path: str) -> Iterator[observer_pb2.GetFlowsResponse]:
    from axoneme.cli.flowprinter_json import parse_response

    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield parse_response(line)
            except ValueError as error:
                raise InvalidArgument(f"--input-file {path}, line {number}: {error}") from error


def _from_server(
    stack: ExitStack, options: dict[str, Any], request: observer_pb2.GetFlowsRequest
) -> Iterable[observer_pb2.GetFlowsResponse]:
    """Responses of the relay in the context, or of the server that the flags name."""
    named = [name for name in ("server", "socket_path", "node") if options[name]]
    if len(named) > 1:
        raise InvalidArgument("--server, --socket and --node exclude each other")
    if not named:
        from axoneme.cli.connection import open_client

        client = stack.enter_context(
            open_client(options["context_file"], options["cluster"], options["timeout"])
        )
        if client.context.simulated:
            click.echo("simulated: no packets, so there are no flows", err=True)
        stream: Iterable[observer_pb2.GetFlowsResponse] = client.observer.GetFlows(request)
        return stream
    from axoneme.api.hubble.observer import observer_pb2_grpc
    from axoneme.lib.channel import open_sync_channel

    target, tls, server_name = _named_server(options)
    channel = stack.enter_context(open_sync_channel(target, tls, server_name))
    answer: Iterable[observer_pb2.GetFlowsResponse] = observer_pb2_grpc.ObserverStub(channel).GetFlows(
        request
    )
    return answer


def _named_server(options: dict[str, Any]) -> tuple[str, TlsFiles | None, str | None]:
    """Target, certificates and the name to expect; unix sockets need neither."""
    if options["socket_path"]:
        return f"unix://{Path(options['socket_path']).absolute()}", None, None
    target: str = options["server"] or ""
    if target.startswith("unix:"):
        return target, None, None
    context = find_context(options["context_file"], options["cluster"])
    if options["node"]:
        return f"unix://{context.node_socket(options['node']).absolute()}", None, None
    return target, _tls(context), options["tls_server_name"] or context.server_name("relay")


def _tls(context: Context) -> TlsFiles:
    from axoneme.lib.tls import TlsFiles

    if context.ca_file is None or context.cert_file is None or context.key_file is None:
        raise InvalidArgument(f"the context {context.source} names no certificates; --server needs them")
    return TlsFiles(context.ca_file, context.cert_file, context.key_file)


def _print_all(responses: Iterable[Any], printer: Any, *, err: Any) -> int:
    """Print until the source ends, the user interrupts or our reader goes away; all are success."""
    found = False
    try:
        try:
            for response in responses:
                found = found or response.WhichOneof("response_types") != "node_status"
                printer.write(response)
            if not found:
                err("no flow matches\n")
        except KeyboardInterrupt:
            pass
        printer.close()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED_EXIT
    return 0


def _writer(*, flush: bool) -> Any:
    def write(text: str) -> None:
        sys.stdout.write(text)
        if flush:
            sys.stdout.flush()

    return write


def _write_err(text: str) -> None:
    sys.stdout.flush()
    sys.stderr.write(text)


def _discard(_: str) -> None:
    """The writer for --silent-errors."""


def _use_colour(choice: str) -> bool:
    if choice == "auto":
        return sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    return choice == "always"
