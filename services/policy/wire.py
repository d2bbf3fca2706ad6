"""The messages of PolicyService to and from the service's own types."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from axoneme.api.policy.v1 import policy_pb2 as pb
from axoneme.lib.errors import AxonemeError
from axoneme.lib.intent import Change, Interest, Request, Update
from axoneme.lib.intentstream import envelope
from axoneme.lib.policy.model import SubjectPolicy
from axoneme.lib.policycodec import decode_subject, encode_change, encode_subject
from services.policy.rules import PolicyKey
from services.policy.store import StoredPolicy

_ENTRY_BYTES: Final = 48
_HEADER_BYTES: Final = 512
_KEPT_CHANGES: Final = 1024


class PolicyPublisherCodec:
    """Publisher codec of SubscribeEndpointPolicies. A change is serialised once for all nodes that get it."""

    def __init__(self) -> None:
        # Both policies are kept beside the message, so that their ids stay theirs.
        self._encoded: OrderedDict[
            tuple[str, int, int], tuple[SubjectPolicy, SubjectPolicy | None, pb.SubjectChange]
        ] = OrderedDict()

    def decode(self, request: pb.SubscribeEndpointPoliciesRequest) -> Request:
        """Read a request. Raises ValueError when no kind is set."""
        kind = request.WhichOneof("kind")
        if kind == "hello":
            return envelope.hello_from_message(request.hello)
        if kind == "ack":
            return envelope.ack_from_message(request.ack)
        if kind == "resync":
            return envelope.resync_from_message(request.resync)
        if kind == "interest":
            return Interest(
                added=subject_keys(request.interest.added), removed=subject_keys(request.interest.removed)
            )
        raise ValueError("the request has no kind that this version knows")

    def encode(self, update: Update[SubjectPolicy]) -> pb.SubscribeEndpointPoliciesResponse:
        """Write an update."""
        return pb.SubscribeEndpointPoliciesResponse(
            header=envelope.header_to_message(update.header),
            changes=[self._change(c.key, c.value, c.previous) for c in update.changes if c.value is not None],
            removed_subjects=[
                encode_subject(change.key) for change in update.changes if change.value is None
            ],
        )

    def weight(self, change: Change[SubjectPolicy]) -> int:
        """About how many bytes a change takes."""
        if change.value is None:
            return 16
        entries = change.value.contributions
        if change.previous is not None:
            entries = entries ^ change.previous.contributions
        return _HEADER_BYTES + _ENTRY_BYTES * len(entries) + 128 * len(change.value.origins)

    def _change(self, key: str, value: SubjectPolicy, previous: SubjectPolicy | None) -> pb.SubjectChange:
        slot = (key, id(value), id(previous))
        kept = self._encoded.get(slot)
        if kept is None:
            kept = (value, previous, encode_change(key, value, previous))
            self._encoded[slot] = kept
            if len(self._encoded) > _KEPT_CHANGES:
                self._encoded.popitem(last=False)
        return kept[2]


def subject_keys(subjects: Iterable[pb.Subject]) -> tuple[str, ...]:
    """Keys of the subjects of an Interest; kinds that this version does not know have no policy here."""
    keys = []
    for subject in subjects:
        try:
            keys.append(decode_subject(subject))
        except AxonemeError:
            continue
    return tuple(keys)


def policy_message(stored: StoredPolicy) -> pb.Policy:
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
