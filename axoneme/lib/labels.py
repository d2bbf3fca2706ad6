"""Labels and label sets: what a workload is, in the form that Cilium keeps in etcd.

Texts come in from API requests, policies and etcd; label sets go out to the allocator, the selectors and
displays. Equal label sets are one identity, so a set has one canonical form (`LabelSet.key`). This module
holds no state and must not do I/O.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from axoneme.lib.errors import FieldViolation, InvalidArgument

K8S, RESERVED, UNSPEC, CIDR, FQDN = "k8s", "reserved", "unspec", "cidr", "fqdn"

NAMESPACE_KEY = "io.kubernetes.pod.namespace"
CLUSTER_KEY = "io.cilium.k8s.policy.cluster"
SERVICE_ACCOUNT_KEY = "io.cilium.k8s.policy.serviceaccount"
NAMESPACE_LABEL_PREFIX = "io.cilium.k8s.namespace.labels."
METADATA_NAME_KEY = "kubernetes.io/metadata.name"

MAX_LABELS = 64
MAX_KEY_BYTES = 8192

# Sources that say something about the network, not about a workload.
_FOREIGN_SOURCES = frozenset({RESERVED, CIDR, FQDN, "cidrgroup", "node", "any"})
_SOURCE = re.compile(r"[a-z0-9][a-z0-9._-]*")


class InvalidLabels(InvalidArgument):
    """Labels that cannot stand for an identity."""

    default_reason = "INVALID_LABELS"


class Label(NamedTuple):
    """One label; `value` may be empty."""

    source: str
    key: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Label:
        """Reads `source:key=value`, `source:key`, `key=value` or `key`; without a source it is `unspec`.

        Raises InvalidLabels when the text cannot be kept in etcd unambiguously.
        """
        name, _, value = text.partition("=")
        source, colon, key = name.partition(":")
        label = cls(source, key, value) if colon else cls(UNSPEC, name, value)
        problem = _problem(label)
        if problem:
            raise invalid(f"label {text[:128]!r} {problem}")
        return label

    def __str__(self) -> str:
        if not self.value:
            return f"{self.source}:{self.key}"
        return f"{self.source}:{self.key}={self.value}"


def _problem(label: Label) -> str | None:
    """What is wrong with a label, in words that follow `label 'x'`."""
    if not label.key:
        return "has no key; write source:key=value"
    if not _SOURCE.fullmatch(label.source):
        return "has no valid source before the colon; use lower-case letters, digits, '.', '_' or '-'"
    text = label.key + label.value
    if ";" in text:
        return "holds ';', which separates labels in etcd; remove it"
    if not text.isprintable():
        return "holds a control character; remove it"
    return None


def invalid(message: str) -> InvalidLabels:
    """An InvalidLabels that also names the field."""
    return InvalidLabels(message, violations=(FieldViolation("labels", message),))


@dataclass(frozen=True, slots=True)
class LabelSet:
    """Labels sorted by key, one label a key; equal sets are one identity. Build it with `parse` or `of`."""

    labels: tuple[Label, ...]

    @classmethod
    def of(cls, labels: Iterable[Label]) -> LabelSet:
        """Sorts and drops repetitions. Raises InvalidLabels for one key with two sources or values."""
        label_by_key: dict[str, Label] = {}
        for label in labels:
            known = label_by_key.setdefault(label.key, label)
            if known != label:
                raise invalid(f"key {label.key!r} is given twice, as {known} and {label}; keep one of them")
        if len(label_by_key) > MAX_LABELS:
            raise invalid(f"{len(label_by_key)} labels are given; at most {MAX_LABELS} make up an identity")
        made = cls(tuple(label_by_key[key] for key in sorted(label_by_key)))
        size = len(made.key.encode())
        if size > MAX_KEY_BYTES:
            raise invalid(f"the labels take {size} bytes together; at most {MAX_KEY_BYTES} are stored")
        return made

    @classmethod
    def parse(cls, texts: Iterable[str]) -> LabelSet:
        """Reads `source:key=value` texts. Raises InvalidLabels."""
        return cls.of(Label.parse(text) for text in texts)

    @classmethod
    def from_key(cls, text: str) -> LabelSet:
        """Reads the form of `key`. Raises InvalidLabels, also when the closing `;` is missing."""
        if text and not text.endswith(";"):
            raise invalid("a stored label set must end with ';'")
        return cls.parse(part for part in text.split(";") if part)

    @property
    def key(self) -> str:
        """`source:key=value;` for every label: the text under which etcd knows the set."""
        return "".join(f"{source}:{key}={value};" for source, key, value in self.labels)

    def texts(self) -> tuple[str, ...]:
        """The labels as people write them, sorted by key."""
        return tuple(str(label) for label in self.labels)

    def get(self, key: str) -> Label | None:
        """The label of a key, whatever its source."""
        return next((label for label in self.labels if label.key == key), None)

    def __iter__(self) -> Iterator[Label]:
        return iter(self.labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __contains__(self, label: object) -> bool:
        return label in self.labels


# Cilium's default filter: which keys tell workloads apart, and which only churn (hashes, ordinals, zones).
_INCLUDED = tuple(
    re.compile(re.escape(prefix))
    for prefix in (
        NAMESPACE_KEY,
        NAMESPACE_LABEL_PREFIX.rstrip("."),
        "app.kubernetes.io",
        CLUSTER_KEY,
        SERVICE_ACCOUNT_KEY,
    )
)
_IGNORED = tuple(
    re.compile(pattern)
    for pattern in (
        r"io\.kubernetes",
        r"kubernetes\.io",
        r".*beta\.kubernetes\.io",
        r"k8s\.io",
        r"topology\.kubernetes\.io",
        r"statefulset\.kubernetes\.io/pod-name",
        r"apps\.kubernetes\.io/pod-index",
        r"batch\.kubernetes\.io/job-completion-index",
        r"batch\.kubernetes\.io/controller-uid",
        r"pod-template-generation",
        r"pod-template-hash",
        r"controller-revision-hash",
        r"controller-uid",
        r"annotation.*",
        r"etcd_node",
    )
)


@functools.lru_cache(maxsize=4096)
def security_relevant(key: str) -> bool:
    """Whether a key takes part in a workload's identity: longest inclusion against shortest exclusion."""
    ignored = [match.end() for match in (pattern.match(key) for pattern in _IGNORED) if match]
    if not ignored:
        return True
    included = [match.end() for match in (pattern.match(key) for pattern in _INCLUDED) if match]
    return max(included, default=0) > min(ignored)


