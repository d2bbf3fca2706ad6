"""Reading the other side of a rule: endpoint selectors and entities."""

from __future__ import annotations

from services.policy.document import Node
from services.policy.faults import nearest
from services.policy.fields import Fields
from services.policy.rules import EntityName, Peers
from services.policy.selectorfields import read_selector
from services.policy.selectors import LabelSelector, scope_peer

_LATER_ENTITIES = (
    "remote-node",
    "kube-apiserver",
    "health",
    "init",
    "unmanaged",
    "ingress",
    "world-ipv4",
    "world-ipv6",
    "cluster-mesh",
    "none",
)


def read_peers(
    endpoints: Node | None, entities: Node | None, *, with_ports: bool, namespace: str, fields: Fields
) -> Peers:
    """The peers of one section entry.

    Both fields absent: anyone if the entry names ports, else nobody. A field that is there but empty selects
    nobody.
    """
    if endpoints is None and entities is None:
        return Peers(anyone=with_ports)
    if endpoints is not None and entities is not None and endpoints.items and entities.items:
        fields.fault(entities, "an entry names its peers in two ways", "write two entries, one for each")
    selectors = (
        [] if endpoints is None else [_endpoints(item, namespace, fields) for item in fields.items(endpoints)]
    )
    names = [] if entities is None else [_entity(item, fields) for item in fields.items(entities)]
    return Peers(
        selectors=tuple(sorted(set(selectors))),
        entities=tuple(sorted({name for name in names if name is not None})),
    )


def _endpoints(node: Node, namespace: str, fields: Fields) -> LabelSelector:
    selector = scope_peer(read_selector(node, fields), namespace)
    if not selector.cluster_wide_only:
        # It would also select addresses outside the cluster, whose identities only the nodes know.
        fix = "require a namespace with In or Exists, or use entities"
        fields.fault(node, f"not supported yet: {node.path} also selects peers outside the cluster", fix)
    return selector


def _entity(node: Node, fields: Fields) -> EntityName | None:
    text = fields.text(node)
    if text is None:
        return None
    if text in list(EntityName):
        return EntityName(text)
    if text in _LATER_ENTITIES:
        fields.fault(node, f"not supported yet: {node.path}: entity {text}", f"use {', '.join(EntityName)}")
    else:
        fields.fault(node, f"unknown entity {text[:40]!r}", nearest(text, list(EntityName)))
    return None
