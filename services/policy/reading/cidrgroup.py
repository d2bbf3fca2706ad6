"""CiliumCIDRGroup objects (cilium.io/v2, v2alpha1): prefixes outside the cluster under a name and labels."""

from __future__ import annotations

from typing import Final

from services.policy.inputs import CidrGroup
from services.policy.reading.cidrfields import read_prefix
from services.policy.reading.document import Node
from services.policy.reading.fields import Fields
from services.policy.reading.metadata import AUDIT, ObjectMeta, read_metadata, stored_form
from services.policy.rules import PolicyKey

KIND: Final = "CiliumCIDRGroup"
API_VERSION: Final = "cilium.io/v2"
API_VERSIONS: Final = (API_VERSION, "cilium.io/v2alpha1")


def read_cidr_group(node: Node, fields: Fields) -> CidrGroup | None:
    """The group of an object of this kind; None after faults. It is kept in the form of `cilium.io/v2`."""
    before = len(fields.faults)
    present = fields.mapping(node, ("apiVersion", "kind", "metadata", "spec"), ignored=("status",))
    meta = read_group_metadata(node, present.get("metadata"), fields)
    if "spec" not in present:
        fields.fault(node, "the object has no spec", "give it `spec: {externalCIDRs: [...]}`")
        return None
    spec = fields.mapping(present["spec"], ("externalCIDRs",))
    if "externalCIDRs" not in spec:
        fields.fault(
            present["spec"], "the group has no externalCIDRs", "a group of nobody is `externalCIDRs: []`"
        )
        return None
    cidrs = read_cidrs(spec["externalCIDRs"], fields)
    if len(fields.faults) > before:
        return None
    return CidrGroup(
        key=PolicyKey(KIND, "", meta.name),
        labels=meta.labels,
        cidrs=cidrs,
        document=stored_form(API_VERSION, KIND, meta, present),
    )


def read_group_metadata(node: Node, metadata: Node | None, fields: Fields) -> ObjectMeta:
    """The metadata of a group. It has no verdicts of its own, so it cannot be tried out either."""
    meta = read_metadata(node, metadata, fields, namespaced=False, default_namespace="")
    if metadata is not None and meta.audit:
        fix = "annotate the policies that name the group"
        fields.fault(metadata, f"the annotation {AUDIT} is for policies only", fix)
    return meta


def read_cidrs(node: Node, fields: Fields) -> tuple[str, ...]:
    """The canonical prefixes of a list, sorted, each once."""
    prefixes = [read_prefix(item, fields) for item in fields.items(node)]
    return tuple(sorted({prefix for prefix in prefixes if prefix is not None}))
