"""SubscribeDnsRules as its two ends read and write it; values are DnsRules by the key of their subject.

`DnsRulesPublisher` is the service's end, `DnsRulesSubscriber` that of a node's DNS proxy, for StreamHost and
IntentClient of `axoneme.lib.intentstream`. Both are plain translations.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Final

from axoneme.api.policy.v1 import policy_pb2 as pb
from axoneme.lib.errors import AxonemeError
from axoneme.lib.intent import Ack, Change, Failure, Hello, Interest, Request, Resync, Update
from axoneme.lib.intentstream import envelope
from axoneme.lib.policy.dnsrules import DnsRules
from axoneme.lib.policycodec.dnsrules import decode_rules, rules_body, rules_subject
from axoneme.lib.policycodec.keys import decode_subject, interest_message, subject_bytes, subject_keys
from axoneme.lib.policycodec.wirefields import field_of, tag_of, varint

_header: Final = field_of(pb.SubscribeDnsRulesResponse, "header")
_removed: Final = field_of(pb.SubscribeDnsRulesResponse, "removed_subjects")
_UPSERT_TAG: Final = tag_of(pb.SubscribeDnsRulesResponse, "upserts")
_SUBJECT_BYTES: Final = 24
_KEPT_BODIES: Final = 256


class DnsRulesPublisher:
    """Publisher codec; its responses are serialised already."""

    def __init__(self) -> None:
        self._bodies: OrderedDict[bytes, bytes] = OrderedDict()

    def decode(self, request: pb.SubscribeDnsRulesRequest) -> Request:
        """Read a request. Raises ValueError when no kind is set."""
        kind = request.WhichOneof("kind")
        if kind == "ack":
            return envelope.ack_from_message(request.ack)
        if kind == "hello":
            return envelope.hello_from_message(request.hello)
        if kind == "resync":
            return envelope.resync_from_message(request.resync)
        if kind == "interest":
            added, removed = request.interest.added, request.interest.removed
            return Interest(added=subject_keys(added), removed=subject_keys(removed))
        raise ValueError("the request has no kind that this version knows")

    def encode(self, update: Update[DnsRules]) -> bytes:
        """A serialised SubscribeDnsRulesResponse."""
        parts = [_header(envelope.header_to_message(update.header).SerializeToString())]
        for key, value, _ in update.changes:
            if value is None:
                parts.append(_removed(subject_bytes(key)))
                continue
            subject, body = rules_subject(key), self._body(value)
            parts += (_UPSERT_TAG, varint(len(subject) + len(body)), subject, body)
        return b"".join(parts)

    def weight(self, change: Change[DnsRules]) -> int:
        """About how many bytes a change takes."""
        value = change.value
        return _SUBJECT_BYTES + (0 if value is None else len(self._body(value)))

    def _body(self, rules: DnsRules) -> bytes:
        """The same bytes for every subject with these rules and every node; the latest are kept."""
        body = self._bodies.pop(rules.digest, None)
        if body is None:
            body = rules_body(rules)
        self._bodies[rules.digest] = body
        if len(self._bodies) > _KEPT_BODIES:
            self._bodies.popitem(last=False)
        return body


class DnsRulesSubscriber:
    """Subscriber codec. Rules come whole; those that cannot be understood fail alone, under their subject."""

    def decode(
        self,
        response: pb.SubscribeDnsRulesResponse,
        current: Callable[[str], DnsRules | None],  # noqa: ARG002 - rules come whole
    ) -> Update[DnsRules]:
        """Rules and subjects without any."""
        failures: dict[str, Failure] = {}
        changes = tuple(_changes(response, failures))
        header = envelope.header_from_message(response.header)
        return Update(header=header, changes=changes, failures=failures)

    def hello(self, hello: Hello) -> pb.SubscribeDnsRulesRequest:
        """First request."""
        return pb.SubscribeDnsRulesRequest(hello=envelope.hello_to_message(hello))

    def ack(self, ack: Ack) -> pb.SubscribeDnsRulesRequest:
        """Answer to an update."""
        return pb.SubscribeDnsRulesRequest(ack=envelope.ack_to_message(ack))

    def resync(self, resync: Resync) -> pb.SubscribeDnsRulesRequest:
        """Request for a snapshot."""
        return pb.SubscribeDnsRulesRequest(resync=envelope.resync_to_message(resync))

    def interest(self, interest: Interest) -> pb.SubscribeDnsRulesRequest:
        """Subjects that appeared on this node or went away."""
        return pb.SubscribeDnsRulesRequest(interest=interest_message(interest.added, interest.removed))


def _changes(
    response: pb.SubscribeDnsRulesResponse, failures: dict[str, Failure]
) -> Iterator[Change[DnsRules]]:
    for message in response.upserts:
        try:
            key, rules = decode_rules(message)
            yield Change(key, rules)
        except AxonemeError as error:
            failures[_name_of(message.subject)] = Failure(error.code, error.reason, error.message)
    for subject in response.removed_subjects:
        try:
            yield Change(decode_subject(subject), None)
        except AxonemeError as error:
            failures[_name_of(subject)] = Failure(error.code, error.reason, error.message)


def _name_of(subject: pb.Subject) -> str:
    """The key of a subject, or its text when that is what cannot be understood."""
    try:
        return decode_subject(subject)
    except AxonemeError:
        return f"subject:{subject}"
