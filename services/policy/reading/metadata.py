"""Reading what every object has: its metadata. And the form in which an object is stored.

What an API server adds to an object says nothing about policy and is not stored; of the annotations only our
own are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from services.policy.reading.document import Json, Node
from services.policy.reading.faults import nearest
from services.policy.reading.fields import Fields

OWN_PREFIX: Final = "policy.axoneme.io/"
AUDIT: Final = f"{OWN_PREFIX}audit"
_SERVER_METADATA: Final = (
    "uid",
    "resourceVersion",
    "generation",
    "generateName",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "managedFields",
    "ownerReferences",
    "finalizers",
    "selfLink",
)
_STORED: Final = ("spec", "specs")


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectMeta:
    """Name, labels and our own annotations of an object; `namespace` is empty for cluster-wide kinds."""

    namespace: str = ""
    name: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    audit: bool = False

    @property
    def origin_labels(self) -> tuple[str, ...]:
        """The labels as `key=value`, sorted: what origins say about the object."""
        return tuple(f"{key}={value}" for key, value in sorted(self.labels.items()))


def read_metadata(
    node: Node, metadata: Node | None, fields: Fields, *, namespaced: bool, default_namespace: str
) -> ObjectMeta:
    """The metadata of the object `node`; a cluster-wide object must not name a namespace."""
    namespace = default_namespace if namespaced else ""
    if metadata is None:
        fields.fault(node, "the object has no metadata", "give it metadata.name")
        return ObjectMeta(namespace=namespace)
    present = fields.mapping(
        metadata, ("name", "namespace", "labels", "annotations"), ignored=_SERVER_METADATA
    )
    if "name" not in present and metadata.mapping is not None:
        fields.fault(metadata, "the object has no name", "give it metadata.name")
    if "namespace" in present:
        namespace = _namespace(present["namespace"], fields, namespaced) or namespace
    return ObjectMeta(
        namespace=namespace,
        name=(fields.name(present["name"]) or "") if "name" in present else "",
        labels=_texts(present["labels"], fields) if "labels" in present else {},
        audit=_audit(present["annotations"], fields) if "annotations" in present else False,
    )


def stored_form(
    api_version: str, kind: str, meta: ObjectMeta, present: Mapping[str, Node]
) -> dict[str, Json]:
    """The object with its keys `present` as JSON, without what a server added; it reads as it did."""
    metadata: dict[str, Json] = {"name": meta.name}
    if meta.namespace:
        metadata["namespace"] = meta.namespace
    if meta.labels:
        metadata["labels"] = {**meta.labels}
    if meta.audit:
        metadata["annotations"] = {AUDIT: "true"}
    stored: dict[str, Json] = {"apiVersion": api_version, "kind": kind, "metadata": metadata}
    return stored | {key: present[key].plain() for key in _STORED if key in present}


def _namespace(node: Node, fields: Fields, namespaced: bool) -> str:
    if namespaced:
        return fields.namespace(node) or ""
    if node.scalar != "":
        fields.fault(node, "a cluster-wide object has no namespace", "remove metadata.namespace")
    return ""


def _texts(node: Node, fields: Fields) -> dict[str, str]:
    texts = {key: fields.text(child) for key, child in (node.mapping or {}).items()}
    if node.mapping is None:
        fields.fault(node, f"expected a mapping, found {node.kind}", "write `key: value`")
    return {key: text for key, text in texts.items() if text is not None}


def _audit(node: Node, fields: Fields) -> bool:
    """Whether the policy is only tried out. Foreign annotations may hold anything."""
    if node.mapping is None:
        fields.fault(node, f"expected a mapping, found {node.kind}", "write `key: value`")
        return False
    for key, child in node.mapping.items():
        if key.startswith(OWN_PREFIX) and key != AUDIT:
            # A misspelt one would put in force what should be tried out only.
            fields.fault(child, f"unknown annotation {key[:80]!r}", nearest(key, (AUDIT,)))
    if AUDIT not in node.mapping:
        return False
    written = node.mapping[AUDIT]
    if written.scalar not in ("true", "false"):
        fields.fault(written, "the annotation is neither 'true' nor 'false'", 'write "true" with its quotes')
    return written.scalar == "true"
