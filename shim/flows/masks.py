"""Which fields of a flow a reader wants."""

from __future__ import annotations

from google.protobuf.field_mask_pb2 import FieldMask

from axoneme.api.hubble.flow import flow_pb2
from axoneme.api.hubble.observer import observer_pb2
from axoneme.lib.errors import InvalidArgument

Response = observer_pb2.GetFlowsResponse


class FlowMask:
    """Applies the field mask of a request; an empty one keeps everything."""

    def __init__(self, mask: FieldMask) -> None:
        """Raises InvalidArgument for a path that is no field of a flow."""
        for path in mask.paths:
            if not FieldMask(paths=[path]).IsValidForDescriptor(flow_pb2.Flow.DESCRIPTOR):
                raise InvalidArgument.of_field("field_mask", f"{path!r} is not a field of flow.Flow")
        self._mask = mask if mask.paths else None

    def applied(self, response: Response) -> Response:
        """Keep the masked fields of the flow; the outer time and node name stay, the relay sorts by them."""
        if self._mask is None or not response.HasField("flow"):
            return response
        result = Response(node_name=response.node_name, time=response.time)
        result.flow.SetInParent()
        self._mask.MergeMessage(response.flow, result.flow)
        return result