def workload_labels(
    own: Iterable[str],
    *,
    namespace: str,
    cluster: str,
    service_account: str = "default",
    namespace_labels: Mapping[str, str] | None = None,
) -> LabelSet:
    """The label set of a workload: its own labels (`key=value` means `k8s:key=value`) and where it runs.

    Own labels that only churn (such as `pod-template-hash`) are left out. Raises InvalidLabels for keys and
    sources that only the system may give.
    """
    labels = [label for label in map(_own_label, own) if security_relevant(label.key)]
    labels += [
        Label(K8S, NAMESPACE_KEY, namespace),
        Label(K8S, CLUSTER_KEY, cluster),
        Label(K8S, SERVICE_ACCOUNT_KEY, service_account),
    ]
    given = {**(namespace_labels or {}), METADATA_NAME_KEY: namespace}
    labels += [Label(K8S, NAMESPACE_LABEL_PREFIX + key, value) for key, value in given.items()]
    for label in labels:
        problem = _problem(label)
        if problem:
            raise invalid(f"label {str(label)[:128]!r} {problem}")
    return LabelSet.of(labels)


def _own_label(text: str) -> Label:
    label = Label.parse(text)
    if label.source == UNSPEC:
        label = label._replace(source=K8S)
    if label.source in _FOREIGN_SOURCES:
        raise invalid(f"label {text[:128]!r} has the reserved source {label.source!r}; use k8s")
    if label.key == NAMESPACE_KEY or label.key.startswith("io.cilium.k8s."):
        raise invalid(f"label {text[:128]!r} has a key that the system gives; leave it out")
    return label
