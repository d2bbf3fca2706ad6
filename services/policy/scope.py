"""Where a selector looks: how namespaces and clusters bound what it selects.

Rules of facts: a namespaced policy never selects subjects elsewhere (CVE-2023-41333); its peers are those of
its namespace unless the selector names another or is about reserved labels; a cluster-wide policy's peers
are pods unless it says otherwise.
"""

from __future__ import annotations

from typing import Final

from axoneme.lib.labels import (
    CLUSTER_KEY,
    K8S,
    NAMESPACE_KEY,
    NAMESPACE_LABEL_PREFIX,
    RESERVED,
    SERVICE_ACCOUNT_KEY,
)
from axoneme.lib.selectors import ANY, LabelSelector, Operator, Requirement, split_key

# Reserved labels that only identities of the cluster's own numbers carry; world, remote-node and
# kube-apiserver are also carried by numbers that exist on one node only.
_CLUSTER_WIDE_RESERVED: Final = frozenset({"host", "health", "init", "ingress", "unmanaged", "none"})


def mentions_reserved(selector: LabelSelector) -> bool:
    """Whether a requirement names a reserved label."""
    return any(requirement.source == RESERVED for requirement in selector.requirements)


def mentions_namespace(selector: LabelSelector) -> bool:
    """Whether a requirement is about the namespace or its labels."""
    return any(_about_namespace(requirement) for requirement in selector.requirements)


def mentions_cluster(selector: LabelSelector) -> bool:
    """Whether a requirement is about the cluster of a pod."""
    return any(
        requirement.key == CLUSTER_KEY and requirement.source in (ANY, K8S)
        for requirement in selector.requirements
    )


def cluster_wide_only(selector: LabelSelector) -> bool:
    """Whether no node-local identity (an address outside, a node by label) can meet it, now or later."""
    return any(
        requirement.positive and _only_in_cluster(requirement) for requirement in selector.requirements
    )


def _about_namespace(requirement: Requirement) -> bool:
    if requirement.source not in (ANY, K8S):
        return False
    return requirement.key == NAMESPACE_KEY or requirement.key.startswith(NAMESPACE_LABEL_PREFIX)


def _only_in_cluster(requirement: Requirement) -> bool:
    if requirement.source == RESERVED:
        return requirement.key in _CLUSTER_WIDE_RESERVED
    return _about_namespace(requirement) or (
        requirement.source in (ANY, K8S) and requirement.key in (CLUSTER_KEY, SERVICE_ACCOUNT_KEY)
    )


def in_namespace(namespace: str) -> Requirement:
    """What a pod of a namespace has."""
    return Requirement(K8S, NAMESPACE_KEY, Operator.IN, (namespace,))


def in_any_namespace() -> Requirement:
    """What every pod has, and nothing else."""
    return Requirement(K8S, NAMESPACE_KEY, Operator.EXISTS)


def in_cluster(cluster_name: str) -> Requirement:
    """What a pod of a cluster has."""
    return Requirement(K8S, CLUSTER_KEY, Operator.IN, (cluster_name,))


def scope_subject(selector: LabelSelector, namespace: str) -> LabelSelector:
    """The subjects of a namespaced policy: always within its namespace, whatever else the selector says."""
    return selector.also(in_namespace(namespace))


def names_namespace(key: str) -> bool:
    """Whether a key, as users write it, is the namespace of a pod: in the subject's labels it is replaced."""
    source, name = split_key(key)
    return name == NAMESPACE_KEY and source in (ANY, K8S)


def scope_peer(selector: LabelSelector, namespace: str) -> LabelSelector:
    """The peers of a namespaced policy: in its namespace, unless they name another or are reserved."""
    if mentions_reserved(selector) or mentions_namespace(selector):
        return selector
    return selector.also(in_namespace(namespace))


def scope_clusterwide_peer(selector: LabelSelector, *, subject_about_init: bool) -> LabelSelector:
    """The peers of a cluster-wide policy: pods of any namespace unless they name one or are reserved.

    Nothing is added for a policy whose subject is about `reserved:init`.
    """
    if subject_about_init or mentions_reserved(selector) or mentions_namespace(selector):
        return selector
    return selector.also(in_any_namespace())
