"""Subjects as keys of their stream: `subject:<number>` for an identity, `host:<node>` for a node's host."""

from __future__ import annotations

import functools
from collections.abc import Iterable

from axoneme.api.policy.v1 import policy_pb2 as pb
from axoneme.lib.errors import AxonemeError, InvalidArgument, Unsupported
from axoneme.lib.policy.subjects import HOST_PREFIX, IDENTITY_PREFIX, host_key, subject_key


def subject_number(key: str) -> int:
    """The identity behind a key. Raises InvalidArgument for another kind of key."""
    number = key.removeprefix(IDENTITY_PREFIX)
    if not key.startswith(IDENTITY_PREFIX) or not (number.isascii() and number.isdigit()):
        raise InvalidArgument(f"{key!r} is not the key of an identity; write {IDENTITY_PREFIX}<number>")
    return int(number)


def host_node(key: str) -> str | None:
    """The node whose host a key stands for; None for the key of an identity."""
    return key.removeprefix(HOST_PREFIX) if key.startswith(HOST_PREFIX) else None


def encode_subject(key: str) -> pb.Subject:
    """The subject of a key. Raises InvalidArgument for what is no key."""
    node = host_node(key)
    if node is None:
        return pb.Subject(identity=subject_number(key))
    if not node:
        raise InvalidArgument(f"{key!r} names no node; write {HOST_PREFIX}<node>")
    return pb.Subject(host_of_node=node)


@functools.lru_cache(maxsize=65_536)
def subject_bytes(key: str) -> bytes:
    """The subject of a key, serialised."""
    return encode_subject(key).SerializeToString()


def decode_subject(subject: pb.Subject) -> str:
    """The key of a subject.

    Raises Unsupported for a kind that this version does not know, InvalidArgument for a host without a node.
    """
    kind = subject.WhichOneof("kind")
    if kind == "identity":
        return subject_key(subject.identity)
    if kind != "host_of_node":
        raise Unsupported("the subject is neither an identity nor a node's host; this version knows no other")
    if not subject.host_of_node:
        raise InvalidArgument.of_field("subject.host_of_node", "is empty; name the node")
    return host_key(subject.host_of_node)


def subject_keys(subjects: Iterable[pb.Subject]) -> tuple[str, ...]:
    """Keys of the subjects of an Interest; kinds that this version does not know have no policy here."""
    keys = []
    for subject in subjects:
        try:
            keys.append(decode_subject(subject))
        except AxonemeError:
            continue
    return tuple(keys)


def interest_message(added: Iterable[str], removed: Iterable[str]) -> pb.Interest:
    """An Interest in the subjects of some keys. Raises InvalidArgument for what is no key."""
    return pb.Interest(added=map(encode_subject, added), removed=map(encode_subject, removed))
