"""The parties of a case, as the oracle sees them: labels, addresses, learned names and container ports."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator, Mapping
from typing import Any

from tests.model.oracle_selectors import CLUSTER, NAMESPACE, NAMESPACE_LABELS, Triple, Triples

Party = dict[str, Any]
OUTSIDE = ("world", "kube-apiserver-external")
WORLD_LABELS = frozenset({"world", "world-ipv4", "world-ipv6"})


def settings_of(case: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a case with everything that it leaves out."""
    config = case.get("config") or {}
    modes = config.get("policyCIDRMatchMode") or []
    return {
        "cluster": config.get("clusterName", "default"),
        "mode": config.get("policyEnforcement", "default"),
        "localhost": config.get("allowLocalhost", "always") != "policy",
        "dual": config.get("ipv4", True) and config.get("ipv6", True),
        "match_nodes": "nodes" in ([modes] if isinstance(modes, str) else modes),
        "own_cluster_only": bool(config.get("policyDefaultLocalCluster")),
        "node_labels": bool(config.get("nodeSelectorLabels")),
        "host_firewall": bool(config.get("hostFirewall")),
    }


def parties_of(case: Mapping[str, Any]) -> dict[str, Party]:
    """Every endpoint of a case by its name."""
    settings = settings_of(case)
    made = {name: _party(name, one, settings) for name, one in case["endpoints"].items()}
    for party in made.values():
        party["names"] = _names(case, party)
    return made


def is_subject(party: Party, settings: Mapping[str, Any]) -> bool:
    """Whether a policy is enforced for it on this node."""
    if party["kind"] == "pod":
        return bool(party["cluster"] == settings["cluster"])
    if party["kind"] == "host":
        return bool(settings["host_firewall"])
    return party["kind"] in ("health", "init", "ingress")


def reserved(party: Party) -> set[str]:
    """The reserved labels of a party."""
    return {key for source, key, _ in party["labels"] if source == "reserved"}


def outside(party: Party) -> bool:
    """Whether it is an address outside the cluster."""
    return bool(reserved(party) & WORLD_LABELS)


def within(party: Party, prefix: str) -> bool:
    """Whether the address of a party lies inside a prefix."""
    if party["ip"] is None:
        return False
    network = ipaddress.ip_network(prefix, strict=False)
    return party["ip"].version == network.version and party["ip"] in network


def numbers_of(parties: Mapping[str, Party], party: Party, protocol: int, name: str) -> set[int]:
    """The numbers of a port name among all pods with the labels of a party."""
    twins = (one for one in parties.values() if one["kind"] == "pod" and one["labels"] == party["labels"])
    return {number for one in twins for number in [one["ports"].get((protocol, name))] if number is not None}


PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132, "ICMP": 1, "ICMPV6": 58}


def _party(name: str, one: Mapping[str, Any], settings: Mapping[str, Any]) -> Party:
    ip = ipaddress.ip_address(one["ip"]) if one.get("ip") else None
    ports = {
        (PROTOCOLS[port.get("proto", "TCP")], text): port["port"]
        for text, port in (one.get("namedPorts") or {}).items()
    }
    return {
        "name": name,
        "kind": one["kind"],
        "cluster": one.get("cluster", settings["cluster"]),
        "ip": ip,
        "ports": ports if one["kind"] == "pod" else {},
        "labels": frozenset(_labels(one, ip, settings)),
        "node": frozenset(("node", key, value) for key, value in (one.get("labels") or {}).items()),
    }


def _labels(one: Mapping[str, Any], ip: Any, settings: Mapping[str, Any]) -> Iterator[Triple]:
    kind = one["kind"]
    if kind == "pod":
        yield from _pod_labels(one, settings)
    elif kind in OUTSIDE:
        yield "reserved", f"world-ipv{ip.version}" if settings["dual"] else "world", ""
        if kind != "world":
            yield "reserved", "kube-apiserver", ""
    elif kind in ("remote-node", "kube-apiserver"):
        yield "reserved", "remote-node", ""
        if kind == "kube-apiserver":
            yield "reserved", "kube-apiserver", ""
        if settings["node_labels"]:
            yield from (("node", key, value) for key, value in (one.get("labels") or {}).items())
    else:
        yield "reserved", kind, ""


def _pod_labels(one: Mapping[str, Any], settings: Mapping[str, Any]) -> Iterator[Triple]:
    namespace = one["namespace"]
    for key, value in (one.get("labels") or {}).items():
        if key != NAMESPACE and not key.startswith("io.cilium.k8s."):
            yield "k8s", key, value
    yield "k8s", NAMESPACE, namespace
    yield "k8s", CLUSTER, one.get("cluster", settings["cluster"])
    yield "k8s", "io.cilium.k8s.policy.serviceaccount", one.get("serviceAccount", "default")
    for key, value in {
        **(one.get("namespaceLabels") or {}),
        "kubernetes.io/metadata.name": namespace,
    }.items():
        yield "k8s", NAMESPACE_LABELS + key, value


def _names(case: Mapping[str, Any], party: Party) -> list[str]:
    """The DNS names whose answers held the address of a party outside."""
    if not outside(party):
        return []
    learned = (case.get("fqdnCache") or {}).items()
    return [
        name for name, addresses in learned if any(party["ip"] == ipaddress.ip_address(a) for a in addresses)
    ]


def cloud_cidrs(case: Mapping[str, Any], element: Any) -> list[str]:
    """The prefixes of a cloud group: `extGroups` has the reference as a text of JSON."""
    groups = case.get("extGroups") or {}
    return [cidr for text, cidrs in groups.items() if _same(text, element) for cidr in cidrs]


def _same(text: str, element: Any) -> bool:
    try:
        return bool(_plain(json.loads(text)) == _plain(element))
    except ValueError:
        return False


def _plain(value: Any) -> Any:
    """A reference without the order of its lists."""
    if isinstance(value, dict):
        return {key: _plain(child) for key, child in value.items()}
    return sorted(value) if isinstance(value, list) else value


def labels_of(mapping: Mapping[str, str] | None, source: str) -> Triples:
    """Labels of an object under one source."""
    return frozenset((source, key, value) for key, value in (mapping or {}).items())
