"""`axoneme observe agent-events` and `observe debug-events`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from axoneme.cli.hubble.goflags import GoCommand
from axoneme.cli.hubble.options import format_options, selector_options, server_options

if TYPE_CHECKING:
    from axoneme.cli.hubble.eventprinter import EventForm

AGENT_EPILOG = """\b
Examples:
  axoneme observe agent-events                    the newest 20 of each node
  axoneme observe agent-events -f -o json
  axoneme observe agent-events --since 1h --last 4"""
DEBUG_EPILOG = """\b
Examples:
  axoneme observe debug-events                    the newest 20 of each node
  axoneme observe debug-events -f --print-node-name
  axoneme observe debug-events --since 5m -o table"""


def _command(name: str, epilog: str) -> Callable[[Any], click.Command]:
    def decorate(function: Any) -> click.Command:
        for decorator in (server_options, format_options, selector_options):
            function = decorator(function)
        made: click.Command = click.command(name, cls=GoCommand, epilog=epilog)(function)
        return made

    return decorate


@_command("agent-events", AGENT_EPILOG)
def agent_events(**options: Any) -> int:
    """Show what the agents of the nodes did: policies, endpoints, addresses."""
    from axoneme.api.hubble.observer import observer_pb2
    from axoneme.cli.hubble.eventprinter import AGENT

    request, answer = observer_pb2.GetAgentEventsRequest, observer_pb2.GetAgentEventsResponse
    return _show(options, "GetAgentEvents", request, answer, AGENT)


@_command("debug-events", DEBUG_EPILOG)
def debug_events(**options: Any) -> int:
    """Show debug messages of the datapath."""
    from axoneme.api.hubble.observer import observer_pb2
    from axoneme.cli.hubble.eventprinter import DEBUG

    request, answer = observer_pb2.GetDebugEventsRequest, observer_pb2.GetDebugEventsResponse
    return _show(options, "GetDebugEvents", request, answer, DEBUG)


def _show(
    options: dict[str, Any], method: str, request_type: Any, response_type: Any, form: EventForm
) -> int:
    from axoneme.cli.flowprinter_text import PrinterOptions
    from axoneme.cli.hubble.connection import chosen_of, open_server
    from axoneme.cli.hubble.eventprinter import EventPrinter
    from axoneme.cli.hubble.pump import Console, pump
    from axoneme.lib.flows.request import Selectors, make_request

    names = ("last", "first", "take_all", "follow", "since", "until")
    selectors = Selectors(**{name: options[name] for name in names})
    selectors.check(options["output"])
    flows = make_request(selectors, [], [], now_ns=time.time_ns())
    request = request_type(number=flows.number, first=flows.first, follow=flows.follow)
    for name in ("since", "until"):
        if flows.HasField(name):
            getattr(request, name).CopyFrom(getattr(flows, name))
    style = PrinterOptions(
        output=options["output"],
        time_format=options["time_format"],
        print_node_name=options["print_node_name"],
    )
    console = Console(follow=selectors.follow, silent=options["silent_errors"])
    with open_server(chosen_of(options)) as server:
        stream = server.stream(f"/observer.Observer/{method}", request)
        batches: Iterator[Any] = ((response_type.FromString(data),) for data in stream)
        return pump(batches, EventPrinter(form, style, console.out), console)
