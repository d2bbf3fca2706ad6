"""`axoneme observe`: flows from the relay, from one node or from a file.

Flags are those of the Hubble CLI. This module parses them and moves responses from the source to the printer;
filters are made in `axoneme.lib.flows`, streams in `axoneme.cli.hubble`, lines in `axoneme.cli.flowprinter`.
The order of filter flags matters (`--not` is for the next one), so they are collected as they were given.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

import click

from axoneme.cli import completion
from axoneme.cli.hubble.goflags import FILTER_PREFIX, ViewsCommand, bind_negations
from axoneme.cli.hubble.options import format_options, selector_options, server_options
from axoneme.lib.errors import InvalidArgument
from axoneme.lib.flows.flagtable import FLAGS

if TYPE_CHECKING:
    from axoneme.api.hubble.observer import observer_pb2
    from axoneme.cli.flowprinter import PrinterOptions
    from axoneme.cli.hubble.connection import Chosen
    from axoneme.cli.hubble.explain import Explainer
    from axoneme.cli.hubble.pump import Batches
    from axoneme.lib.flows.request import Selectors

TEXT_OUTPUTS: Final = ("compact", "dict", "table", "tab")
LEGACY_JSON: Final = "legacy-json-output"
EPILOG: Final = """\b
Examples:
  axoneme observe                                   the newest 20 flows of all nodes
  axoneme observe -f --verdict DROPPED              drops as they happen, with the deciding policy
  axoneme observe --verdict DROPPED --explain       and the rule that nearly allowed each of them
  axoneme observe --pod default/frontend --port 8080
  axoneme observe --from-label app=batch --not --protocol icmp
  axoneme observe --protocol dns --verdict DROPPED  names that policy refused
  axoneme observe --to-fqdn '*.example.com'         traffic to addresses of looked-up names
  axoneme observe --since 5m -o jsonpb > flows.json
  axoneme observe --input-file flows.json --to-pod default/backend
  axoneme observe agent-events                      what the nodes' agents did
  axoneme observe debug-events                      debug messages of the datapath

\b
The same filter twice means OR, different filters mean AND; all --not filters together make one filter that
is taken away. --pod, --ip, --label, … look at either end; --from-… and --to-… at one. `observe flows` is
`observe`; `agent-events` and `debug-events` have a --help of their own."""


class ObserveCommand(ViewsCommand):
    """A command whose filter options keep their order and may follow `--not`."""

    views: Mapping[str, str] = {
        "flows": "",
        "agent-events": "axoneme.cli.hubble.events:agent_events",
        "debug-events": "axoneme.cli.hubble.events:debug_events",
    }

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Collect filters in their order."""
        ctx.meta[__name__] = []
        return super().parse_args(ctx, bind_negations(self, ctx, args))


FILTER_COMPLETIONS: Final = {
    "verdict": completion.verdicts,
    "pod": completion.pods,
    "node-name": completion.nodes,
    "cluster": completion.clusters,
}


def _complete_filter(name: str) -> completion.Completer | None:
    return FILTER_COMPLETIONS.get(name.removeprefix("from-").removeprefix("to-"))


def _filter_options(command: Any) -> Any:
    """Add the options of all filter flags, and their hidden negations."""
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
@selector_options
@format_options
@click.option(
    "--print-policy-names/--no-print-policy-names",
    default=None,
    help="Name the policies that decided [on in compact].",
)
@click.option("--explain", is_flag=True, help="Say behind each verdict which rule decided, or nearly did.")
@click.option(
    "--color",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    help="Colours.",
)
@click.option("--ip-translation/--no-ip-translation", default=True, help="Names instead of addresses [on].")
@click.option("--numeric", is_flag=True, help="Addresses instead of names.")
@click.option("--field-mask", multiple=True, metavar="PATH,…", help="Only these fields, in JSON.")
@click.option(
    "--use-default-field-masks/--no-use-default-field-masks",
    default=True,
    help="Ask only for the fields that are printed [on].",
)
@click.option("--input-file", metavar="FILE", help="Read flows (jsonpb lines) from a file, - for stdin.")
@click.option("--allowlist", multiple=True, metavar="JSON", help="FlowFilter as JSON, besides the flags.")
@click.option("--denylist", multiple=True, metavar="JSON", help="FlowFilter to take away, as JSON.")
@click.option("--print-raw-filters", is_flag=True, help="Print the filters as YAML and ask nobody.")
@server_options
@_filter_options
@click.pass_context
def observe(ctx: click.Context, /, **options: Any) -> int:
    """Show flows: who talked to whom, what became of it, and which policy decided."""
    from axoneme.cli.hubble.connection import chosen_of
    from axoneme.cli.hubble.rawfilters import all_filters, filters_yaml
    from axoneme.lib.flows.request import make_request

    selectors = _selectors(options)
    chosen = chosen_of(options)
    here = options["input_file"] is not None
    whitelist, blacklist = all_filters(ctx.meta[__name__], options, chosen.settings.filters, here=here)
    if options["print_raw_filters"]:
        click.echo(filters_yaml(whitelist, blacklist), nl=False)
        return 0
    mask = _mask(options)
    request = make_request(selectors, whitelist, blacklist, now_ns=time.time_ns(), field_mask=mask)
    return _observe(options, chosen, selectors, request)


