"""`axoneme bpf ct|nat …`: connections and translations in the kernel of a node."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from axoneme.cli.connection import connected
from axoneme.cli.render import output_option, print_json, print_table
from axoneme.lib.errors import InvalidArgument
from shim.nodeaccess import DIRECTIONS, PROTOCOLS, node_option, nodes_of, pages, places_of

if TYPE_CHECKING:
    from axoneme.api.node.v1 import node_pb2
    from axoneme.client.sync import Client

CONNECTION_HEADERS = (
    *("node", "endpoint", "direction", "connection", "state"),
    *("peer", "idle", "expires", "flags", "rules"),
)


@click.group(
    "ct",
    epilog="""\b
Examples:
  axoneme bpf ct list --filter 10.1.1.7
  axoneme bpf ct flush --endpoint backend""",
)
def ct() -> None:
    """Connection tracking."""


@ct.command("list")
@node_option("Only this node [default: all nodes of the context].")
@click.option("--filter", "text", default="", help="Substring of `source:port -> destination:port`.")
@click.option("--endpoint", "wanted", default="", metavar="ID|[NAMESPACE/]NAME", help="Only this endpoint.")
@click.option("--limit", default=500, show_default=True, help="At most that many of each node, newest first.")
@output_option
@connected
def ct_list(client: Client, node_name: str, text: str, wanted: str, limit: int, output: str) -> None:
    """List connections, newest first, with the rules that allowed or cut them.

    \b
    Examples:
      axoneme bpf ct list --node node1
      axoneme bpf ct list --endpoint backend --filter :443 -o json
    """
    from axoneme.api.node.v1 import node_pb2

    found = []
    for name, endpoint_id in places_of(client, node_name, wanted):

        def fetch(token: str, name: str = name, endpoint_id: int | None = endpoint_id) -> Any:
            request = node_pb2.ListConnectionsRequest(page_token=token, filter=text, endpoint_id=endpoint_id)
            return client.node(name).ListConnections(request)

        found += [(name, one) for one in islice(pages(fetch, "connections"), limit)]
    if output == "json":
        print_json([{"node": name, "connection": one} for name, one in found])
        return
    headers = (
        "node",
        "endpoint",
        "direction",
        "connection",
        "state",
        "peer",
        "idle",
        "expires",
        "flags",
        "rules",
    )
    print_table(headers, [_connection_row(name, one) for name, one in found], empty="no connections")


@ct.command("flush")
@node_option("Only this node [default: all nodes of the context].")
@click.option("--filter", "text", default="", help="Substring of `source:port -> destination:port`.")
@click.option("--endpoint", "wanted", default="", metavar="ID|[NAMESPACE/]NAME", help="Only this endpoint.")
@click.option("--all", "everything", is_flag=True, help="Every connection; needed without another choice.")
@connected
def ct_flush(client: Client, node_name: str, text: str, wanted: str, everything: bool) -> None:
    """Forget connections: their next packets are judged as new ones, replies like first packets.

    \b
    Examples:
      axoneme bpf ct flush --endpoint backend
      axoneme bpf ct flush --node node1 --filter 192.0.2.9
    """
    from axoneme.api.node.v1 import node_pb2

    if not (text or wanted or everything):
        raise InvalidArgument("this would forget every connection; say --all, --filter or --endpoint")
    for name, endpoint_id in places_of(client, node_name, wanted):
        request = node_pb2.FlushConnectionsRequest(filter=text, endpoint_id=endpoint_id)
        removed = client.node(name).FlushConnections(request).removed
        click.echo(f"{name}: {removed} connections forgotten")


@click.group(
    "nat",
    epilog="""\b
Example:
  axoneme bpf nat list --filter 10.1.1.7""",
)
def nat() -> None:
    """Address translation."""


@nat.command("list")
@node_option("Only this node [default: all nodes of the context].")
@click.option("--filter", "text", default="", help="Substring of an address with its port.")
@click.option("--limit", default=500, show_default=True, help="At most that many of each node.")
@output_option
@connected
def nat_list(client: Client, node_name: str, text: str, limit: int, output: str) -> None:
    """List what packets become, by the hook at which it happens.

    \b
    Examples:
      axoneme bpf nat list --node node1
      axoneme bpf nat list --filter :30080 -o json
    """
    from axoneme.api.node.v1 import node_pb2

    found = []
    for name in nodes_of(client, node_name):

        def fetch(token: str, name: str = name) -> Any:
            request = node_pb2.ListTranslationsRequest(page_token=token, filter=text)
            return client.node(name).ListTranslations(request)

        found += [(name, one) for one in islice(pages(fetch, "translations"), limit)]
    if output == "json":
        print_json([{"node": name, "translation": one} for name, one in found])
        return
    rows = [
        (
            name,
            one.side,
            one.endpoint_id or "",
            PROTOCOLS.get(one.protocol, one.protocol),
            f"{one.source} -> {one.destination}",
            f"{one.new_source} -> {one.new_destination}",
            f"{one.idle_seconds:.0f}s",
            list(one.flags),
        )
        for name, one in found
    ]
    headers = ("node", "side", "endpoint", "protocol", "packet", "becomes", "idle", "flags")
    print_table(headers, rows, empty="no translations")


def _connection_row(node_name: str, one: node_pb2.Connection) -> tuple[object, ...]:
    from axoneme.lib.identities import name_of

    protocol = PROTOCOLS.get(one.protocol, str(one.protocol))
    ways = f"{_place(one.source_ip, one.source_port)} -> {_place(one.destination_ip, one.destination_port)}"
    return (
        node_name,
        one.endpoint_id or "host",
        DIRECTIONS.get(one.direction, "unknown"),
        f"{protocol} {ways}",
        one.state,
        name_of(one.peer_identity),
        f"{one.idle_seconds:.0f}s",
        f"{one.expires_seconds:.0f}s",
        list(one.flags),
        [
            f"{o.kind} {f'{o.namespace}/' if o.namespace else ''}{o.name} {o.rule}".strip()
            for o in one.origins
        ],
    )


def _place(ip: str, port: int) -> str:
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
