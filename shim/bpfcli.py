"""`axoneme bpf …`: what the kernel maps of a node hold, with the names that the shim knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from axoneme.cli import completion
from axoneme.cli.connection import connected
from axoneme.cli.render import output_option, print_json, print_table
from shim.bpfctcli import ct, nat
from shim.bpflbcli import lb, maglev
from shim.nodeaccess import DIRECTIONS, PROTOCOLS, find_endpoint, node_option, places_of, rules_of

if TYPE_CHECKING:
    from axoneme.api.node.v1 import node_pb2
    from axoneme.client.sync import Client


@click.group(
    epilog="""\b
Examples:
  axoneme bpf policy get backend
  axoneme bpf ct list --endpoint backend
  axoneme bpf lb list --node node1
  axoneme bpf metrics list"""
)
def bpf() -> None:
    """Look into the kernel maps of a node."""


for group in (ct, nat, lb, maglev):
    bpf.add_command(group)


@bpf.group(
    "policy",
    epilog="""\b
Example:
  axoneme bpf policy get backend""",
)
def bpf_policy() -> None:
    """Policy maps."""


@bpf_policy.command("get")
@click.argument("wanted", metavar="ID|[NAMESPACE/]NAME", shell_complete=completion.pods)
@node_option("Node of the endpoint; needed when several could be meant.")
@output_option
@connected
def bpf_policy_get(client: Client, wanted: str, node_name: str, output: str) -> None:
    """Show the policy map of an endpoint with the rules behind each entry.

    \b
    Examples:
      axoneme bpf policy get backend
      axoneme bpf policy get default/backend -o json
      axoneme bpf policy get 1 --node node1
    """
    from axoneme.api.node.v1 import node_pb2

    name, endpoint_id = find_endpoint(client, wanted, node_name)
    answer = client.node(name).GetPolicyMap(node_pb2.GetPolicyMapRequest(endpoint_id=endpoint_id))
    if output == "json":
        print_json(answer)
        return
    headers = ("direction", "peer", "ports", "action", "precedence", "rules")
    empty = "no policy map: the endpoint is locked, everything is dropped"
    print_table(headers, [_policy_row(entry) for entry in answer.entries], empty=empty)


@bpf.group(
    "metrics",
    epilog="""\b
Example:
  axoneme bpf metrics list --node node1""",
)
def bpf_metrics() -> None:
    """Counters of the programs."""


@bpf_metrics.command("list")
@node_option("Only this node [default: all nodes of the context].")
@click.option("--endpoint", "wanted", default="", metavar="ID|[NAMESPACE/]NAME", help="Only this endpoint.")
@output_option
@connected
def bpf_metrics_list(client: Client, node_name: str, wanted: str, output: str) -> None:
    """List packets and bytes by direction and reason, of the node and of each endpoint.

    \b
    Examples:
      axoneme bpf metrics list
      axoneme bpf metrics list --endpoint backend -o json
    """
    from axoneme.api.node.v1 import node_pb2

    found = []
    for name, endpoint_id in places_of(client, node_name, wanted):
        answer = client.node(name).ListMetrics(node_pb2.ListMetricsRequest())
        found += [
            (name, one)
            for one in answer.metrics
            if endpoint_id is None or (one.HasField("endpoint_id") and one.endpoint_id == endpoint_id)
        ]
    if output == "json":
        print_json([{"node": name, "metric": one} for name, one in found])
        return
    rows = [
        (
            name,
            one.endpoint_id if one.HasField("endpoint_id") else "all",
            DIRECTIONS.get(one.direction, "unknown"),
            one.reason,
            one.packets,
            one.octets,
        )
        for name, one in found
    ]
    print_table(
        ("node", "endpoint", "direction", "reason", "packets", "bytes"), rows, empty="nothing was counted"
    )


def _policy_row(entry: node_pb2.PolicyMapEntry) -> tuple[object, ...]:
    from axoneme.lib.identities import name_of

    rules = rules_of(entry.origins)
    return (
        {1: "ingress", 2: "egress"}.get(entry.direction, "unknown"),
        name_of(entry.identity) if entry.identity else "any",
        _ports(entry),
        {1: "allow", 2: "deny", 3: "redirect"}.get(entry.action, "unknown")
        + (" (audit: reported only)" if entry.audit else ""),
        entry.precedence,
        "; ".join(rules) or ("default allow" if entry.action == 1 else "default deny"),
    )


def _ports(entry: node_pb2.PolicyMapEntry) -> str:
    if not entry.protocol:
        return "any"
    name = PROTOCOLS.get(entry.protocol, str(entry.protocol))
    if not entry.port_prefix_length:
        return name
    last = entry.port + (1 << (16 - entry.port_prefix_length)) - 1
    return f"{name} {entry.port}" if last == entry.port else f"{name} {entry.port}-{last}"
