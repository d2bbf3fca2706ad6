"""Reading `listener`: connections go to a listener of an Envoy configuration."""

from __future__ import annotations

from typing import Final

from axoneme.lib.policy.model import Direction
from services.policy.reading.context import Reading
from services.policy.reading.document import Node

_NAMESPACED: Final = "CiliumEnvoyConfig"
_CLUSTERWIDE: Final = "CiliumClusterwideEnvoyConfig"
_MAX_PRIORITY: Final = 100


def read_listener(node: Node, reading: Reading) -> tuple[str, int] | None:
    """`namespace/configuration/listener` (no namespace if cluster-wide), and its priority (0: none given)."""
    fields = reading.fields
    if reading.direction is Direction.INGRESS:
        fields.fault(node, "a listener on ingress", "listeners work on egress only")
    present = fields.mapping(node, ("envoyConfig", "name", "priority"))
    for key in ("envoyConfig", "name"):
        if key not in present and node.mapping is not None:
            fields.fault(node, f"the listener has no {key}", f"give it {key}")
    priority = 0
    if "priority" in present:
        priority = fields.whole_number(present["priority"], 1, _MAX_PRIORITY) or 0
    name = fields.name(present["name"]) if "name" in present else None
    config = _config(present["envoyConfig"], reading) if "envoyConfig" in present else None
    return None if name is None or config is None else (f"{config}/{name}", priority)


def _config(node: Node, reading: Reading) -> str | None:
    """`namespace/name` of the configuration; one without a kind is as wide as the policy."""
    fields = reading.fields
    present = fields.mapping(node, ("kind", "name"))
    kind = _CLUSTERWIDE
    if "kind" in present:
        kind = fields.choice(present["kind"], "kind", (_NAMESPACED, _CLUSTERWIDE)) or kind
    elif reading.namespace:
        kind = _NAMESPACED
    if kind == _NAMESPACED and not reading.namespace:
        fix = f"use a {_CLUSTERWIDE}"
        fields.fault(present["kind"], f"a cluster-wide policy cannot use a {_NAMESPACED}", fix)
    if "name" not in present:
        if node.mapping is not None:
            fields.fault(node, "envoyConfig has no name", "give it a name")
        return None
    name = fields.name(present["name"])
    namespace = reading.namespace if kind == _NAMESPACED else ""
    return None if name is None else f"{namespace}/{name}"
