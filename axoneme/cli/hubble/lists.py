"""`axoneme list nodes|namespaces` and `axoneme watch peers`, in the shapes of the Hubble CLI."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import click

from axoneme.cli.hubble.goflags import GoCommand
from axoneme.cli.hubble.options import server_options

if TYPE_CHECKING:
    from axoneme.api.hubble.observer import observer_pb2
    from axoneme.api.hubble.peer import peer_pb2

OUTPUTS: Final = ("table", "wide", "json")
SECOND_NS: Final = 10**9
LIST_EPILOG: Final = """\b
Examples:
  axoneme list nodes                 nodes that the relay knows
  axoneme list namespaces -o json"""
NODES_EPILOG: Final = """\b
Examples:
  axoneme list nodes                 state, age and rate of each node
  axoneme list nodes -o wide         also version, address and TLS"""
NAMESPACES_EPILOG: Final = """\b
Examples:
  axoneme list namespaces            namespaces with flows
  axoneme list namespaces -o wide    and their clusters"""
WATCH_EPILOG: Final = """\b
Examples:
  axoneme watch peers --socket /run/axoneme/shim.sock"""
PEERS_EPILOG: Final = """\b
Examples:
  axoneme watch peers --node node1   nodes that a node names to relays
  axoneme watch peers --server unix:///var/run/cilium/hubble.sock"""

output_option = click.option(
    "-o",
    "--output",
    type=click.Choice(OUTPUTS),
    default="table",
    show_default=True,
    help="Form of the output.",
)


@click.group("list", epilog=LIST_EPILOG)
def list_group() -> None:
    """List nodes and namespaces that a relay or a node knows."""


@list_group.command("nodes", cls=GoCommand, epilog=NODES_EPILOG)
@output_option
@server_options
def list_nodes(output: str, **options: Any) -> None:
    """List nodes."""
    from axoneme.api.hubble.observer import observer_pb2

    answer = _asked(options, "GetNodes", observer_pb2.GetNodesRequest(), observer_pb2.GetNodesResponse())
    nodes = sorted(answer.nodes, key=lambda node: node.name)
    click.echo(_indented(nodes) if output == "json" else nodes_text(nodes, wide=output == "wide"), nl=False)


@list_group.command("namespaces", cls=GoCommand, epilog=NAMESPACES_EPILOG)
@output_option
@server_options
def list_namespaces(output: str, **options: Any) -> None:
    """List namespaces with flows."""
    from axoneme.api.hubble.observer import observer_pb2

    request, answer = observer_pb2.GetNamespacesRequest(), observer_pb2.GetNamespacesResponse()
    found = _asked(options, "GetNamespaces", request, answer).namespaces
    text = _indented(found) if output == "json" else namespaces_text(found, wide=output == "wide")
    click.echo(text, nl=False)


@click.group("watch", epilog=WATCH_EPILOG)
def watch_group() -> None:
    """Watch the peers that a node names."""


@watch_group.command("peers", cls=GoCommand, epilog=PEERS_EPILOG)
@server_options
def watch_peers(**options: Any) -> int:
    """Watch peers as they come, go and move. Relays have none; ask a node."""
    from axoneme.api.hubble.peer import peer_pb2
    from axoneme.cli.hubble.connection import chosen_of, open_server
    from axoneme.cli.hubble.pump import Console, pump

    console = Console(follow=True, silent=False)
    with open_server(chosen_of(options)) as server:
        stream = server.stream("/peer.Peer/Notify", peer_pb2.NotifyRequest())
        changes = ((peer_pb2.ChangeNotification.FromString(data),) for data in stream)
        return pump(changes, _PeerPrinter(console), console)


class _PeerPrinter:
    def __init__(self, console: Any) -> None:
        self._console = console

    def write(self, change: peer_pb2.ChangeNotification) -> None:
        self._console.out(peer_line(change))

    def close(self) -> None:
        """Nothing is kept."""


def peer_line(change: peer_pb2.ChangeNotification) -> str:
    """`PEER_ADDED   192.0.2.1:4244 east/node-a (TLS.ServerName: …)`."""
    from axoneme.api.hubble.peer import peer_pb2
    from axoneme.cli.flowprinter_words import clean, enum_text

    tls = f" (TLS.ServerName: {change.tls.server_name})" if change.tls.server_name else ""
    kind = enum_text(peer_pb2.ChangeNotificationType, change.type)
    return clean(f"{kind:<12} {change.address} {change.name}{tls}") + "\n"


def nodes_text(nodes: Iterable[observer_pb2.Node], *, wide: bool) -> str:
    """A table of nodes."""
    from axoneme.cli.flowprinter_blocks import table_text

    headers = ["NAME", "STATUS", "AGE", "FLOWS/S", "CURRENT/MAX-FLOWS"]
    rows = [headers + (["VERSION", "ADDRESS", "TLS"] if wide else [])]
    rows += [_node_row(node, wide) for node in nodes]
    return table_text(rows)


def _node_row(node: observer_pb2.Node, wide: bool) -> list[str]:
    from axoneme.cli.flowprinter_words import clean
    from axoneme.cli.hubble.durations import format_duration
    from axoneme.cli.hubble.serverstatus import fill_text, rate_of

    known = bool(node.uptime_ns)
    age_ns = (node.uptime_ns + SECOND_NS // 2) // SECOND_NS * SECOND_NS
    row = [
        node.name,
        _state(node.state),
        format_duration(age_ns) if known else "N/A",
        rate_of(node.seen_flows, node.uptime_ns),
        fill_text(node.num_flows, node.max_flows, commas=False) if node.max_flows else "N/A",
    ]
    if wide:
        tls = ("Enabled" if node.tls.enabled else "Disabled") if node.HasField("tls") else "N/A"
        row += [node.version or "N/A", node.address or "N/A", tls]
    return [clean(cell) for cell in row]


def _state(state: int) -> str:
    """Connected, Unavailable, Gone, Error or Unknown."""
    from axoneme.api.hubble.relay import relay_pb2
    from axoneme.cli.flowprinter_words import enum_text

    name = enum_text(relay_pb2.NodeState, state)
    return name.removeprefix("NODE_").capitalize() if name.startswith("NODE_") else "Unknown"


def namespaces_text(namespaces: Iterable[observer_pb2.Namespace], *, wide: bool) -> str:
    """A table of namespaces."""
    from axoneme.cli.flowprinter_blocks import table_text
    from axoneme.cli.flowprinter_words import clean

    rows = [["NAMESPACE", "CLUSTER"] if wide else ["NAMESPACE"]]
    rows += [
        [clean(one.namespace), clean(one.cluster)] if wide else [clean(one.namespace)] for one in namespaces
    ]
    return table_text(rows)


def _asked(options: dict[str, Any], method: str, request: Any, answer: Any) -> Any:
    from axoneme.cli.hubble.connection import chosen_of, open_server

    with open_server(chosen_of(options)) as server:
        return server.unary(f"/observer.Observer/{method}", request, answer)


def _indented(messages: Iterable[Any]) -> str:
    from axoneme.cli.flowprinter_json import response_json

    values = [json.loads(response_json(one)) for one in messages]
    return json.dumps(values, indent=2) + "\n"  # in ASCII, so no control character is raw
