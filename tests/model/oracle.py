"""Verdicts by brute force: policies as plain objects × one flow -> allow or deny.

Shares no code with the algebra, the parser or the resolver: plain dictionaries, no maps, no precedence words,
no indexes. It covers the part of CiliumNetworkPolicy that is supported, and is slow on purpose.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PROTOCOL_NUMBERS = {"TCP": 6, "UDP": 17, "SCTP": 132}
NAMESPACE = "io.kubernetes.pod.namespace"
CLUSTER = "io.cilium.k8s.policy.cluster"
CLUSTER_ENTITIES = {"host", "remote-node", "init", "ingress", "health", "kube-apiserver"}


@dataclass(frozen=True)
class Party:
    """One side of a flow: its labels as (source, key, value)."""

    labels: tuple[tuple[str, str, str], ...]

    @classmethod
    def of(cls, texts: Iterable[str]) -> Party:
        """From `source:key=value` texts."""
        labels = []
        for text in texts:
            source, _, rest = text.partition(":")
            key, _, value = rest.partition("=")
            labels.append((source, key, value))
        return cls(tuple(labels))

    def has(self, source: str, key: str) -> bool:
        """Whether a label of this source and key is there."""
        return any((s, k) == (source, key) for s, k, _ in self.labels)


@dataclass(frozen=True)
class Flow:
    """What is asked about: numbers as on the wire."""

    direction: str
    subject: Party
    peer: Party
    protocol: int
    port: int


def verdict(policies: Sequence[Mapping[str, Any]], flow: Flow, *, cluster_name: str) -> str:
    """`allow` or `deny` by the policies of the subject in one direction."""
    rules = [
        (policy["metadata"].get("namespace", "default"), rule)
        for policy in policies
        for rule in _rules(policy)
    ]
    mine = [(namespace, rule) for namespace, rule in rules if _selects_subject(namespace, rule, flow.subject)]
    allows = [(ns, entry) for ns, rule in mine for entry in rule.get(flow.direction) or []]
    denies = [(ns, entry) for ns, rule in mine for entry in rule.get(flow.direction + "Deny") or []]
    if any(_matches(namespace, entry, flow, cluster_name) for namespace, entry in denies):
        return "deny"
    if any(_matches(namespace, entry, flow, cluster_name) for namespace, entry in allows):
        return "allow"
    enforced = bool(allows or denies) or flow.subject.has("reserved", "init")
    if not enforced:
        return "allow"
    local_host = flow.direction == "ingress" and flow.peer.has("reserved", "host")
    return "allow" if local_host else "deny"


def _rules(policy: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    single = [policy["spec"]] if policy.get("spec") is not None else []
    return single + list(policy.get("specs") or [])


def _selects_subject(namespace: str, rule: Mapping[str, Any], party: Party) -> bool:
    selector = rule["endpointSelector"] or {}
    written = selector.get("matchLabels") or {}
    labels = {key: value for key, value in written.items() if _split(key)[1] != NAMESPACE}
    kept = {**selector, "matchLabels": labels}
    return ("k8s", NAMESPACE, namespace) in party.labels and _selector_matches(kept, party)


def _matches(namespace: str, entry: Mapping[str, Any], flow: Flow, cluster_name: str) -> bool:
    side = "from" if flow.direction == "ingress" else "to"
    return _peer_matches(namespace, entry, side, flow.peer, cluster_name) and _port_matches(entry, flow)


def _peer_matches(
    namespace: str, entry: Mapping[str, Any], side: str, peer: Party, cluster_name: str
) -> bool:
    endpoints, entities = entry.get(f"{side}Endpoints"), entry.get(f"{side}Entities")
    if endpoints is None and entities is None:
        return bool(entry.get("toPorts"))
    if any(_entity_matches(entity, peer, cluster_name) for entity in entities or []):
        return True
    return any(_endpoint_matches(namespace, selector, peer) for selector in endpoints or [])


def _entity_matches(entity: str, peer: Party, cluster_name: str) -> bool:
    reserved = {key for source, key, _ in peer.labels if source == "reserved"}
    if entity == "all":
        return True
    if entity == "world":
        return bool(reserved & {"world", "world-ipv4", "world-ipv6"})
    if entity == "host":
        return "host" in reserved
    if entity == "cluster":
        return bool(reserved & CLUSTER_ENTITIES) or ("k8s", CLUSTER, cluster_name) in peer.labels
    raise AssertionError(entity)


def _endpoint_matches(namespace: str, selector: Mapping[str, Any], peer: Party) -> bool:
    keys = list(selector.get("matchLabels") or {})
    keys += [expression["key"] for expression in selector.get("matchExpressions") or []]
    named = [_split(key) for key in keys]
    unscoped = any(source == "reserved" for source, _ in named) or any(
        source in ("any", "k8s") and (key == NAMESPACE or key.startswith("io.cilium.k8s.namespace.labels."))
        for source, key in named
    )
    if not unscoped and ("k8s", NAMESPACE, namespace) not in peer.labels:
        return False
    return _selector_matches(selector, peer)


def _selector_matches(selector: Mapping[str, Any], party: Party) -> bool:
    for key, value in (selector.get("matchLabels") or {}).items():
        if (value or "") not in _values(key, party):
            return False
    return all(_expression(expression, party) for expression in selector.get("matchExpressions") or [])


def _expression(expression: Mapping[str, Any], party: Party) -> bool:
    values = _values(expression["key"], party)
    operator = expression["operator"]
    if operator == "Exists":
        return bool(values)
    if operator == "DoesNotExist":
        return not values
    inside = bool(values & set(expression["values"]))
    return inside if operator == "In" else not inside


def _values(key: str, party: Party) -> set[str]:
    source, name = _split(key)
    return {value for s, k, value in party.labels if k == name and source in ("any", s)}


def _split(key: str) -> tuple[str, str]:
    if key.startswith("$"):
        return "reserved", key[1:]
    source, colon, name = key.partition(":")
    return (source, name) if colon else ("any", key)


def _port_matches(entry: Mapping[str, Any], flow: Flow) -> bool:
    elements = entry.get("toPorts")
    if not elements:
        return True
    return any(_one_port(port, flow) for element in elements for port in element.get("ports") or [])


def _one_port(port: Mapping[str, Any], flow: Flow) -> bool:
    name = port.get("protocol", "ANY").upper()
    numbers = set(PROTOCOL_NUMBERS.values()) if name == "ANY" else {PROTOCOL_NUMBERS[name]}
    if flow.protocol not in numbers:
        return False
    first = int(port["port"])
    last = max(first, port.get("endPort", 0))
    return first == 0 or first <= flow.port <= last
