"""Who is meant by the peers of an entry: functions from a party to yes or no, for the oracle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tests.model.oracle_selectors import (
    CLUSTER,
    NAMESPACE,
    NAMESPACE_LABELS,
    matches,
    mentions,
    mentions_cluster,
    mentions_place,
    name_matches,
)
from tests.model.oracle_world import Party, cloud_cidrs, labels_of, outside, reserved, within

World = Mapping[str, Any]
Scope = tuple[str | None, bool]
Test = Callable[[Party], bool]
# Never unmanaged (ADR 0009), unlike R-24.
CLUSTER_ENTITIES = {"host", "remote-node", "init", "ingress", "health", "kube-apiserver"}


def fields(side: str) -> tuple[str, ...]:
    """The fields that name peers."""
    names = ("Endpoints", "Entities", "CIDR", "CIDRSet", "Nodes", "Services", "Groups", "FQDNs")
    return tuple(side + name for name in names)


def cilium_peer(world: World, written: Mapping[str, Any], side: str, scope: Scope) -> Test:
    """Whoever one of the fields of an entry names; nobody without any."""
    tests: list[Test] = []
    tests += [endpoint_peer(world, one, scope) for one in written.get(side + "Endpoints", [])]
    tests += [_entity(world, one) for one in written.get(side + "Entities", [])]
    tests += [_cidr(world, one, []) for one in written.get(side + "CIDR", [])]
    tests += [_cidr_set(world, one) for one in written.get(side + "CIDRSet", [])]
    tests += [_node(one) for one in written.get(side + "Nodes", [])]
    tests += [_service(world, one) for one in written.get(side + "Services", [])]
    tests += [_cidrs(world, cloud_cidrs(world["case"], one), []) for one in written.get(side + "Groups", [])]
    tests += [_name(one) for one in written.get(side + "FQDNs", [])]
    return lambda party: any(test(party) for test in tests)


def endpoint_peer(world: World, selector: Mapping[str, Any], scope: Scope) -> Test:
    """fromEndpoints: the selector within its namespace, or within any, and perhaps within its cluster."""
    namespace, about_init = scope
    own = world["settings"]["own_cluster_only"] and not mentions_cluster(selector)
    free = mentions(selector, "reserved")
    if free or mentions_place(selector) or (namespace is None and about_init):
        wanted: str | None = ""
    else:
        wanted = namespace

    def test(party: Party) -> bool:
        homes = [value for source, key, value in party["labels"] if (source, key) == ("k8s", NAMESPACE)]
        if wanted is None and not homes:
            return False
        if wanted and wanted not in homes:
            return False
        if own and not free and not (wanted == "" and about_init) and not _at_home(world, party):
            return False
        return matches(selector, party["labels"])

    return test


def kubernetes_peer(world: World, peer: Mapping[str, Any], namespace: str) -> Test:
    """A peer of a NetworkPolicy."""
    if "ipBlock" in peer:
        return _cidr(world, peer["ipBlock"]["cidr"], peer["ipBlock"].get("except") or [])

    def test(party: Party) -> bool:
        if party["kind"] != "pod":
            return False
        if world["settings"]["own_cluster_only"] and not _at_home(world, party):
            return False
        if peer.get("namespaceSelector") is None:
            there = ("k8s", NAMESPACE, namespace) in party["labels"]
        else:
            there = matches(peer["namespaceSelector"], party["labels"], "k8s", NAMESPACE_LABELS)
        return there and matches(peer.get("podSelector"), party["labels"], "k8s")

    return test


def tiered_peer(world: World, peer: Mapping[str, Any]) -> Test:
    """A peer of a tiered object: pods of any cluster, all nodes, networks or names outside."""
    if "networks" in peer:
        return _cidrs(world, peer["networks"], [])
    if "nodes" in peer:
        return lambda party: bool(reserved(party) & {"host", "remote-node"})
    if "domainNames" in peer:
        tests = [_name(_domain(name)) for name in peer["domainNames"]]
        return lambda party: any(test(party) for test in tests)
    own = world["settings"]["own_cluster_only"]
    return lambda party: tiered_pods(peer, party) and (not own or _at_home(world, party))


def tiered_pods(element: Mapping[str, Any], party: Party) -> bool:
    """Whether `namespaces` or `pods` of a subject or peer select a party; pods only."""
    if party["kind"] != "pod":
        return False
    if "namespaces" in element:
        return matches(element["namespaces"], party["labels"], "k8s", NAMESPACE_LABELS)
    pods = element["pods"]
    return matches(pods.get("namespaceSelector"), party["labels"], "k8s", NAMESPACE_LABELS) and matches(
        pods.get("podSelector"), party["labels"], "k8s"
    )


def _domain(name: str) -> dict[str, str]:
    """Here `*.` is one or more whole labels."""
    return {"matchPattern": f"*{name}"} if name.startswith("*.") else {"matchName": name}


def _at_home(world: World, party: Party) -> bool:
    return ("k8s", CLUSTER, world["settings"]["cluster"]) in party["labels"]


def _entity(world: World, name: str) -> Test:
    def test(party: Party) -> bool:
        mine = reserved(party)
        if name == "all":
            return True
        if name == "world":
            return outside(party)
        if name == "cluster":
            return bool(mine & CLUSTER_ENTITIES) or _at_home(world, party)
        if name == "cluster-mesh":
            return bool(mine & CLUSTER_ENTITIES) or any(key == CLUSTER for _, key, _ in party["labels"])
        return name in mine

    return test


def _cidr(world: World, prefix: str, excepts: list[str]) -> Test:
    return _cidrs(world, [prefix], excepts)


def _cidrs(world: World, prefixes: list[str], excepts: list[str]) -> Test:
    def test(party: Party) -> bool:
        if any(within(party, one) for one in excepts):
            return False
        inside = [one for one in prefixes if within(party, one)]
        if outside(party):
            return bool(inside)
        node = bool(reserved(party) & {"remote-node", "host"})
        return bool(
            world["settings"]["match_nodes"] and node and any(not one.endswith("/0") for one in inside)
        )

    return test


def _cidr_set(world: World, element: Mapping[str, Any]) -> Test:
    excepts = element.get("except") or []
    if "cidr" in element:
        return _cidr(world, element["cidr"], excepts)
    found = []
    for group in world["case"].get("cidrGroups") or []:
        if "cidrGroupRef" in element:
            chosen = group["name"] == element["cidrGroupRef"]
        else:
            chosen = matches(element["cidrGroupSelector"], labels_of(group.get("labels"), "cidrgroup"))
        found += group["externalCIDRs"] if chosen else []
    return _cidrs(world, found, excepts)


def _node(selector: Mapping[str, Any]) -> Test:
    def test(party: Party) -> bool:
        mine = frozenset(label for label in party["labels"] if label[0] == "node")
        return "remote-node" in reserved(party) and matches(selector, mine)

    return test


def _service(world: World, element: Mapping[str, Any]) -> Test:
    tests: list[Test] = []
    for service in world["case"].get("services") or []:
        if not _names_service(element, service):
            continue
        if service.get("selector"):
            tests.append(_backends(world, service))
        elif service.get("backends"):
            hosts = [f"{address}/{128 if ':' in address else 32}" for address in service["backends"]]
            tests.append(_cidrs(world, hosts, []))
    return lambda party: any(test(party) for test in tests)


def _names_service(element: Mapping[str, Any], service: Mapping[str, Any]) -> bool:
    if "k8sService" in element:
        wanted = element["k8sService"]
        return bool((wanted["namespace"], wanted["serviceName"]) == (service["namespace"], service["name"]))
    wanted = element["k8sServiceSelector"]
    if wanted.get("namespace") and wanted["namespace"] != service["namespace"]:
        return False
    return matches(wanted["selector"], labels_of(service.get("labels"), "k8s"))


def _backends(world: World, service: Mapping[str, Any]) -> Test:
    """Pods of the namespace of a service; with policyDefaultLocalCluster of this cluster, as other peers."""
    own = world["settings"]["own_cluster_only"]
    wanted = {("k8s", key, value) for key, value in service["selector"].items()}

    def test(party: Party) -> bool:
        home = ("k8s", NAMESPACE, service["namespace"]) in party["labels"]
        return home and wanted <= party["labels"] and (not own or _at_home(world, party))

    return test


def _name(element: Mapping[str, str]) -> Test:
    return lambda party: any(name_matches(element, name) for name in party["names"])
