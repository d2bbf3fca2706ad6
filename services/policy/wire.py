"""The messages of PolicyService to and from the service's own types.

What goes to the nodes is made as bytes: a change is serialised once, and every update that carries it is put
together from the same bytes, whatever the subject's number and whichever node gets it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from axoneme.api.policy.v1 import policy_pb2 as pb
from axoneme.lib.intent import Change, Interest, Request, Update
from axoneme.lib.intentstream import envelope
from axoneme.lib.policy.model import SubjectPolicy
from axoneme.lib.policycodec import subject_bytes, subject_field, subject_keys
from axoneme.lib.policycodec.wirefields import field_of, tag_of, varint
from services.policy.bodies import Bodies

if TYPE_CHECKING:
    from services.policy.rules import PolicyKey
    from services.policy.store import StoredObject

_header: Final = field_of(pb.SubscribeEndpointPoliciesResponse, "header")
_removed: Final = field_of(pb.SubscribeEndpointPoliciesResponse, "removed_subjects")
_CHANGE_TAG: Final = tag_of(pb.SubscribeEndpointPoliciesResponse, "changes")
_SUBJECT_BYTES: Final = 24


class PolicyPublisherCodec:
    """Publisher codec of SubscribeEndpointPolicies; its responses are serialised already."""

    def __init__(self, bodies: Bodies | None = None) -> None:
        self.bodies = bodies or Bodies()

    def decode(self, request: pb.SubscribeEndpointPoliciesRequest) -> Request:
        """Read a request. Raises ValueError when no kind is set."""
        kind = request.WhichOneof("kind")
        if kind == "ack":
            return envelope.ack_from_message(request.ack)
        if kind == "hello":
            return envelope.hello_from_message(request.hello)
        if kind == "resync":
            return envelope.resync_from_message(request.resync)
        if kind == "interest":
            return Interest(
                added=subject_keys(request.interest.added), removed=subject_keys(request.interest.removed)
            )
        raise ValueError("the request has no kind that this version knows")

    def encode(self, update: Update[SubjectPolicy]) -> bytes:
        """A serialised SubscribeEndpointPoliciesResponse; bodies are copied once, into the message."""
        parts = [_header(envelope.header_to_message(update.header).SerializeToString())]
        for key, value, previous in update.changes:
            if value is None:
                parts.append(_removed(subject_bytes(key)))
                continue
            subject, body = subject_field(key), self.bodies.get(value, previous)
            parts += (_CHANGE_TAG, varint(len(subject) + len(body)), subject, body)
        return b"".join(parts)

    def weight(self, change: Change[SubjectPolicy]) -> int:
        """About how many bytes a change takes."""
        _, value, previous = change
        if value is None:
            return _SUBJECT_BYTES
        return _SUBJECT_BYTES + len(self.bodies.get(value, previous))


def policy_message(stored: StoredObject) -> pb.Policy:
    """A stored policy as it is shown."""
    return pb.Policy(
        kind=stored.key.kind,
        namespace=stored.key.namespace,
        name=stored.key.name,
        document=stored.document,
        revision=stored.revision,
        generation=stored.generation,
    )


def deleted_message(key: PolicyKey) -> pb.Policy:
    """A policy that went away."""
    return pb.Policy(kind=key.kind, namespace=key.namespace, name=key.name)
