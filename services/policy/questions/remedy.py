"""The smallest policy that would allow a denied flow, as YAML to apply.

Names the subject and the peer by the labels that a person would choose (never by what only churns) and
exactly one port. Pure.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

import yaml

from axoneme.lib.labels import (
    CLUSTER_KEY,
    K8S,
    NAMESPACE_KEY,
    NAMESPACE_LABEL_PREFIX,
    RESERVED,
    SERVICE_ACCOUNT_KEY,
    LabelSet,
)
from axoneme.lib.policy.cidrlabels import outside, prefix_of
from axoneme.lib.policy.model import Direction
from services.policy.questions.parties import Party

_PROTOCOLS: Final = {6: "TCP", 17: "UDP", 132: "SCTP"}
_ICMP: Final = {1: "IPv4", 58: "IPv6"}
_ENTITIES: Final = ("host", "remote-node", "kube-apiserver", "health", "init", "unmanaged", "ingress")


def remedy_for(direction: Direction, subject: Party, peer: Party, protocol: int, port: int) -> str:
    """A sentence, and on the lines after it the policy that it speaks of, as YAML."""
    policy = remedy_policy(direction, subject, peer, protocol, port)
    if policy is None:
        return "no policy can allow it: a policy cannot name one of the sides by its labels"
    return f"apply this policy:\n{yaml.safe_dump(policy, sort_keys=False)}"


def remedy_policy(
    direction: Direction, subject: Party, peer: Party, protocol: int, port: int
) -> dict[str, Any] | None:
    """The policy object, or None when the subject cannot be selected."""
    namespace = _value(subject.labels, NAMESPACE_KEY)
    selector = _own(subject.labels) if namespace else _reserved_selector(subject.labels)
    if selector is None:
        return None
    side = "from" if direction is Direction.INGRESS else "to"
    found = _peer(side, subject, peer)
    if found is None:
        return None
    entry = {**found, **_ports(protocol, port)}
    section = "ingress" if direction is Direction.INGRESS else "egress"
    # It only opens: a direction that no policy locks must not become locked by the remedy.
    spec = {"endpointSelector": selector, section: [entry], "enableDefaultDeny": {section: False}}
    seed = json.dumps([namespace, spec], sort_keys=True).encode()
    metadata = {"name": f"allow-{hashlib.sha256(seed).hexdigest()[:8]}"}
    if namespace:
        metadata["namespace"] = namespace
    kind = "CiliumNetworkPolicy" if namespace else "CiliumClusterwideNetworkPolicy"
    return {"apiVersion": "cilium.io/v2", "kind": kind, "metadata": metadata, "spec": spec}


def _value(labels: LabelSet, key: str) -> str:
    label = labels.get(key)
    return label.value if label is not None and label.source == K8S else ""


def _own(labels: LabelSet) -> dict[str, Any]:
    """The labels that a workload's author gave."""
    system = (NAMESPACE_KEY, CLUSTER_KEY, SERVICE_ACCOUNT_KEY)
    own = {
        f"{label.source}:{label.key}": label.value
        for label in labels
        if label.source != RESERVED
        and label.key not in system
        and not label.key.startswith(NAMESPACE_LABEL_PREFIX)
    }
    return {"matchLabels": own} if own else {}


def _reserved_selector(labels: LabelSet) -> dict[str, Any] | None:
    names = [label.key for label in labels if label.source == RESERVED]
    if not names or "host" in names:
        return None
    return {"matchLabels": {f"reserved:{name}": "" for name in names}}


def _peer(side: str, subject: Party, peer: Party) -> dict[str, Any] | None:
    """The peer field of the rule; None when nothing names the peer."""
    if peer.outside and peer.dns_names and side == "to":
        return {"toFQDNs": [{"matchName": name} for name in peer.dns_names]}
    if peer.outside:
        return {f"{side}CIDR": [f"{peer.address}/{128 if ':' in peer.address else 32}"]}
    if outside(peer.labels):
        prefixes = [str(prefix) for prefix in map(prefix_of, peer.labels) if prefix is not None]
        return {f"{side}CIDR": prefixes} if prefixes else {f"{side}Entities": ["world"]}
    names = {label.key for label in peer.labels if label.source == RESERVED}
    for entity in _ENTITIES:
        if entity in names:
            return {f"{side}Entities": [entity]}
    return _endpoints(side, subject.labels, peer.labels)


def _endpoints(side: str, subject: LabelSet, peer: LabelSet) -> dict[str, Any] | None:
    wanted = _own(peer).get("matchLabels", {})
    for key in (NAMESPACE_KEY, CLUSTER_KEY):
        theirs = _value(peer, key)
        if theirs != _value(subject, key):
            wanted = {**wanted, f"{K8S}:{key}": theirs}
            if not theirs:
                return None
    return {f"{side}Endpoints": [{"matchLabels": wanted} if wanted else {}]}


def _ports(protocol: int, port: int) -> dict[str, Any]:
    if protocol in _ICMP:
        return {"icmps": [{"fields": [{"family": _ICMP[protocol], "type": port}]}]}
    if protocol in _PROTOCOLS:
        return {"toPorts": [{"ports": [{"port": str(port), "protocol": _PROTOCOLS[protocol]}]}]}
    return {}
