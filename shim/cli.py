"""The commands of a node: `shim serve`, `node serve|list`, `endpoint`, `ipcache`, `bpf policy get`.

gRPC and the shim itself are imported inside the commands that need them, so that `--help` stays fast.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from axoneme.cli.connection import connected
from axoneme.cli.render import output_option, print_json, print_table
from axoneme.lib import config as configuration
from axoneme.lib.errors import InvalidArgument
from shim.config import ShimConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from axoneme.api.node.v1 import node_pb2
    from axoneme.client.sync import Client

PROTOCOLS = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6", 132: "SCTP"}


@click.group()
def shim() -> None:
    """The shim of a node: endpoints, kernel maps, flows."""


@shim.command("serve")
@configuration.click_options(ShimConfig)
def shim_serve(config: ShimConfig) -> int:
    """Serve the shim alone; `axoneme node serve` also runs the privileged helper it needs.

    \b
    Examples:
      axoneme shim serve --config node.toml
      axoneme shim serve --config node.toml --datapath memory   no BPF, no packets
    """
    from shim.main import serve

    return serve(config)


@click.group()
def node() -> None:
    """Nodes of the cluster, and the processes of one node."""


@node.command("serve")
@click.option(
    "--config",
    "config_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="TOML file with the settings of `axoneme shim serve --help`.",
)
def node_serve(config_file: Path) -> None:
    """Serve all processes of a node: the privileged helper and the shim, which holds no capability.

    \b
    Example:
      axoneme node serve --config /etc/axoneme/node.toml
    """
    # The supervisor outlives everything else and stays small: it replaces this process and its imports.
    command = [sys.executable, "-m", "shim.supervisor", "--config", str(config_file.absolute())]
    os.execv(sys.executable, command)  # noqa: S606


@node.command("list")
@output_option
@connected
def node_list(client: Client, output: str) -> None:
    """List the nodes of the cluster with their addresses and PodCIDRs.

    \b
    Examples:
      axoneme node list
      axoneme node list -o json
    """
    from axoneme.api.identity.v1 import identity_pb2

    def fetch(token: str) -> Any:
        return client.identity.ListNodes(identity_pb2.ListNodesRequest(page_token=token))

    found = list(_pages(fetch, "nodes"))
    if output == "json":
        print_json(found)
        return
    rows = [
        (n.name, n.cluster, list(n.internal_ips), list(n.pod_cidrs), list(n.router_ips), n.observer_address)
        for n in found
    ]
    headers = ("name", "cluster", "internal ips", "pod cidrs", "router ips", "observer")
    print_table(headers, rows, empty="no node is registered")


@click.group()
def endpoint() -> None:
    """Endpoints of a node: one per workload interface."""


@endpoint.command("list")
@click.option("--node", "node_name", default="", help="Only this node [default: all nodes of the context].")
@click.option("--filter", "text", default="", help="Substring of namespace/name or of a label.")
@output_option
@connected
def endpoint_list(client: Client, node_name: str, text: str, output: str) -> None:
    """List endpoints.

    \b
    Examples:
      axoneme endpoint list
      axoneme endpoint list --node node1 --filter app=web -o json
    """
    from axoneme.api.node.v1 import node_pb2

    found = []
    for name in _nodes(client, node_name):

        def fetch(token: str, name: str = name) -> Any:
            request = node_pb2.ListEndpointsRequest(page_token=token, filter=text)
            return client.node(name).ListEndpoints(request)

        found += [(name, one) for one in _pages(fetch, "endpoints")]
    if output == "json":
        print_json([{"node": name, "endpoint": one} for name, one in found])
        return
    rows = [_endpoint_row(name, one) for name, one in found]
    headers = ("node", "id", "workload", "identity", "ips", "state", "ingress", "egress", "labels")
    print_table(headers, rows, empty="no endpoints")


@endpoint.command("add")
@click.argument("workload", metavar="NAMESPACE/NAME")
@click.option("--node", "node_name", default="", help="Node of the endpoint; needed when there are several.")
@click.option("--netns", required=True, help="/run/netns/NAME or /proc/PID/ns/net.")
@click.option("--interface", "interface_name", default="", help="Interface inside [default: eth0].")
@click.option(
    "--label", "labels", multiple=True, metavar="KEY=VALUE", help="Label of the workload; repeatable."
)
@output_option
@connected
def endpoint_add(
    client: Client,
    workload: str,
    node_name: str,
    netns: str,
    interface_name: str,
    labels: tuple[str, ...],
    output: str,
) -> None:
    """Create an endpoint for a workload in a network namespace; returns once its policy is in force.

    \b
    Example:
      axoneme endpoint add default/web --netns /run/netns/web --label app=web
    """
    from axoneme.api.node.v1 import node_pb2

    namespace, slash, pod_name = workload.partition("/")
    if not slash:
        raise InvalidArgument.of_field(
            "NAMESPACE/NAME", f"{workload!r} has no slash; write default/{workload}"
        )
    name = _one_node(client, node_name)
    request = node_pb2.AddEndpointRequest(
        namespace=namespace, pod_name=pod_name, labels=labels, netns=netns, interface_name=interface_name
    )
    made = client.node(name).AddEndpoint(request).endpoint
    if output == "json":
        print_json(made)
    else:
        headers = ("node", "id", "workload", "identity", "ips", "state", "ingress", "egress", "labels")
        print_table(headers, [_endpoint_row(name, made)])


@endpoint.command("delete")
@click.argument("endpoint_id", type=click.IntRange(1, 65_535))
@click.option("--node", "node_name", default="", help="Node of the endpoint; needed when there are several.")
@connected
def endpoint_delete(client: Client, endpoint_id: int, node_name: str) -> None:
    """Remove an endpoint; its interface and addresses go with it.

    \b
    Example:
      axoneme endpoint delete 7 --node node1
    """
    from axoneme.api.node.v1 import node_pb2

    name = _one_node(client, node_name)
    client.node(name).DeleteEndpoint(node_pb2.DeleteEndpointRequest(endpoint_id=endpoint_id))
    click.echo(f"endpoint {endpoint_id} of {name} removed")


@click.group()
def ipcache() -> None:
    """Prefix → identity, as a node's kernel has it."""


