"""Publisher's side of SubscribeServices on the wire.

A service that goes to the nodes is serialised once; every update that carries it is put together from the
same bytes, whichever node gets it.
"""

from __future__ import annotations

from typing import Final

from axoneme.api.clustermesh.v1 import clustermesh_pb2 as pb
from axoneme.lib.intent import Change, Request, Update
from axoneme.lib.intentstream import envelope
from axoneme.lib.policycodec.wirefields import field_of
from services.clustermesh.messages import service_message
from services.clustermesh.model import (
    ServiceKey,
)
from services.clustermesh.view import View

STREAM_KEY: Final = "service:"
_header: Final = field_of(pb.SubscribeServicesResponse, "header")
_upsert: Final = field_of(pb.SubscribeServicesResponse, "upserts")
_removed: Final = field_of(pb.SubscribeServicesResponse, "removed_services")


def stream_key(key: ServiceKey) -> str:
    """Key of a service in the stream."""
    return f"{STREAM_KEY}{key}"


def stream_value(view: View, cluster: str) -> bytes:
    """What nodes get of a service: equal services give equal bytes."""
    return service_message(view, cluster).SerializeToString(deterministic=True)


class ServicesCodec:
    """Publisher's codec of SubscribeServices; its responses are serialised already."""

    def decode(self, request: pb.SubscribeServicesRequest) -> Request:
        """A message of a shim. Raises ValueError when no kind is set."""
        match request.WhichOneof("kind"):
            case "hello":
                return envelope.hello_from_message(request.hello)
            case "ack":
                return envelope.ack_from_message(request.ack)
            case "resync":
                return envelope.resync_from_message(request.resync)
        raise ValueError("kind: one of hello, ack, resync must be set")

    def encode(self, update: Update[bytes]) -> bytes:
        """A serialised SubscribeServicesResponse."""
        parts = [_header(envelope.header_to_message(update.header).SerializeToString())]
        for key, value, _ in update.changes:
            gone = value is None
            parts.append(_removed(key.removeprefix(STREAM_KEY).encode()) if gone else _upsert(value or b""))
        return b"".join(parts)

    def weight(self, change: Change[bytes]) -> int:
        """About the bytes of a change."""
        return len(change.key) + len(change.value or b"")
