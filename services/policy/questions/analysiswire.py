"""Messages of explain, diff and replay to and from the service's own types."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from axoneme.api.policy.v1 import policy_pb2 as pb
from axoneme.lib import identities
from axoneme.lib.errors import InvalidArgument
from axoneme.lib.labels import LabelSet
from axoneme.lib.policy.cidrlabels import prefix_of
from axoneme.lib.policy.model import ANY_PORT, Action, MapEntry, Origin, PortBlock
from services.policy.questions.diff import VerdictChange
from services.policy.questions.explain import DirectionExplanation, RuleReference, Verdict
from services.policy.questions.parties import Party, PartySpec
from services.policy.rules import PolicyKey

_VERDICTS: Mapping[Verdict, pb.Verdict.ValueType] = {
    Verdict.ALLOW: pb.VERDICT_ALLOW,
    Verdict.DENY: pb.VERDICT_DENY,
    Verdict.REDIRECT: pb.VERDICT_REDIRECT,
    Verdict.AUDIT: pb.VERDICT_AUDIT,
    Verdict.ERROR: pb.VERDICT_ERROR,
}
MAX_NAMES = 20
MAX_NAMED_PORTS = 64


def party_spec(message: pb.FlowParty, name: str) -> PartySpec:
    """What a party of a request says. Raises InvalidArgument when it names nobody or too much."""
    kind = message.WhichOneof("kind")
    if kind is None:
        raise InvalidArgument.of_field(name, "names nobody; give a pod, an address, labels or an identity")
    if len(message.dns_names) > MAX_NAMES or len(message.named_ports) > MAX_NAMED_PORTS:
        limit = f"at most {MAX_NAMES} names and {MAX_NAMED_PORTS} ports are accepted"
        raise InvalidArgument.of_field(name, limit)
    return PartySpec(
        identity=message.identity,
        labels=tuple(message.labels.labels),
        ip=message.ip,
        pod=(message.pod.namespace, message.pod.name) if kind == "pod" else None,
        dns_names=tuple(message.dns_names),
        named_ports={(one.protocol, one.name): one.port for one in message.named_ports},
    )


def verdict_number(verdict: Verdict) -> pb.Verdict.ValueType:
    """The number of a verdict."""
    return _VERDICTS[verdict]


def resolved_message(party: Party, labels: LabelSet, known: bool) -> pb.ResolvedParty:
    """A party as it was understood, with the labels that the deciding policy sees."""
    prefixes = [prefix for prefix in map(prefix_of, labels) if prefix is not None]
    return pb.ResolvedParty(
        identity=party.identity if known and not identities.is_local(party.identity) else 0,
        labels=labels.texts(),
        prefix=str(prefixes[0]) if prefixes else "",
    )


def direction_message(one: DirectionExplanation) -> pb.DirectionVerdict:
    """The verdict of one side."""
    message = pb.DirectionVerdict(
        verdict=_VERDICTS[one.verdict],
        parser=one.parser,
        winners=map(rule_message, one.winners),
        losers=map(rule_message, one.losers),
        default_deny=map(rule_message, one.default_deny),
        reason=one.reason,
        fix=one.fix,
    )
    if one.auth is not None:
        message.auth = pb.AuthMode.ValueType(one.auth)
    if one.key is not None and one.entry is not None:
        message.entry.CopyFrom(
            pb.WinningEntry(
                identity=one.key.identity,
                ports=ports_message(one.key.ports),
                action=pb.Action.ValueType(one.entry.action),
                precedence=one.entry.precedence,
            )
        )
    return message


def rule_message(one: RuleReference) -> pb.RuleReference:
    """A rule."""
    return origin_message(one.origin, one.action, one.note)


def origin_message(origin: Origin, action: Action, note: str = "") -> pb.RuleReference:
    """A rule by its origin."""
    return pb.RuleReference(
        policy=pb.PolicyName(kind=origin.kind, namespace=origin.namespace, name=origin.name),
        rule=origin.rule,
        action=pb.Action.ValueType(action),
        note=note,
        labels=origin.labels,
    )


def name_message(key: PolicyKey) -> pb.PolicyName:
    """The name of a policy."""
    return pb.PolicyName(kind=key.kind, namespace=key.namespace, name=key.name)


def ports_message(ports: PortBlock) -> pb.PortMatch:
    """A block of ports."""
    if ports == ANY_PORT:
        return pb.PortMatch(any=pb.AnyPort())
    return pb.PortMatch(
        ports=pb.ProtocolPorts(protocol=ports.protocol, port=ports.port, prefix_length=ports.prefix_length)
    )


def change_message(
    one: VerdictChange, subject: int, labels: LabelSet, rules: Iterable[pb.RuleReference]
) -> pb.VerdictChange:
    """A changed verdict of a subject."""
    before, after = one.before, one.after
    return pb.VerdictChange(
        subject=subject,
        subject_labels=labels.texts(),
        direction=pb.Direction.ValueType(one.direction),
        peer=0 if identities.is_local(one.peer.number) else one.peer.number,
        peer_labels=one.peer.labels.texts(),
        prefix=one.peer.prefix,
        ports=ports_message(one.ports),
        without=map(ports_message, one.without),
        before=entry_verdict(before),
        after=entry_verdict(after),
        before_parser=before.redirect.parser if before and before.redirect else "",
        after_parser=after.redirect.parser if after and after.redirect else "",
        before_auth=_auth(before),
        after_auth=_auth(after),
        rules=rules,
    )


def _auth(entry: MapEntry | None) -> pb.AuthMode.ValueType:
    return pb.AuthMode.ValueType(0 if entry is None or entry.auth is None else entry.auth)


def entry_verdict(entry: MapEntry | None) -> pb.Verdict.ValueType:
    """The verdict of a map's entry; none is the default deny."""
    if entry is None:
        return pb.VERDICT_DENY
    if entry.audit:
        return pb.VERDICT_AUDIT
    verdicts = {
        Action.ALLOW: pb.VERDICT_ALLOW,
        Action.DENY: pb.VERDICT_DENY,
        Action.REDIRECT: pb.VERDICT_REDIRECT,
    }
    return verdicts[entry.action]
