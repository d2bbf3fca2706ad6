"""CloudGroup objects (axoneme.io/v1): the addresses that a cloud reported for a group that policies refer to.

`spec.reference` is what stands in `toGroups`, `spec.cidrs` are its members. Whoever watches the cloud writes
these objects; a reference without one selects nobody.
"""

from __future__ import annotations

from typing import Final

from services.policy.inputs import CloudGroup
from services.policy.reading.cidrgroup import read_cidrs, read_group_metadata
from services.policy.reading.document import Node
from services.policy.reading.fields import Fields
from services.policy.reading.groupfields import read_group
from services.policy.reading.metadata import stored_form
from services.policy.rules import PolicyKey

KIND: Final = "CloudGroup"
API_VERSION: Final = "axoneme.io/v1"
_NEEDED: Final = {
    "reference": "write what stands in toGroups, such as `aws: {securityGroupsIds: [sg-1]}`",
    "cidrs": "a group of nobody is `cidrs: []`",
}


def read_cloud_group(node: Node, fields: Fields) -> CloudGroup | None:
    """The group of an object of this kind; None after faults."""
    before = len(fields.faults)
    present = fields.mapping(node, ("apiVersion", "kind", "metadata", "spec"), ignored=("status",))
    meta = read_group_metadata(node, present.get("metadata"), fields)
    if "spec" not in present:
        fields.fault(node, "the object has no spec", "give it `spec` with reference and cidrs")
        return None
    spec = fields.mapping(present["spec"], tuple(_NEEDED))
    for needed, fix in _NEEDED.items():
        if needed not in spec:
            fields.fault(present["spec"], f"the group has no {needed}", fix)
    reference = read_group(spec["reference"], fields) if "reference" in spec else None
    cidrs = read_cidrs(spec["cidrs"], fields) if "cidrs" in spec else ()
    if reference is None or len(fields.faults) > before:
        return None
    return CloudGroup(
        key=PolicyKey(KIND, "", meta.name),
        reference=reference,
        cidrs=cidrs,
        document=stored_form(API_VERSION, KIND, meta, present),
    )
