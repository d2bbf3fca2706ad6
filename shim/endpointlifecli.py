"""`axoneme endpoint list|add|audit|delete`: which endpoints a node has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from axoneme.cli import completion
from axoneme.cli.connection import connected
from axoneme.cli.render import output_option, print_json, print_table
from axoneme.lib.errors import InvalidArgument
from shim.endpointcli import STATES
from shim.nodeaccess import find_endpoint, node_option, nodes_of, one_node, pages

if TYPE_CHECKING:
    from axoneme.api.node.v1 import node_pb2
    from axoneme.client.sync import Client

_HEADERS = ("node", "id", "workload", "identity", "ips", "state", "ingress", "egress", "labels")


@click.command("list")
@node_option("Only this node [default: all nodes of the context].")
@click.option("--filter", "text", default="", help="Substring of namespace/name or of a label.")
@output_option
@connected
def list_endpoints(client: Client, node_name: str, text: str, output: str) -> None:
    """List endpoints.

    \b
    Examples:
      axoneme endpoint list
      axoneme endpoint list --node node1 --filter app=frontend -o json
    """
    from axoneme.api.node.v1 import node_pb2

    found = []
    for name in nodes_of(client, node_name):

        def fetch(token: str, name: str = name) -> Any:
            request = node_pb2.ListEndpointsRequest(page_token=token, filter=text)
            return client.node(name).ListEndpoints(request)

        found += [(name, one) for one in pages(fetch, "endpoints")]
    if output == "json":
        print_json([{"node": name, "endpoint": one} for name, one in found])
        return
    rows = [_endpoint_row(name, one) for name, one in found]
    print_table(_HEADERS, rows, empty="no endpoints")


@click.command("add")
@click.argument("workload", metavar="NAMESPACE/NAME")
@node_option("Node of the endpoint; needed when several could be meant.")
@click.option("--netns", required=True, help="/run/netns/NAME or /proc/PID/ns/net.")
@click.option("--interface", "interface_name", default="", help="Interface inside [default: eth0].")
@click.option(
    "--label", "labels", multiple=True, metavar="KEY=VALUE", help="Label of the workload; repeatable."
)
@click.option(
    "--port", "ports", multiple=True, metavar="NAME=NUMBER/PROTOCOL", help="Named port [tcp]; repeatable."
)
@click.option("--audit", is_flag=True, help="Report what policy denies instead of dropping it.")
@click.option(
    "--ip",
    "ips",
    multiple=True,
    metavar="ADDRESS",
    help="Wanted address, one a family [default: a free one].",
)
@click.option(
    "--host-port",
    "host_ports",
    multiple=True,
    metavar="[ADDRESS:]PORT:PORT/PROTOCOL",
    help="Port of the node that leads to one of the workload [tcp]; repeatable.",
)
@click.option(
    "--adopt", is_flag=True, help="The interface exists, with the addresses of --ip: only judge it."
)
@output_option
@connected
def add(
    client: Client,
    workload: str,
    node_name: str,
    netns: str,
    interface_name: str,
    labels: tuple[str, ...],
    ports: tuple[str, ...],
    audit: bool,
    ips: tuple[str, ...],
    host_ports: tuple[str, ...],
    adopt: bool,
    output: str,
) -> None:
    """Create an endpoint for a workload in a network namespace; returns once its policy is in force.

    \b
    Examples:
      axoneme endpoint add default/web --node node1 --netns /run/netns/web --label app=web
      axoneme endpoint add default/web --netns /run/netns/web --port http=80/tcp --port dns=53/udp
      axoneme endpoint add default/web --netns /run/netns/web --ip 10.1.0.7 --host-port 8080:80/tcp
      axoneme endpoint add default/web --netns /run/netns/web --adopt --ip 10.1.0.7   bridge made eth0
    """
    from axoneme.api.node.v1 import node_pb2
    from shim.hostports import host_ports_message, parse_host_ports
    from shim.namedports import named_ports_message, parse_named_ports

    namespace, slash, pod_name = workload.partition("/")
    if not slash:
        raise InvalidArgument.of_field(
            "NAMESPACE/NAME", f"{workload!r} has no slash; write default/{workload}"
        )
    name = one_node(client, node_name)
    request = node_pb2.AddEndpointRequest(
        namespace=namespace,
        pod_name=pod_name,
        labels=labels,
        netns=netns,
        interface_name=interface_name,
        named_ports=named_ports_message(parse_named_ports(ports)),
        audit=audit,
        ips=ips,
        host_ports=host_ports_message(parse_host_ports(host_ports)),
        adopt=adopt,
    )
    made = client.node(name).AddEndpoint(request).endpoint
    if output == "json":
        print_json(made)
    else:
        print_table(_HEADERS, [_endpoint_row(name, made)])


@click.command("audit")
@click.argument("wanted", metavar="ID|[NAMESPACE/]NAME", shell_complete=completion.pods)
@click.argument("switch", type=click.Choice(["on", "off"]))
@node_option("Node of the endpoint; needed when several could be meant.")
@connected
def audit(client: Client, wanted: str, switch: str, node_name: str) -> None:
    """Switch policy auditing of an endpoint: what its policy denies passes and is reported.

    \b
    Examples:
      axoneme endpoint audit default/web on
      axoneme endpoint audit 7 off --node node1
    """
    from axoneme.api.node.v1 import node_pb2

    name, endpoint_id = find_endpoint(client, wanted, node_name)
    request = node_pb2.SetEndpointAuditRequest(endpoint_id=endpoint_id, audit=switch == "on")
    client.node(name).SetEndpointAudit(request)
    click.echo(f"policy auditing of endpoint {endpoint_id} of {name} is {switch}")


@click.command("delete")
@click.argument("wanted", metavar="ID|[NAMESPACE/]NAME", shell_complete=completion.pods)
@node_option("Node of the endpoint; needed when several could be meant.")
@connected
def delete(client: Client, wanted: str, node_name: str) -> None:
    """Remove an endpoint; its interface and addresses go with it.

    \b
    Examples:
      axoneme endpoint delete default/web
      axoneme endpoint delete 7 --node node1
    """
    from axoneme.api.node.v1 import node_pb2

    name, endpoint_id = find_endpoint(client, wanted, node_name)
    client.node(name).DeleteEndpoint(node_pb2.DeleteEndpointRequest(endpoint_id=endpoint_id))
    click.echo(f"endpoint {endpoint_id} of {name} removed")


COMMANDS = (list_endpoints, add, audit, delete)


def _endpoint_row(node_name: str, one: node_pb2.Endpoint) -> tuple[object, ...]:
    state = STATES.get(one.state, "unknown")
    return (
        node_name,
        one.endpoint_id,
        f"{one.namespace}/{one.pod_name}",
        one.identity,
        list(one.ips),
        (f"{state} ({one.state_reason})" if one.state_reason else state) + (", audit" if one.audit else ""),
        _enforcement(one.ingress),
        _enforcement(one.egress),
        [label for label in one.labels if "io.cilium" not in label and "io.kubernetes" not in label],
    )


def _enforcement(number: int) -> str:
    return {1: "default allow", 2: "default deny"}.get(number, "unknown")
