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
from shim import endpointcli, endpointlifecli
from shim.config import ShimConfig
from shim.nodeaccess import node_option, nodes_of, pages

if TYPE_CHECKING:
    from axoneme.client.sync import Client


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

    found = list(pages(fetch, "nodes"))
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


for command in (*endpointlifecli.COMMANDS, *endpointcli.COMMANDS):
    endpoint.add_command(command)


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
    for name in nodes_of(client, node_name):

        def fetch(token: str, name: str = name) -> Any:
            request = node_pb2.ListIpcacheRequest(page_token=token, filter=text)
            return client.node(name).ListIpcache(request)

        found += [(name, one) for one in pages(fetch, "entries")]
    if output == "json":
        print_json([{"node": name, "entry": one} for name, one in found])
        return
    rows = [(n, e.prefix, e.identity, name_of(e.identity), e.tunnel_endpoint, e.source) for n, e in found]
    headers = ("node", "prefix", "identity", "name", "behind", "source")
    print_table(headers, rows, empty="the ipcache is empty")
