"""Random policies and the parties of a small cluster, for hypothesis."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from axoneme.lib import identities
from axoneme.lib.labels import LabelSet, workload_labels
from tests.model.policycases_random import random_case

APPS, TIERS, NAMESPACES = ("web", "db", "job"), ("front", "back"), ("a", "b")
PORTS = (79, 80, 81, 443, 8080, 53, 1, 65535)
PROTOCOLS = (6, 17, 132, 1, 58)
WORLD_TWINS = (identities.WORLD_IPV4, identities.WORLD_IPV6)


def cluster_identities(cluster_name: str) -> dict[int, LabelSet]:
    """Pods of two namespaces, and one of another cluster."""
    found = {}
    number = 1000
    for namespace in NAMESPACES:
        for app in APPS:
            for tier in TIERS:
                own = [f"app={app}", f"tier={tier}"]
                found[number] = workload_labels(own, namespace=namespace, cluster=cluster_name)
                number += 1
    found[number] = workload_labels(["app=web"], namespace="a", cluster="elsewhere")
    found[number + 1] = workload_labels(["app=db"], namespace="b", cluster=cluster_name)
    return found


def reserved_identities() -> dict[int, LabelSet]:
    """Everything reserved that can be a peer in a dual-stack cluster."""
    return {n: labels for n, (_, labels) in identities.RESERVED.items() if n != identities.WORLD}


_NAMESPACE_KEYS = st.sampled_from(
    ["k8s:io.kubernetes.pod.namespace", "io.kubernetes.pod.namespace", "any:io.kubernetes.pod.namespace"]
)
_match_labels = st.dictionaries(
    st.sampled_from(["app", "k8s:app", "any:tier", "tier"]), st.sampled_from([*APPS, *TIERS, ""]), max_size=2
)
_expression = st.one_of(
    st.fixed_dictionaries(
        {
            "key": st.sampled_from(["app", "k8s:tier", "tier", "missing"]),
            "operator": st.sampled_from(["In", "NotIn"]),
            "values": st.lists(st.sampled_from([*APPS, *TIERS]), min_size=1, max_size=2),
        }
    ),
    st.fixed_dictionaries(
        {
            "key": st.sampled_from(["app", "tier", "missing"]),
            "operator": st.sampled_from(["Exists", "DoesNotExist"]),
        }
    ),
)
_selector = st.fixed_dictionaries(
    {}, optional={"matchLabels": _match_labels, "matchExpressions": st.lists(_expression, max_size=2)}
)
_subject = st.one_of(
    _selector,
    st.builds(lambda key, ns: {"matchLabels": {key: ns}}, _NAMESPACE_KEYS, st.sampled_from(NAMESPACES)),
    st.builds(
        lambda values: {
            "matchExpressions": [
                {"key": "k8s:io.kubernetes.pod.namespace", "operator": "In", "values": values}
            ]
        },
        st.lists(st.sampled_from(NAMESPACES), min_size=1, max_size=2),
    ),
    st.just({"matchExpressions": [{"key": "reserved:init", "operator": "DoesNotExist"}]}),
)
_peer = st.one_of(
    _selector,
    st.builds(
        lambda base, key, ns: {**base, "matchLabels": {**base.get("matchLabels", {}), key: ns}},
        _selector,
        _NAMESPACE_KEYS,
        st.sampled_from(NAMESPACES),
    ),
    st.sampled_from([{"matchLabels": {f"reserved:{name}": ""}} for name in ("host", "health", "unmanaged")]),
    st.just({"matchExpressions": [{"key": "$remote-node", "operator": "Exists"}]}),
)


@st.composite
def _port(draw: st.DrawFn) -> dict[str, Any]:
    port: dict[str, Any] = {"port": str(draw(st.sampled_from([0, *PORTS])))}
    if draw(st.booleans()):
        port["protocol"] = draw(st.sampled_from(["TCP", "UDP", "SCTP", "ANY"]))
    if draw(st.integers(0, 3)) == 0:
        port["endPort"] = draw(st.sampled_from(PORTS))
    return port


@st.composite
def _entry(draw: st.DrawFn, side: str, deny: bool) -> dict[str, Any]:
    entry: dict[str, Any] = {}
    kind = draw(st.sampled_from(["none", "endpoints", "endpoints", "entities"]))
    if kind == "endpoints":
        entry[f"{side}Endpoints"] = draw(st.lists(_peer, max_size=2))
    elif kind == "entities":
        names = st.sampled_from(["all", "world", "host", "cluster"])
        entry[f"{side}Entities"] = draw(st.lists(names, max_size=2))
    if draw(st.booleans()):
        ports = st.lists(_port(), min_size=1 if deny else 0, max_size=2)
        elements = st.lists(st.fixed_dictionaries({"ports": ports}), max_size=2)
        entry["toPorts"] = draw(elements)
    return entry


@st.composite
def _rule(draw: st.DrawFn) -> dict[str, Any]:
    rule: dict[str, Any] = {"endpointSelector": draw(_subject)}
    names = st.sampled_from(["ingress", "egress", "ingressDeny", "egressDeny"])
    for section in draw(st.sets(names, min_size=1, max_size=3)):
        side = "from" if section.startswith("ingress") else "to"
        rule[section] = draw(st.lists(_entry(side, section.endswith("Deny")), min_size=1, max_size=2))
    return rule


@st.composite
def policies(draw: st.DrawFn, max_size: int = 4) -> list[dict[str, Any]]:
    """Objects as users submit them; all valid."""
    found = []
    for index in range(draw(st.integers(1, max_size))):
        metadata = {"name": f"p{index}", "namespace": draw(st.sampled_from(NAMESPACES))}
        one: dict[str, Any] = {
            "apiVersion": "cilium.io/v2",
            "kind": "CiliumNetworkPolicy",
            "metadata": metadata,
        }
        if draw(st.integers(0, 4)) == 0:
            one["specs"] = draw(st.lists(_rule(), min_size=1, max_size=2))
        else:
            one["spec"] = draw(_rule())
        found.append(one)
    return found


def cases(*, flows: int = 20, most_policies: int = 4) -> st.SearchStrategy[dict[str, Any]]:
    """Whole random cases of all features (`policycases_random`), shrunk by hypothesis."""
    randoms = st.randoms(use_true_random=False)
    return randoms.map(lambda rng: random_case(rng, flows=flows, most_policies=most_policies))
