"""`axoneme bpf lb|maglev …`: frontends, backends and Maglev tables in the kernel of a node."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from axoneme.cli.connection import connected
from axoneme.cli.render import output_option, print_json, print_table
from shim.nodeaccess import node_option, nodes_of, one_node, pages

if TYPE_CHECKING:
    from axoneme.api.node.v1 import node_pb2
    from axoneme.client.sync import Client


@click.group(
    "lb",
    epilog="""\b
Example:
  axoneme bpf lb list --filter web""",
)
def lb() -> None:
    """Load balancing."""


@lb.command("list")
@node_option("Only this node [default: all nodes of the context].")
@click.option("--filter", "text", default="", help="Substring of address:port/PROTOCOL or of namespace/name.")
@output_option
@connected
def lb_list(client: Client, node_name: str, text: str, output: str) -> None:
    """List frontends with their backends.

    \b
    Examples:
      axoneme bpf lb list --node node1
      axoneme bpf lb list --filter default/web -o json
    """
    from axoneme.api.node.v1 import node_pb2

    found = []
    for name in nodes_of(client, node_name):

        def fetch(token: str, name: str = name) -> Any:
            request = node_pb2.ListFrontendsRequest(page_token=token, filter=text)
            return client.node(name).ListFrontends(request)

        found += [(name, one) for one in pages(fetch, "frontends")]
    if output == "json":
        print_json([{"node": name, "frontend": one} for name, one in found])
        return
    headers = ("node", "frontend", "scope", "type", "service", "set", "backends", "choice", "flags")
    print_table(headers, [_frontend_row(name, one) for name, one in found], empty="no frontends")


@click.group(
    "maglev",
    epilog="""\b
Example:
  axoneme bpf maglev get 7 --node node1""",
)
def maglev() -> None:
    """Maglev tables."""


@maglev.command("get")
@click.argument("set_id", metavar="SET", type=click.IntRange(1, 0xFFFF_FFFF))
@node_option("Node of the table; needed when several could be meant.")
@output_option
@connected
def maglev_get(client: Client, set_id: int, node_name: str, output: str) -> None:
    """Show how many elements of a set's table lead to each backend; all elements with -o json.

    \b
    Examples:
      axoneme bpf maglev get 7 --node node1
      axoneme bpf maglev get 7 -o json
    """
    from axoneme.api.node.v1 import node_pb2

    name = one_node(client, node_name)
    table = client.node(name).GetMaglevTable(node_pb2.GetMaglevTableRequest(set_id=set_id))
    if output == "json":
        print_json(table)
        return
    share = Counter(table.backend_ids)
    rows = [
        (
            number,
            table.addresses.get(number, "missing"),
            count,
            f"{100 * count / len(table.backend_ids):.2f} %",
        )
        for number, count in sorted(share.items())
    ]
    print_table(("backend", "address", "elements", "share"), rows, empty="the table is empty")


def _frontend_row(node_name: str, one: node_pb2.Frontend) -> tuple[object, ...]:
    marks = {(True, True): " (here, leaving)", (True, False): " (leaving)", (False, True): " (here)"}
    backends = [f"{b.address}{marks.get((b.terminating, b.local), '')}" for b in one.backends]
    return (
        node_name,
        one.address,
        one.scope,
        one.type,
        one.service,
        one.set_id,
        backends or "none: dropped",
        f"maglev {one.maglev_size}" if one.maglev_size else "random",
        [*one.flags, *([f"affinity {one.affinity_seconds}s"] if one.affinity_seconds else [])],
    )