@ipcache.command("list")
@click.option("--node", "node_name", default="", help="Only this node [default: all nodes of the context].")
@click.option("--filter", "text", default="", help="Substring of the prefix.")
@output_option
@connected
def ipcache_list(client: Client, node_name: str, text: str, output: str) -> None:
    """List the ipcache of a node's kernel with the rank that won.

    \b
    Examples:
      axoneme ipcache list --node node1
      axoneme ipcache list --filter 10.1. -o json
    """
    from axoneme.api.node.v1 import node_pb2
    from axoneme.lib.identities import name_of

    found = []
    for name in _nodes(client, node_name):

        def fetch(token: str, name: str = name) -> Any:
            request = node_pb2.ListIpcacheRequest(page_token=token, filter=text)
            return client.node(name).ListIpcache(request)

        found += [(name, one) for one in _pages(fetch, "entries")]
    if output == "json":
        print_json([{"node": name, "entry": one} for name, one in found])
        return
    rows = [(n, e.prefix, e.identity, name_of(e.identity), e.tunnel_endpoint, e.source) for n, e in found]
    headers = ("node", "prefix", "identity", "name", "behind", "source")
    print_table(headers, rows, empty="the ipcache is empty")


@click.group()
def bpf() -> None:
    """Look into the kernel maps of a node."""


@bpf.group("policy")
def bpf_policy() -> None:
    """Policy maps."""


@bpf_policy.command("get")
@click.argument("endpoint_id", type=click.IntRange(1, 65_535))
@click.option("--node", "node_name", default="", help="Node of the endpoint; needed when there are several.")
@output_option
@connected
def bpf_policy_get(client: Client, endpoint_id: int, node_name: str, output: str) -> None:
    """Show the policy map of an endpoint with the rules behind each entry.

    \b
    Examples:
      axoneme bpf policy get 7 --node node1
      axoneme bpf policy get 7 -o json
    """
    from axoneme.api.node.v1 import node_pb2

    stub = client.node(_one_node(client, node_name))
    answer = stub.GetPolicyMap(node_pb2.GetPolicyMapRequest(endpoint_id=endpoint_id))
    if output == "json":
        print_json(answer)
        return
    headers = ("direction", "peer", "ports", "action", "precedence", "rules")
    empty = "no policy map: the endpoint is locked, everything is dropped"
    print_table(headers, [_policy_row(entry) for entry in answer.entries], empty=empty)


def _nodes(client: Client, node_name: str) -> list[str]:
    names = sorted(client.context.nodes)
    if not names:
        raise InvalidArgument.of_field("context", "names no node; write its socket under `nodes`")
    return [node_name] if node_name else names


def _one_node(client: Client, node_name: str) -> str:
    names = _nodes(client, node_name)
    if len(names) > 1:
        raise InvalidArgument.of_field("--node", f"name one of {', '.join(names)}")
    return names[0]


def _pages(fetch: Callable[[str], Any], field: str) -> Iterator[Any]:
    token = ""
    while True:
        answer = fetch(token)
        yield from getattr(answer, field)
        token = answer.next_page_token
        if not token:
            return


def _endpoint_row(node_name: str, one: node_pb2.Endpoint) -> tuple[object, ...]:
    state = {1: "locked", 2: "ready", 3: "stale", 4: "terminating"}.get(one.state, "unknown")
    return (
        node_name,
        one.endpoint_id,
        f"{one.namespace}/{one.pod_name}",
        one.identity,
        list(one.ips),
        f"{state} ({one.state_reason})" if one.state_reason else state,
        _enforcement(one.ingress),
        _enforcement(one.egress),
        [label for label in one.labels if "io.cilium" not in label and "io.kubernetes" not in label],
    )


def _enforcement(number: int) -> str:
    return {1: "default allow", 2: "default deny"}.get(number, "unknown")


def _policy_row(entry: node_pb2.PolicyMapEntry) -> tuple[object, ...]:
    from axoneme.lib.identities import name_of

    rules = [f"{o.kind} {o.namespace}/{o.name} {o.rule}".strip() for o in entry.origins]
    return (
        {1: "ingress", 2: "egress"}.get(entry.direction, "unknown"),
        name_of(entry.identity) if entry.identity else "any",
        _ports(entry),
        {1: "allow", 2: "deny", 3: "redirect"}.get(entry.action, "unknown"),
        entry.precedence,
        "; ".join(rules) or "default allow",
    )


def _ports(entry: node_pb2.PolicyMapEntry) -> str:
    if not entry.protocol:
        return "any"
    name = PROTOCOLS.get(entry.protocol, str(entry.protocol))
    if not entry.port_prefix_length:
        return name
    last = entry.port + (1 << (16 - entry.port_prefix_length)) - 1
    return f"{name} {entry.port}" if last == entry.port else f"{name} {entry.port}-{last}"
