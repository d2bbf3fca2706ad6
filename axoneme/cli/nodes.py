"""Which node and which endpoint a command means, and lists of a node's API as a whole.

gRPC is imported inside, so that `--help` stays fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from axoneme.cli import completion
from axoneme.lib.errors import InvalidArgument, NotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from axoneme.api.node.v1 import node_pb2
    from axoneme.client.sync import Client


def node_option(text: str) -> Callable[[Any], Any]:
    """`--node NAME`, with what it means for the command."""
    return click.option(
        "--node", "node_name", default="", metavar="NAME", shell_complete=completion.nodes, help=text
    )


def find_endpoint(client: Client, wanted: str, node_name: str) -> tuple[str, int]:
    """Node and id of the one endpoint that an id, a pod name or NAMESPACE/NAME means."""
    found = [
        (name, one)
        for name in nodes_of(client, node_name)
        for one in endpoints_of(client, name)
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


def endpoints_of(client: Client, node_name: str) -> Iterator[node_pb2.Endpoint]:
    """Endpoints of a node."""
    from axoneme.api.node.v1 import node_pb2

    stub = client.node(node_name)
    return pages(
        lambda token: stub.ListEndpoints(node_pb2.ListEndpointsRequest(page_token=token)), "endpoints"
    )


def nodes_of(client: Client, node_name: str) -> list[str]:
    """The named node, else all nodes of the context. Raises InvalidArgument for a context without nodes."""
    names = sorted(client.context.nodes)
    if not names:
        raise InvalidArgument.of_field("context", "names no node; write its socket under `nodes`")
    return [node_name] if node_name else names


def one_node(client: Client, node_name: str) -> str:
    """The named node, else the only one. Raises InvalidArgument."""
    names = nodes_of(client, node_name)
    if len(names) > 1:
        raise InvalidArgument.of_field("--node", f"name one of {', '.join(names)}")
    return names[0]


def pages(fetch: Callable[[str], Any], field: str) -> Iterator[Any]:
    """All items of a list; `fetch` takes a page token."""
    token = ""
    while True:
        answer = fetch(token)
        yield from getattr(answer, field)
        token = answer.next_page_token
        if not token:
            return


def places_of(client: Client, node_name: str, wanted: str) -> list[tuple[str, int | None]]:
    """Node and endpoint to ask: the endpoint's, or every node for all of them."""
    if wanted:
        return [find_endpoint(client, wanted, node_name)]
    return [(name, None) for name in nodes_of(client, node_name)]
