"""`axoneme endpoint get|config|log|regenerate`: one endpoint in full, its switches, history and repair."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from axoneme.cli import completion
from axoneme.cli.connection import connected
from axoneme.cli.render import output_option, print_json, print_table
from axoneme.lib.errors import InvalidArgument
from shim.nodeaccess import find_endpoint, node_option

if TYPE_CHECKING:
    from axoneme.api.node.v1 import node_pb2
    from axoneme.client.sync import Client

LEVELS = ("node", "none", "low", "medium", "maximum")
STATES = {1: "locked", 2: "ready", 3: "stale", 4: "terminating"}
_wanted = click.argument("wanted", metavar="ID|[NAMESPACE/]NAME", shell_complete=completion.pods)
_place = node_option("Node of the endpoint; needed when several could be meant.")


@click.command("get")
@_wanted
@_place
@output_option
@connected
def get(client: Client, wanted: str, node_name: str, output: str) -> None:
    """Show everything about one endpoint.

    \b
    Examples:
      axoneme endpoint get backend
      axoneme endpoint get default/backend -o json
    """
    from axoneme.api.node.v1 import node_pb2
    from axoneme.cli.render import message_dict

    name, endpoint_id = find_endpoint(client, wanted, node_name)
    request = node_pb2.GetEndpointRequest(endpoint_id=endpoint_id)
    found = client.node(name).GetEndpoint(request).endpoint
    if output == "json":
        print_json({"node": name, "endpoint": found})
        return
    values = message_dict(found)
    rows = [("node", name), *((key.replace("_", " "), value) for key, value in values.items() if value)]
    print_table(("field", "value"), rows)


@click.command("config")
@_wanted
@_place
@click.option(
    "--audit", type=click.Choice(["on", "off"]), help="Report what policy denies, instead of dropping it."
)
@click.option("--aggregation", type=click.Choice(LEVELS), help="How many packets become trace events.")
@connected
def config(client: Client, wanted: str, node_name: str, audit: str | None, aggregation: str | None) -> None:
    """Show the switches of an endpoint, and change those that are named.

    \b
    Examples:
      axoneme endpoint config backend
      axoneme endpoint config backend --aggregation none
      axoneme endpoint config backend --audit on
    """
    from axoneme.api.node.v1 import node_pb2

    name, endpoint_id = find_endpoint(client, wanted, node_name)
    request = node_pb2.SetEndpointConfigRequest(endpoint_id=endpoint_id)
    if audit is not None:
        request.audit = audit == "on"
    if aggregation is not None:
        request.aggregation = node_pb2.AggregationLevel.ValueType(LEVELS.index(aggregation))
    found = client.node(name).SetEndpointConfig(request).endpoint
    rows = [("audit", "on" if found.audit else "off"), ("aggregation", LEVELS[found.aggregation])]
    print_table(("switch", "value"), rows)


@click.command("log")
@_wanted
@_place
@output_option
@connected
def log(client: Client, wanted: str, node_name: str, output: str) -> None:
    """Show what happened to an endpoint, oldest first; by number also of one that is gone.

    \b
    Examples:
      axoneme endpoint log backend
      axoneme endpoint log 7 --node node1 -o json
    """
    from axoneme.api.node.v1 import node_pb2

    name, endpoint_id = _also_gone(client, wanted, node_name)
    found = client.node(name).GetEndpointLog(node_pb2.GetEndpointLogRequest(endpoint_id=endpoint_id))
    if output == "json":
        print_json(found)
        return
    print_table(("time", "state", "what"), [_row(entry) for entry in found.entries], empty="nothing happened")


@click.command("regenerate")
@_wanted
@_place
@connected
def regenerate(client: Client, wanted: str, node_name: str) -> None:
    """Attach an endpoint's programs again, repair its maps, have its connections judged again.

    \b
    Examples:
      axoneme endpoint regenerate backend
      axoneme endpoint regenerate 7 --node node1
    """
    from axoneme.api.node.v1 import node_pb2

    name, endpoint_id = find_endpoint(client, wanted, node_name)
    done = client.node(name).RegenerateEndpoint(node_pb2.RegenerateEndpointRequest(endpoint_id=endpoint_id))
    for repair in done.repairs:
        click.echo(f"repaired: {repair}")
    state = STATES.get(done.endpoint.state, "unknown")
    click.echo(f"endpoint {endpoint_id} of {name} is {state}; {len(done.repairs)} repairs")


COMMANDS = (get, config, log, regenerate)


def _also_gone(client: Client, wanted: str, node_name: str) -> tuple[str, int]:
    """A number with a node needs no endpoint that exists."""
    if wanted.isdecimal() and node_name:
        return node_name, int(wanted)
    try:
        return find_endpoint(client, wanted, node_name)
    except InvalidArgument as error:
        raise InvalidArgument(f"{error.message}; for one that is gone give its number and --node") from error


def _row(entry: node_pb2.EndpointLogEntry) -> tuple[object, ...]:
    return (
        entry.time.ToDatetime().isoformat(timespec="milliseconds") + "Z",
        STATES.get(entry.state, "gone"),
        entry.message,
    )
