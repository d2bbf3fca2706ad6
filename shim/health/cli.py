"""`axoneme health status`: which nodes reach which, as the nodes of this machine see it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from axoneme.cli.connection import connected
from axoneme.cli.render import output_option, print_json, print_table
from shim.nodeaccess import node_option, nodes_of

if TYPE_CHECKING:
    from axoneme.api.node.v1 import node_pb2
    from axoneme.client.sync import Client


@click.group(
    epilog="""\b
Example:
  axoneme health status --probe"""
)
def health() -> None:
    """Whether nodes and their health endpoints reach each other."""


@health.command("status")
@node_option("Only as this node sees it [default: all nodes of the context].")
@click.option("--probe", is_flag=True, help="Probe now instead of showing the last results.")
@output_option
@connected
def health_status(client: Client, node_name: str, probe: bool, output: str) -> int:
    """Show what each node reaches, by HTTP and ICMP; exit code 1 when something is not reachable.

    \b
    Examples:
      axoneme health status
      axoneme health status --probe --node node1
      axoneme health status -o json
    """
    from axoneme.api.node.v1 import node_pb2

    request = node_pb2.GetHealthRequest(probe=probe)
    found = [(name, client.node(name).GetHealth(request)) for name in nodes_of(client, node_name)]
    if output == "json":
        print_json([{"node": name, "nodes": list(answer.nodes)} for name, answer in found])
    else:
        rows = [row for name, answer in found for row in _rows(name, answer)]
        headers = ("from", "to", "target", "address", "kind", "reachable", "ms", "error")
        print_table(headers, rows, empty="no node is known")
    return 0 if all(_well(answer) for _, answer in found) else 1


def _rows(name: str, answer: node_pb2.GetHealthResponse) -> list[tuple[object, ...]]:
    return [
        (name, node.node, p.target, p.address, p.kind, p.reachable, f"{p.seconds * 1000:.1f}", p.error)
        for node in answer.nodes
        for p in node.paths
    ]


def _well(answer: node_pb2.GetHealthResponse) -> bool:
    return all(path.reachable for node in answer.nodes for path in node.paths)