def _observe(
    options: dict[str, Any],
    chosen: Chosen,
    selectors: Selectors,
    request: observer_pb2.GetFlowsRequest,
) -> int:
    """Move responses from their source to the printer."""
    from axoneme.cli.flowprinter import make_printer
    from axoneme.cli.hubble.inputfile import responses_of_file
    from axoneme.cli.hubble.pump import Console, pump

    console = Console(follow=selectors.follow, silent=options["silent_errors"])
    printer = make_printer(_style(options, chosen), console.out, console.err)
    with ExitStack() as stack:
        explainer = _explainer(stack, chosen) if options["explain"] else None
        if options["input_file"] is not None:
            batches: Batches = responses_of_file(stack, options["input_file"], request, selectors.is_plain)
        else:
            batches = _from_server(stack, chosen, request, console)
        said = console.err if options["output"] in TEXT_OUTPUTS else None
        return pump(batches, printer, console, explainer, nothing=said)


def _selectors(options: dict[str, Any]) -> Selectors:
    from axoneme.lib.flows.request import Selectors

    names = ("last", "first", "take_all", "follow", "since", "until")
    selectors = Selectors(**{name: options[name] for name in names})
    selectors.check(options["output"])
    if options["explain"] and options["output"] not in TEXT_OUTPUTS:
        raise InvalidArgument("--explain cannot be combined with JSON, whose lines are responses of the API")
    return selectors


def _mask(options: dict[str, Any]) -> Iterable[str]:
    """Paths to ask for: all of them for JSON, else what the lines show."""
    from axoneme.lib.flows import fieldmasks

    json_output = options["output"] in ("json", "jsonpb")
    if options["field_mask"]:
        if not json_output:
            raise InvalidArgument(
                "--field-mask needs -o json or -o jsonpb; the other forms print fixed fields"
            )
        return fieldmasks.parse_mask(options["field_mask"]).paths
    if json_output or not options["use_default_field_masks"]:
        return ()
    return fieldmasks.DEFAULT_PATHS


def _style(options: dict[str, Any], chosen: Chosen) -> PrinterOptions:
    from axoneme.cli.flowprinter import PrinterOptions
    from axoneme.cli.hubble.pump import use_colour

    return PrinterOptions(
        output=options["output"],
        time_format=options["time_format"],
        print_node_name=options["print_node_name"],
        print_policy_names=options["print_policy_names"],
        numeric=options["numeric"] or not options["ip_translation"],
        colour=use_colour(options["color"]),
        debug=chosen.settings.flag("debug"),
        bare_flows=LEGACY_JSON in os.environ.get("HUBBLE_COMPAT", "").split(","),
    )


def _from_server(
    stack: ExitStack, chosen: Chosen, request: observer_pb2.GetFlowsRequest, console: Any
) -> Iterator[Any]:
    """Batches of responses of the server that the options name."""
    from axoneme.cli.hubble.connection import open_server
    from axoneme.cli.hubble.flowstream import FlowStream
    from axoneme.cli.hubble.follow import Follow

    stream = FlowStream(stack.enter_context(open_server(chosen)))
    if request.follow:
        return Follow(stream, request, console.err).responses()
    from axoneme.api.hubble.observer import observer_pb2

    parse = observer_pb2.GetFlowsResponse.FromString
    return (map(parse, batch) for batch in stream.batches(request))


def _explainer(stack: ExitStack, chosen: Chosen) -> Explainer:
    from axoneme.cli.hubble.explain import Explainer
    from axoneme.client.context import load_context
    from axoneme.client.sync import Client

    context = load_context(chosen.context_file, cluster=chosen.lab_cluster)
    return Explainer(stack.enter_context(Client(context)).policy)
