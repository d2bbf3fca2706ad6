"""Label selectors: canonical, hashable, and how a namespace scopes them.

A key is `source:key`, `any:key`, `key` (any source) or `$key` (reserved). A selector is the AND of its
requirements; the empty one selects everything. This module does not know which identities exist.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from axoneme.lib.labels import (
    CLUSTER_KEY,
    K8S,
    NAMESPACE_KEY,
    NAMESPACE_LABEL_PREFIX,
    RESERVED,
    SERVICE_ACCOUNT_KEY,
    LabelSet,
)

ANY: Final = "any"
# Reserved labels that only identities of the cluster's own numbers carry; world and kube-apiserver are also
# carried by numbers that exist on one node only.
_CLUSTER_WIDE_RESERVED: Final = frozenset(
    {"host", "remote-node", "health", "init", "ingress", "unmanaged", "none"}
)


class Operator(StrEnum):
    """What a requirement asks of the value of its key."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


@dataclass(frozen=True, slots=True, order=True)
class Requirement:
    """One condition on one key; `source` `any` accepts a label of every source."""

    source: str
    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    @classmethod
    def of(cls, key: str, operator: Operator, values: tuple[str, ...] = ()) -> Requirement:
        """Read a key as users write it."""
        source, name = split_key(key)
        return cls(source, name, operator, tuple(sorted(set(values))))

    @property
    def positive(self) -> bool:
        """Whether the key has to be there."""
        return self.operator in (Operator.IN, Operator.EXISTS)

    def matches(self, labels: LabelSet) -> bool:
        """Whether a label set meets the condition; NotIn is met by a set without the key."""
        label = labels.get(self.key)
        present = label is not None and self.source in (ANY, label.source)
        if self.operator is Operator.EXISTS:
            return present
        if self.operator is Operator.DOES_NOT_EXIST:
            return not present
        inside = present and label is not None and label.value in self.values
        return inside if self.operator is Operator.IN else not inside

    def __str__(self) -> str:
        name = f"{self.source}:{self.key}"
        if self.operator in (Operator.EXISTS, Operator.DOES_NOT_EXIST):
            return name if self.positive else f"!{name}"
        return f"{name} {self.operator} ({','.join(self.values)})"


def split_key(key: str) -> tuple[str, str]:
    """Source and key of a key as users write it."""
    if key.startswith("$"):
        return RESERVED, key[1:]
    source, colon, name = key.partition(":")
    return (source, name) if colon and source else (ANY, key)


@dataclass(frozen=True, slots=True, order=True)
class LabelSelector:
    """Requirements in canonical order; equal selectors select equally."""

    requirements: tuple[Requirement, ...] = ()

    @classmethod
    def of(cls, *requirements: Requirement) -> LabelSelector:
        """Sort and drop repetitions."""
        return cls(tuple(sorted(set(requirements))))

    def matches(self, labels: LabelSet) -> bool:
        """Whether a label set meets all requirements."""
        return all(requirement.matches(labels) for requirement in self.requirements)

    def also(self, requirement: Requirement) -> LabelSelector:
        """The selector with one more requirement."""
        return LabelSelector.of(*self.requirements, requirement)

    def __str__(self) -> str:
        return " and ".join(map(str, self.requirements)) or "everything"

    @property
    def mentions_reserved(self) -> bool:
        """Whether a requirement names a reserved label."""
        return any(requirement.source == RESERVED for requirement in self.requirements)

    @property
    def mentions_namespace(self) -> bool:
        """Whether a requirement is about the namespace or its labels."""
        return any(_about_namespace(requirement) for requirement in self.requirements)

    @property
    def cluster_wide_only(self) -> bool:
        """Whether no node-local identity (an address outside the cluster) can meet it, now or later."""
        return any(
            requirement.positive and _only_in_cluster(requirement) for requirement in self.requirements
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


def scope_subject(selector: LabelSelector, namespace: str) -> LabelSelector:
    """The subjects of a namespaced policy: always within its namespace, whatever else the selector says."""
    return selector.also(in_namespace(namespace))


def names_namespace(key: str) -> bool:
    """Whether a key, as users write it, is the namespace of a pod: in the subject's labels it is replaced."""
    source, name = split_key(key)
    return name == NAMESPACE_KEY and source in (ANY, K8S)


def scope_peer(selector: LabelSelector, namespace: str) -> LabelSelector:
    """The peers of a namespaced policy: in its namespace, unless they name another or are reserved."""
    if selector.mentions_reserved or selector.mentions_namespace:
        return selector
    return selector.also(in_namespace(namespace))
