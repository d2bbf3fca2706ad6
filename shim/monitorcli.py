"""`axoneme monitor`: events of one node's programs as they happen, close to how the kernel says them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from axoneme.cli import completion
from axoneme.cli.connection import connected
from shim.nodeaccess import find_endpoint, node_option, one_node

if TYPE_CHECKING:
    from collections.abc import Iterable

    from axoneme.api.hubble.flow import flow_pb2
    from axoneme.api.hubble.observer import observer_pb2
    from axoneme.client.sync import Client

KINDS = {"drop": 1, "trace": 4, "policy-verdict": 5}


@click.command()
@node_option("Node to watch; needed when several could be meant.")
@click.option(
    "--type", "kinds", type=click.Choice(list(KINDS)), multiple=True, help="Only these; repeatable."
)
@click.option(
    "--related-to",
    "wanted",
    default="",
    metavar="ID|[NAMESPACE/]NAME",
    shell_complete=completion.pods,
    help="Only events of this endpoint's programs.",
)
@click.option("-n", "--count", default=0, metavar="N", help="End after N events [never].")
@click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", help="Form of the output [text]."
)
@connected
def monitor(
    client: Client, node_name: str, kinds: tuple[str, ...], wanted: str, count: int, output: str
) -> None:
    """Print drops, traces and policy verdicts of one node as they happen.

    \b
    Examples:
      axoneme monitor --node node1 --type drop
      axoneme monitor --related-to backend
      axoneme monitor --node node2 -o json -n 10
    """
    endpoint_id = 0
    if wanted:
        node_name, endpoint_id = find_endpoint(client, wanted, node_name)
    else:
        node_name = one_node(client, node_name)
    shown = 0
    try:
        for response in _followed(client, node_name, kinds):
            if _write(response, endpoint_id, output):
                shown += 1
            if count and shown >= count:
                return
    except KeyboardInterrupt:
        sys.stdout.flush()


def _followed(
    client: Client, node_name: str, kinds: tuple[str, ...]
) -> Iterable[observer_pb2.GetFlowsResponse]:
    """Events of the node from now on."""
    from google.protobuf.timestamp_pb2 import Timestamp

    from axoneme.api.hubble.flow import flow_pb2
    from axoneme.api.hubble.observer import observer_pb2

    request = observer_pb2.GetFlowsRequest(follow=True)
    now = Timestamp()
    now.GetCurrentTime()
    request.since.CopyFrom(now)
    if kinds:
        types = [flow_pb2.EventTypeFilter(type=KINDS[kind]) for kind in kinds]
        request.whitelist.add(event_type=types)
    return client.node_observer(node_name).GetFlows(request)


def _write(response: observer_pb2.GetFlowsResponse, endpoint_id: int, output: str) -> bool:
    """Prints an event; whether it counts as one. Losses are always said."""
    from axoneme.cli.flowprinter_json import response_json

    if response.HasField("lost_events"):
        click.echo(f"lost {response.lost_events.num_events_lost} events", err=True)
    if not response.HasField("flow") or (endpoint_id and not concerns(response.flow, endpoint_id)):
        return False
    if output == "json":
        click.echo(response_json(response))
    else:
        click.echo(line(response.flow))
    sys.stdout.flush()
    return True


def concerns(flow: flow_pb2.Flow, endpoint_id: int) -> bool:
    """Whether one end is this endpoint of the node."""
    return endpoint_id in (flow.source.ID, flow.destination.ID)


def line(flow: flow_pb2.Flow) -> str:
    """`xx Policy denied, endpoint 7 -> 9, identity 256 -> 300, …`, with every text made harmless."""
    from axoneme.cli.flowprinter_words import (
        clean,
        deciding_policies,
        flow_type,
        host_and_port,
        join_host_port,
    )

    ends = [join_host_port(*host_and_port(flow, source=source, numeric=True)) for source in (True, False)]
    mark = "xx" if flow.event_type.type == KINDS["drop"] else "->"
    rules = deciding_policies(flow)
    words = [
        f"{mark} {flow_type(flow)}",
        f"endpoint {flow.source.ID or '-'} -> {flow.destination.ID or '-'}",
        f"identity {flow.source.identity} -> {flow.destination.identity}",
        f"ifindex {flow.interface.index}" if flow.interface.index else "",
        f"{ends[0]} -> {ends[1]} {flow.Summary}".strip(),
        f"by {rules}" if rules else "",
    ]
    return clean(", ".join(word for word in words if word))
