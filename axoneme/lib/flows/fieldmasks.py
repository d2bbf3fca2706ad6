"""Which fields of a flow a printed form needs, as a field mask.

The Hubble CLI sends the first twenty paths (HUBBLE.md §2.3); without the others a server that honours the
mask makes policy verdicts, names and authentication vanish from the lines, so ours follow them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from google.protobuf.field_mask_pb2 import FieldMask

from axoneme.api.hubble.flow import flow_pb2
from axoneme.lib.errors import InvalidArgument

STOCK_PATHS: Final = (
    "time", "verdict", "ethernet", "IP", "l4", "source.identity", "source.namespace", "source.pod_name",
    "destination.identity", "destination.namespace", "destination.pod_name", "Type", "node_name", "l7",
    "event_type", "source_service", "destination_service", "is_reply", "Summary", "ip_trace_id",
)  # fmt: skip
MISSED_PATHS: Final = (
    "source_names", "destination_names", "traffic_direction", "policy_match_type", "drop_reason_desc",
    "auth_type", "sock_xlate_point", "debug_capture_point", "egress_allowed_by", "ingress_allowed_by",
    "egress_denied_by", "ingress_denied_by",
)  # fmt: skip
DEFAULT_PATHS: Final = STOCK_PATHS + MISSED_PATHS


def parse_mask(texts: Sequence[str]) -> FieldMask:
    """The paths of `a,b.c`, given once or several times. Raises InvalidArgument for what no flow has."""
    mask = FieldMask(paths=[path.strip() for text in texts for path in text.split(",")])
    for path in mask.paths:
        if not path or not FieldMask(paths=[path]).IsValidForDescriptor(flow_pb2.Flow.DESCRIPTOR):
            raise InvalidArgument(f"--field-mask: {path!r} is not a field of a flow")
    return mask
