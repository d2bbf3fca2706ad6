"""What the node's commands have in common: which node and endpoint (axoneme.cli.nodes), and words.

gRPC is imported inside, so that `--help` stays fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from axoneme.cli.nodes import (
    endpoints_of,
    find_endpoint,
    node_option,
    nodes_of,
    one_node,
    pages,
    places_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from axoneme.api.policy.v1 import policy_pb2

__all__ = [
    "DIRECTIONS",
    "PROTOCOLS",
    "endpoints_of",
    "find_endpoint",
    "node_option",
    "nodes_of",
    "one_node",
    "pages",
    "places_of",
    "rules_of",
]

PROTOCOLS = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6", 132: "SCTP"}
DIRECTIONS = {1: "ingress", 2: "egress"}


def rules_of(origins: Iterable[policy_pb2.Origin]) -> list[str]:
    """Rules as `KIND NAMESPACE/NAME RULE`."""
    return [f"{o.kind} {f'{o.namespace}/' if o.namespace else ''}{o.name} {o.rule}".strip() for o in origins]
