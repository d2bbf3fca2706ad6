"""A subject's policy between the model of `axoneme.lib.policy` and its wire form.

The policy service encodes changes from what a node was last sent to what it should have; the shim decodes
them onto what it has and checks the digest. A kind, action or enforcement that this version does not know
fails the one subject with Unsupported: it must never read as "any" or "allow".
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable

from axoneme.api.policy.v1 import policy_pb2 as pb
from axoneme.lib.errors import InvalidArgument, Unsupported
from axoneme.lib.policy.model import (
    ANY_PORT,
    Action,
    AnyPeer,
    Contribution,
    Direction,
    Enforcement,
    Entity,
    EntitySelector,
    IdentityPeer,
    NamedPort,
    NoPeer,
    Origin,
    Peer,
    PortBlock,
    Redirect,
    SelectorDefinition,
    SelectorPeer,
    SubjectPolicy,
)

_PREFIX = "subject:"


def subject_key(identity: int) -> str:
    """Key of a subject in its stream."""
    return f"{_PREFIX}{identity}"


def subject_number(key: str) -> int:
    """The identity behind a key. Raises InvalidArgument for another kind of key."""
    number = key.removeprefix(_PREFIX)
    if not key.startswith(_PREFIX) or not number.isdecimal():
        raise InvalidArgument(f"{key!r} is not the key of a subject; write {_PREFIX}<number>")
    return int(number)


def encode_subject(key: str) -> pb.Subject:
    """The subject of a key."""
    return pb.Subject(identity=subject_number(key))


def decode_subject(subject: pb.Subject) -> str:
    """The key of a subject. Raises Unsupported for a kind that this version does not know."""
    if subject.WhichOneof("kind") != "identity":
        raise Unsupported("the subject is not an identity; this version knows no other kind")
    return subject_key(subject.identity)


def encode_change(key: str, policy: SubjectPolicy, previous: SubjectPolicy | None = None) -> pb.SubjectChange:
    """What to send for `policy` to a receiver that has `previous` (None: nothing, so it gets everything)."""
    change = pb.SubjectChange(subject=encode_subject(key), complete=previous is None)
    before = frozenset[Contribution]() if previous is None else previous.contributions
    change.added.extend(_sorted_entries(policy.contributions - before))
    change.removed.extend(_sorted_entries(before - policy.contributions))
    change.header.CopyFrom(_encode_header(policy))
    return change


def decode_change(change: pb.SubjectChange, current: SubjectPolicy | None) -> SubjectPolicy:
    """The policy after a change onto `current`.

    Raises Unsupported for an unknown kind or number, InvalidArgument for a malformed entry, and
    InvalidArgument with the reason DIGEST_MISMATCH when the result is not what the sender meant: ask for
    a snapshot then.
    """
    if not change.complete and current is None:
        raise _mismatch("a change came for a subject of which nothing is known")
    contributions = set() if change.complete or current is None else set(current.contributions)
    contributions -= {_decode_entry(entry) for entry in change.removed}
    contributions |= {_decode_entry(entry) for entry in change.added}
    policy = _decode_header(change.header, frozenset(contributions))
    _check_references(policy)
    if len(contributions) != change.header.entry_count:
        raise _mismatch(f"{len(contributions)} entries result, the header says {change.header.entry_count}")
    if wire_digest(policy) != change.header.digest:
        raise _mismatch("the digest of the entries is not the one in the header")
    return policy


def wire_digest(policy: SubjectPolicy) -> bytes:
    """The digest of SubjectHeader: over the sorted serialisations, each led by its length in four bytes."""
    digest = hashlib.sha256()
    for raw in sorted(_entry_bytes(one) for one in policy.contributions):
        digest.update(len(raw).to_bytes(4, "big") + raw)
    digest.update(bytes((policy.ingress, policy.egress)))
    return digest.digest()


def _mismatch(message: str) -> InvalidArgument:
    return InvalidArgument(message, reason="DIGEST_MISMATCH")


def _sorted_entries(contributions: Iterable[Contribution]) -> list[pb.PolicyEntry]:
    return [pb.PolicyEntry.FromString(raw) for raw in sorted(map(_entry_bytes, contributions))]


@functools.lru_cache(maxsize=65_536)
def _entry_bytes(one: Contribution) -> bytes:
    entry = pb.PolicyEntry(
        direction=pb.Direction.ValueType(one.direction),
        peer=_encode_peer(one.peer),
        ports=_encode_ports(one.ports),
        action=pb.Action.ValueType(one.action),
        precedence=one.precedence,
        origin_ids=sorted(one.origins),
        audit=one.audit,
    )
    if one.redirect is not None:
        redirect = one.redirect
        entry.redirect.CopyFrom(
            pb.Redirect(parser=redirect.parser, listener=redirect.listener, priority=redirect.priority)
        )
    return entry.SerializeToString(deterministic=True)


def _encode_peer(peer: Peer) -> pb.Peer:
    if isinstance(peer, AnyPeer):
        return pb.Peer(any=pb.AnyPeer())
    if isinstance(peer, IdentityPeer):
        return pb.Peer(identity=peer.number)
    if isinstance(peer, SelectorPeer):
        return pb.Peer(selector=peer.key)
    return pb.Peer(none=pb.NoPeer())


def _encode_ports(ports: PortBlock | NamedPort) -> pb.PortMatch:
    if isinstance(ports, NamedPort):
        return pb.PortMatch(named=pb.NamedProtocolPort(protocol=ports.protocol, name=ports.name))
    if ports == ANY_PORT:
        return pb.PortMatch(any=pb.AnyPort())
    return pb.PortMatch(
        ports=pb.ProtocolPorts(protocol=ports.protocol, port=ports.port, prefix_length=ports.prefix_length)
    )


def _encode_header(policy: SubjectPolicy) -> pb.SubjectHeader:
    return pb.SubjectHeader(
        ingress=pb.Enforcement.ValueType(policy.ingress),
        egress=pb.Enforcement.ValueType(policy.egress),
        entry_count=len(policy.contributions),
        digest=wire_digest(policy),
        selectors=[_encode_selector(key, policy.selectors[key]) for key in sorted(policy.selectors)],
        origins=[_encode_origin(policy.origins[number]) for number in sorted(policy.origins)],
        ingress_default_deny_origin_ids=sorted(policy.ingress_default_deny),
        egress_default_deny_origin_ids=sorted(policy.egress_default_deny),
        policy_revision=policy.policy_revision,
    )


def _encode_selector(key: str, definition: SelectorDefinition) -> pb.Selector:
    return pb.Selector(key=key, entity=pb.Entity.ValueType(definition.entity))


def _encode_origin(origin: Origin) -> pb.Origin:
    return pb.Origin(
        origin_id=origin.origin_id,
        kind=origin.kind,
        namespace=origin.namespace,
        name=origin.name,
        rule=origin.rule,
        labels=origin.labels,
    )


def _decode_entry(entry: pb.PolicyEntry) -> Contribution:
    if not entry.origin_ids:
        raise InvalidArgument("an entry names no origin")
    try:
        return Contribution(
            direction=_decode_direction(entry.direction),
            peer=_decode_peer(entry.peer),
            ports=_decode_ports(entry.ports),
            action=_decode_action(entry.action),
            redirect=_decode_redirect(entry),
            precedence=entry.precedence,
            origins=frozenset(entry.origin_ids),
            audit=entry.audit,
        )
    except ValueError as error:
        raise InvalidArgument(f"an entry is malformed: {error}") from error


def _decode_direction(number: int) -> Direction:
    try:
        return Direction(number)
    except ValueError as error:
        raise Unsupported(f"direction {number} is not known to this version") from error


def _decode_action(number: int) -> Action:
    try:
        return Action(number)
    except ValueError as error:
        raise Unsupported(f"action {number} is not known to this version") from error


def _decode_redirect(entry: pb.PolicyEntry) -> Redirect | None:
    if not entry.HasField("redirect"):
        return None
    return Redirect(entry.redirect.parser, entry.redirect.listener, entry.redirect.priority)


def _decode_peer(peer: pb.Peer) -> Peer:
    kind = peer.WhichOneof("kind")
    if kind == "any":
        return AnyPeer()
    if kind == "none":
        return NoPeer()
    if kind == "identity":
        return IdentityPeer(peer.identity)
    if kind == "selector":
        return SelectorPeer(peer.selector)
    raise Unsupported("a peer has no kind that this version knows")


def _decode_ports(ports: pb.PortMatch) -> PortBlock | NamedPort:
    kind = ports.WhichOneof("kind")
    if kind == "any":
        return ANY_PORT
    if kind == "ports":
        if ports.ports.protocol == 0:
            raise InvalidArgument("ports of protocol 0; every protocol is written as `any`")
        return PortBlock(ports.ports.protocol, ports.ports.port, ports.ports.prefix_length)
    if kind == "named":
        return NamedPort(ports.named.protocol, ports.named.name)
    raise Unsupported("a port match has no kind that this version knows")


def _decode_header(header: pb.SubjectHeader, contributions: frozenset[Contribution]) -> SubjectPolicy:
    return SubjectPolicy(
        ingress=_decode_enforcement(header.ingress),
        egress=_decode_enforcement(header.egress),
        contributions=contributions,
        selectors={selector.key: _decode_selector(selector) for selector in header.selectors},
        origins={origin.origin_id: _decode_origin(origin) for origin in header.origins},
        ingress_default_deny=frozenset(header.ingress_default_deny_origin_ids),
        egress_default_deny=frozenset(header.egress_default_deny_origin_ids),
        policy_revision=header.policy_revision,
    )


def _decode_enforcement(number: int) -> Enforcement:
    try:
        return Enforcement(number)
    except ValueError as error:
        raise Unsupported(f"enforcement {number} is not known to this version") from error


def _decode_selector(selector: pb.Selector) -> SelectorDefinition:
    if selector.WhichOneof("definition") != "entity":
        raise Unsupported(f"selector {selector.key!r} has no definition that this version knows")
    try:
        return EntitySelector(Entity(selector.entity))
    except ValueError as error:
        raise Unsupported(f"entity {selector.entity} is not known to this version") from error


def _decode_origin(origin: pb.Origin) -> Origin:
    return Origin(
        origin.origin_id, origin.kind, origin.namespace, origin.name, origin.rule, tuple(origin.labels)
    )


def _check_references(policy: SubjectPolicy) -> None:
    for one in policy.contributions:
        if isinstance(one.peer, SelectorPeer) and one.peer.key not in policy.selectors:
            raise InvalidArgument(f"an entry refers to selector {one.peer.key!r}, which the header lacks")
