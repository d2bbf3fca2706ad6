"""Advisories about labels: nobody gives himself those that the system gives."""

from __future__ import annotations

from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from axoneme.lib.labels import (
    CLUSTER_KEY,
    K8S,
    METADATA_NAME_KEY,
    NAMESPACE_KEY,
    NAMESPACE_LABEL_PREFIX,
    SERVICE_ACCOUNT_KEY,
    InvalidLabels,
    Label,
    LabelSet,
    workload_labels,
)
from services.identity.domain import canonical_labels
from services.policy.inputs import PolicySettings
from services.policy.resolution.engine import PolicyEngine
from tests.conftest import SOAK, scaled
from tests.model.advisorycases import (
    CLUSTERS,
    address,
    cnp,
    enters,
    everywhere,
    knp,
    parsed,
    pod,
    scene,
    single,
)

DERIVED: Final = (
    NAMESPACE_KEY,
    CLUSTER_KEY,
    SERVICE_ACCOUNT_KEY,
    NAMESPACE_LABEL_PREFIX + METADATA_NAME_KEY,
    NAMESPACE_LABEL_PREFIX + "team",
)
SOURCES: Final = (
    "",
    "k8s:",
    "any:",
    "reserved:",
    "cidr:",
    "fqdn:",
    "cidrgroup:",
    "container:",
    "unspec:",
    ":",
)
own_labels = st.lists(
    st.builds(
        "{}{}={}".format,
        st.sampled_from(SOURCES),
        st.sampled_from((*DERIVED, "app", "host", "init", "io.cilium.k8s.namespace.labels.x", "team")),
        st.sampled_from(("", "victim", "shop", "kube-system")),
    )
    | st.text(max_size=40),
    max_size=4,
)


def _derived(labels: LabelSet) -> dict[str, Label | None]:
    return {key: labels.get(key) for key in DERIVED} | {
        label.key: label
        for label in labels
        if label.source == "reserved" or label.key.startswith("io.cilium.k8s.")
    }


@settings(max_examples=scaled(300, 20_000), derandomize=not SOAK)
@given(own=own_labels, cluster=st.sampled_from(CLUSTERS))
def test_ghsa_pfhr_pccp_hwmh_own_labels_never_change_derived_ones(own: list[str], cluster: str) -> None:
    """A workload's own labels imitated those derived from its namespace, and selectors believed them.

    Whatever a workload says of itself is refused or leaves every derived and reserved label as it was.
    """
    where: Any = {"namespace": "shop", "cluster": cluster, "namespace_labels": {"team": "red"}}
    try:
        found = workload_labels(own, **where)
    except InvalidLabels:
        return
    assert _derived(found) == _derived(workload_labels([], **where))
    assert LabelSet.from_key(found.key) == found, "what is stored reads back as what was meant"


@everywhere
def test_ghsa_pfhr_pccp_hwmh_imitations_match_no_selector(family: int, cluster: str) -> None:
    """Selectors by namespace, namespace label, cluster and service account do not select imitators."""
    fakes = {
        NAMESPACE_KEY: "victim",
        f"k8s:{NAMESPACE_KEY}": "victim",
        NAMESPACE_LABEL_PREFIX + "team": "blue",
        SERVICE_ACCOUNT_KEY: "admin",
        "io.cilium.k8s.policy.cluster": "other",
        "reserved:host": "",
    }
    wanted = [
        {"matchLabels": {"k8s:" + NAMESPACE_KEY: "victim"}},
        {"matchLabels": {NAMESPACE_KEY: "victim"}},
        {"matchLabels": {NAMESPACE_LABEL_PREFIX + "team": "blue"}},
        {"matchLabels": {SERVICE_ACCOUNT_KEY: "admin"}},
        {"matchLabels": {CLUSTER_KEY: "other"}},
        {"matchLabels": {"reserved:host": ""}},
    ]
    endpoints = {
        "web": pod(),
        "fake": {**pod(namespace="evil"), "labels": fakes, "ip": address(family, 9)},
        "real": {**pod(namespace="victim"), "namespaceLabels": {"team": "blue"}},
    }
    world = scene(cluster, endpoints, [cnp({"ingress": [{"fromEndpoints": wanted}]})])
    assert enters(world, "fake", "web") == "deny"
    assert enters(world, "real", "web") == "allow"
    by_namespace = knp({"ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"team": "blue"}}}]}]})
    world = scene(cluster, endpoints, [by_namespace])
    assert (enters(world, "fake", "web"), enters(world, "real", "web")) == ("deny", "allow")


@pytest.mark.parametrize("cluster", CLUSTERS)
@pytest.mark.parametrize(
    "forged",
    ["reserved:host", "reserved:world-ipv6", "cidr:10.0.0.0/8", "cidr:2001-db8--0/32", "fqdn:a.example"],
)
def test_cve_2023_39347_forged_sets_get_no_number(forged: str, cluster: str) -> None:
    """A pod's user changed its labels and thereby took the place of other workloads, or of the system.

    The allocator refuses sets with labels of the network or of another cluster, at creation and at every
    later change alike (both go through this function), and adds the cluster itself.
    """
    honest = workload_labels(["app=web"], namespace="shop", cluster=cluster)
    assert canonical_labels(honest.texts(), cluster) == honest
    with pytest.raises(InvalidLabels):
        canonical_labels([*honest.texts(), forged], cluster)
    moved = [str(label) for label in honest if label.key != CLUSTER_KEY]
    with pytest.raises(InvalidLabels):
        canonical_labels([*moved, f"{K8S}:{CLUSTER_KEY}=another"], cluster)
    assert canonical_labels(moved, cluster) == honest


@everywhere
def test_cve_2023_39347_a_label_update_opens_only_what_the_new_labels_open(family: int, cluster: str) -> None:
    """After a label update the pod has what its new labels select and nothing of before, as if new."""
    policies = [
        parsed(cnp({"ingress": [{"fromEndpoints": [{"matchLabels": {"role": "client"}}]}]}, name="clients")),
        parsed(cnp({"egress": [{"toCIDR": [single(address(family))]}]}, name="out")),
    ]
    before = workload_labels(["role=client"], namespace="shop", cluster=cluster)
    after = workload_labels(["role=batch"], namespace="shop", cluster=cluster)
    changed, fresh = (PolicyEngine(PolicySettings(cluster_name=cluster)) for _ in range(2))
    for engine in (changed, fresh):
        for policy in policies:
            engine.put_policy(policy)
    changed.put_identity(1000, before)
    changed.drain(1)
    changed.put_identity(1000, after)
    fresh.put_identity(1000, after)
    changed.drain(2)
    fresh.drain(1)
    assert changed.subject(1000) == fresh.subject(1000)
