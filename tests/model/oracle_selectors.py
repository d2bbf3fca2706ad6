"""Selectors of the oracle: label triples (source, key, value) against selectors as users write them.

Plain dictionaries only; nothing is shared with the selectors of the service.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

Triple = tuple[str, str, str]
Triples = frozenset[Triple]
Selector = Mapping[str, Any]

NAMESPACE = "io.kubernetes.pod.namespace"
CLUSTER = "io.cilium.k8s.policy.cluster"
NAMESPACE_LABELS = "io.cilium.k8s.namespace.labels."


def split(key: str) -> tuple[str, str]:
    """Source and key of a written key; a key without a source may have any."""
    if key.startswith("$"):
        return "reserved", key[1:]
    source, colon, name = key.partition(":")
    return (source, name) if colon else ("any", key)


def requirements(
    selector: Selector | None, source: str = "", prefix: str = ""
) -> list[tuple[str, str, str, Any]]:
    """(source, key, operator, values) of everything a selector asks for.

    With a `source` the keys are those of Kubernetes (no source in the text), with `prefix` before them.
    """

    def place(key: str) -> tuple[str, str]:
        return (source, prefix + key) if source else split(key)

    labels = (selector or {}).get("matchLabels") or {}
    found = [(*place(key), "In", [value or ""]) for key, value in labels.items()]
    expressions = (selector or {}).get("matchExpressions") or []
    found += [(*place(one["key"]), one["operator"], one.get("values") or []) for one in expressions]
    return found


def meets(requirement: tuple[str, str, str, Any], labels: Triples) -> bool:
    """Whether a set of labels meets one requirement."""
    source, key, operator, values = requirement
    there = {value for s, k, value in labels if k == key and source in ("any", s)}
    if operator == "Exists":
        return bool(there)
    if operator == "DoesNotExist":
        return not there
    inside = bool(there & set(values))
    return inside if operator == "In" else not inside


def matches(selector: Selector | None, labels: Triples, source: str = "", prefix: str = "") -> bool:
    """Whether labels are selected; an empty selector selects everything."""
    return all(meets(one, labels) for one in requirements(selector, source, prefix))


def mentions(selector: Selector | None, source: str, key: str = "") -> bool:
    """Whether a selector says anything about a source (and a key of it)."""
    return any(s == source and key in ("", k) for s, k, _, _ in requirements(selector))


def mentions_place(selector: Selector | None) -> bool:
    """Whether a selector names a namespace or labels of namespaces."""
    return any(
        s in ("any", "k8s") and (k == NAMESPACE or k.startswith(NAMESPACE_LABELS))
        for s, k, _, _ in requirements(selector)
    )


def mentions_cluster(selector: Selector | None) -> bool:
    """Whether a selector names a cluster."""
    return any(s in ("any", "k8s") and k == CLUSTER for s, k, _, _ in requirements(selector))


def name_matches(element: Mapping[str, str], name: str) -> bool:
    """Whether a DNS name is one of an element of toFQDNs or of rules.dns."""
    name = name.lower().rstrip(".")
    if element.get("matchName"):
        return element["matchName"].lower().rstrip(".") == name
    pattern = element["matchPattern"].lower().rstrip(".")
    if set(pattern) == {"*"}:
        return True
    head = ""
    if pattern.startswith("**."):
        head, pattern = r"([-a-z0-9_]+\.)+", pattern[3:]
    text = "".join("[-a-z0-9_]*" if c == "*" else re.escape(c) for c in pattern)
    return re.fullmatch(head + text, name) is not None
