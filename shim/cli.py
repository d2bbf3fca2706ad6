"""The commands of a node: `shim serve`, `node serve|list`, `endpoint`, `ipcache`, `bpf policy get`.

gRPC and the shim itself are imported inside the commands that need them, so that `--help` stays fast.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from axoneme.cli import completion
from axoneme.cli.connection import connected
from axoneme.cli.render import output_option, print_json, print_table
from axoneme.lib import config as configuration
from axoneme.lib.errors import InvalidArgument, NotFound
from shim.config import ShimConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from axoneme.api.node.v1 import node_pb2
    from axoneme.client.sync import Client

PROTOCOLS = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6", 132: "SCTP"}


def node_option(text: str) -> Callable[[Any], Any]:
    """`--node NAME`, with what it means for the command."""
    return click.option(
        "--node", "node_name", default="", metavar="NAME", shell_complete=completion.nodes, help=text
    )


@click.group(
    epilog="""\b
Example:
  axoneme shim serve --config node.toml --datapath memory"""
)
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


@click.group(
    epilog="""\b
Examples:
  axoneme node list
  axoneme node serve --config /etc/axoneme/node.toml"""
)
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


@click.group(
    epilog="""\b
Examples:
  axoneme endpoint list
  axoneme endpoint add default/web --node node1 --netns /run/netns/web --label app=web
  axoneme endpoint audit default/web on
  axoneme endpoint delete default/web"""
)
def endpoint() -> None:
    """Endpoints of a node: one per workload interface."""


@endpoint.command("list")
@node_option("Only this node [default: all nodes of the context].")
@click.option("--filter", "text", default="", help="Substring of namespace/name or of a label.")
@output_option
@connected
def endpoint_list(client: Client, node_name: str, text: str, output: str) -> None:
    """List endpoints.

    \b
    Examples:
      axoneme endpoint list
      axoneme endpoint list --node node1 --filter app=frontend -o json
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
@output_option
@connected
def endpoint_add(
    client: Client,
    workload: str,
    node_name: str,
    netns: str,
    interface_name: str,
    labels: tuple[str, ...],
    ports: tuple[str, ...],
    audit: bool,
    output: str,
) -> None:
    """Create an endpoint for a workload in a network namespace; returns once its policy is in force.

    \b
    Examples:
      axoneme endpoint add default/web --node node1 --netns /run/netns/web --label app=web
      axoneme endpoint add default/web --netns /run/netns/web --port http=80/tcp --port dns=53/udp
    """
    from axoneme.api.node.v1 import node_pb2
    from shim.namedports import named_ports_message, parse_named_ports

    namespace, slash, pod_name = workload.partition("/")
    if not slash:
        raise InvalidArgument.of_field(
            "NAMESPACE/NAME", f"{workload!r} has no slash; write default/{workload}"
        )
    name = _one_node(client, node_name)
    request = node_pb2.AddEndpointRequest(
        namespace=namespace,
        pod_name=pod_name,
        labels=labels,
        netns=netns,
        interface_name=interface_name,
        named_ports=named_ports_message(parse_named_ports(ports)),
        audit=audit,
    )
    made = client.node(name).AddEndpoint(request).endpoint
    if output == "json":
        print_json(made)
    else:
        headers = ("node", "id", "workload", "identity", "ips", "state", "ingress", "egress", "labels")
        print_table(headers, [_endpoint_row(name, made)])


@endpoint.command("audit")
@click.argument("wanted", metavar="ID|[NAMESPACE/]NAME", shell_complete=completion.pods)
@click.argument("switch", type=click.Choice(["on", "off"]))
@node_option("Node of the endpoint; needed when several could be meant.")
@connected
def endpoint_audit(client: Client, wanted: str, switch: str, node_name: str) -> None:
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


@endpoint.command("delete")
@click.argument("wanted", metavar="ID|[NAMESPACE/]NAME", shell_complete=completion.pods)
@node_option("Node of the endpoint; needed when several could be meant.")
@connected
def endpoint_delete(client: Client, wanted: str, node_name: str) -> None:
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


@click.group(
    epilog="""\b
Example:
  axoneme ipcache list --node node1"""
)
def ipcache() -> None:
    """Prefix → identity, as a node's kernel has it."""


@ipcache.command("list")
@node_option("Only this node [default: all nodes of the context].")
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


@click.group(
    epilog="""\b
Example:
  axoneme bpf policy get backend"""
)
def bpf() -> None:
    """Look into the kernel maps of a node."""


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


def find_endpoint(client: Client, wanted: str, node_name: str) -> tuple[str, int]:
    """Node and id of the one endpoint that an id, a pod name or NAMESPACE/NAME means."""
    found = [
        (name, one)
        for name in _nodes(client, node_name)
        for one in _endpoints(client, name)
        if _is(one, wanted)
    ]
    if not found:
        place = node_name or "any node of the context"
        raise NotFound(f"no endpoint {wanted} on {place}; `axoneme endpoint list` shows them")
    if len(found) > 1:
        places = ", ".join(f"{one.namespace}/{one.pod_name} on {name}" for name, one in found)
        raise InvalidArgument(f"{wanted} means several endpoints: {places}; name the pod or give --node")
    name, one = found[0]
    return name, one.endpoint_id


def _is(one: node_pb2.Endpoint, wanted: str) -> bool:
    names = (str(one.endpoint_id), one.pod_name, f"{one.namespace}/{one.pod_name}")
    return wanted in names


def _endpoints(client: Client, node_name: str) -> Iterator[node_pb2.Endpoint]:
    from axoneme.api.node.v1 import node_pb2

    stub = client.node(node_name)
    return _pages(
        lambda token: stub.ListEndpoints(node_pb2.ListEndpointsRequest(page_token=token)), "endpoints"
    )


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
        (f"{state} ({one.state_reason})" if one.state_reason else state) + (", audit" if one.audit else ""),
        _enforcement(one.ingress),
        _enforcement(one.egress),
        [label for label in one.labels if "io.cilium" not in label and "io.kubernetes" not in label],
    )


def _enforcement(number: int) -> str:
    return {1: "default allow", 2: "default deny"}.get(number, "unknown")


def _policy_row(entry: node_pb2.PolicyMapEntry) -> tuple[object, ...]:
    from axoneme.lib.identities import name_of

    rules = [
        f"{o.kind} {f'{o.namespace}/' if o.namespace else ''}{o.name} {o.rule}".strip() for o in entry.origins
    ]
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
