"""One contribution as a PolicyEntry and back.

Encoding makes bytes at once: direction, peer, then everything else, in the order of the field numbers, which
is the deterministic serialisation that the digest covers. What belongs to a part is made once for all of its
peers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Final

from axoneme.api.policy.v1 import policy_pb2 as pb
from axoneme.lib.errors import InvalidArgument, Unsupported
from axoneme.lib.policy.groups import Group
from axoneme.lib.policy.model import (
    ANY_PORT,
    Action,
    AnyPeer,
    AuthMode,
    Contribution,
    Direction,
    IdentityPeer,
    NamedPort,
    NoPeer,
    Part,
    Peer,
    PortBlock,
    Redirect,
    SelectorPeer,
)
from axoneme.lib.policycodec.wirefields import field_of, varint

_peer_field: Final = field_of(pb.PolicyEntry, "peer")
_NUMBER_TAG: Final = varint(pb.Peer.DESCRIPTOR.fields_by_name["identity"].number << 3)


@functools.lru_cache(maxsize=65_536)
def entry_bytes(one: Contribution) -> bytes:
    """A contribution, serialised."""
    head, tail = _around_peer(one)
    return head + encode_peer(one.peer) + tail


def group_bytes(group: Group, numbers: Iterable[int], *, fixed: bool) -> Iterator[bytes]:
    """The entries of a group's parts for some numbers, and for its fixed peers if asked."""
    peers = chain(map(encode_peer, group.fixed) if fixed else (), map(_encode_number, numbers))
    frames = [_part_frame(part) for part in group.parts]
    if len(frames) == 1:
        head, tail = frames[0]
        return (head + peer + tail for peer in peers)
    return (head + peer + tail for peer in peers for head, tail in frames)


@functools.lru_cache(maxsize=16_384)
def _part_frame(part: Part) -> tuple[bytes, bytes]:
    return _around_peer(part)


def _around_peer(part: Part) -> tuple[bytes, bytes]:
    """What stands before and behind the peer in the entries of a part."""
    tail = pb.PolicyEntry(
        ports=_encode_ports(part.ports),
        action=pb.Action.ValueType(part.action),
        precedence=part.precedence,
        origin_ids=sorted(part.origins),
        audit=part.audit,
        auth=pb.AuthMode.ValueType(part.auth or 0),
    )
    if part.redirect is not None:
        one = part.redirect
        tail.redirect.CopyFrom(pb.Redirect(parser=one.parser, listener=one.listener, priority=one.priority))
    head = pb.PolicyEntry(direction=pb.Direction.ValueType(part.direction))
    return head.SerializeToString(), tail.SerializeToString(deterministic=True)


@functools.lru_cache(maxsize=65_536)
def _encode_number(number: int) -> bytes:
    return _peer_field(_NUMBER_TAG + varint(number))


def encode_peer(peer: Peer, write: Callable[[bytes], bytes] = _peer_field) -> bytes:
    """A peer as the field of a message, that of a PolicyEntry unless told otherwise."""
    if isinstance(peer, IdentityPeer):
        return write(_NUMBER_TAG + varint(peer.number))
    if isinstance(peer, AnyPeer):
        message = pb.Peer(any=pb.AnyPeer())
    elif isinstance(peer, SelectorPeer):
        message = pb.Peer(selector=peer.key)
    else:
        message = pb.Peer(none=pb.NoPeer())
    return write(message.SerializeToString())


def _encode_ports(ports: PortBlock | NamedPort) -> pb.PortMatch:
    if isinstance(ports, NamedPort):
        return pb.PortMatch(named=pb.NamedProtocolPort(protocol=ports.protocol, name=ports.name))
    if ports == ANY_PORT:
        return pb.PortMatch(any=pb.AnyPort())
    block = pb.ProtocolPorts(protocol=ports.protocol, port=ports.port, prefix_length=ports.prefix_length)
    return pb.PortMatch(ports=block)


def decode_entry(entry: pb.PolicyEntry) -> Contribution:
    """A contribution. Raises Unsupported for what this version does not know, else InvalidArgument."""
    if not entry.origin_ids:
        raise InvalidArgument("an entry names no origin")
    try:
        return Contribution(
            direction=_decode_direction(entry.direction),
            peer=decode_peer(entry.peer),
            ports=_decode_ports(entry.ports),
            action=_decode_action(entry.action),
            redirect=_decode_redirect(entry),
            precedence=entry.precedence,
            origins=frozenset(entry.origin_ids),
            audit=entry.audit,
            auth=_decode_auth(entry.auth),
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


def _decode_auth(number: int) -> AuthMode | None:
    if number == pb.AUTH_MODE_UNSPECIFIED:
        return None
    try:
        return AuthMode(number)
    except ValueError as error:
        raise Unsupported(f"authentication mode {number} is not known to this version") from error


def _decode_redirect(entry: pb.PolicyEntry) -> Redirect | None:
    if not entry.HasField("redirect"):
        return None
    return Redirect(entry.redirect.parser, entry.redirect.listener, entry.redirect.priority)


def decode_peer(peer: pb.Peer) -> Peer:
    """A peer. Raises Unsupported for a kind that this version does not know, ValueError for number 0."""
    kind = peer.WhichOneof("kind")
    if kind == "identity":
        return IdentityPeer(peer.identity)
    if kind == "any":
        return AnyPeer()
    if kind == "none":
        return NoPeer()
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
        return _decode_named(ports.named)
    raise Unsupported("a port match has no kind that this version knows")


def _decode_named(named: pb.NamedProtocolPort) -> NamedPort:
    if not named.name:
        raise InvalidArgument("a named port without a name")
    return NamedPort(named.protocol, named.name)
