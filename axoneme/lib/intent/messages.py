"""What the two ends of an intent stream say to each other, without its wire form.

A subscriber sends Hello once, then Ack, Resync and Interest; a publisher sends updates. Codecs beside each
service turn these into the messages of protos/axoneme/api/*/v1; nothing here knows how that is done.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeAlias, TypeVar

V = TypeVar("V")


class Failure(NamedTuple):
    """A failure in the vocabulary of gRPC: name of a status code, machine reason, text for people."""

    code: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """First message of a subscriber: who it is and how far it got in an earlier stream (0/0: nowhere)."""

    node_name: str
    epoch: int = 0
    revision: int = 0
    store_revision: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """Answer to one update; nonce 0 reports failures that changed without an update.

    `revision` is what the subscriber now holds in full; `failures` lists every resource that is not in
    effect yet.
    """

    nonce: int
    revision: int = 0
    error: Failure | None = None
    failures: Mapping[str, Failure] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resync:
    """Asks for a fresh snapshot."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Interest:
    """Keys that a subscriber wants from now on, and keys that it has forgotten.

    The first one after Hello names the keys that are complete at Hello's position; only what changed since
    is sent for them. Every key added later is sent whole.
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """Position of one update in its stream; the fields are those of axoneme.api.intent.v1.UpdateHeader."""

    nonce: int
    epoch: int
    base_revision: int = 0
    revision: int = 0
    snapshot_part: int = 0
    snapshot_last: bool = False
    goodbye: Failure | None = None
    store_revision: int = 0


class Change(NamedTuple, Generic[V]):
    """One resource: its new value, or None when it went away.

    `previous` is what this subscriber was sent last, kept only by tables made with `keep_sent`; None means
    that the value has to travel whole.
    """

    key: str
    value: V | None
    previous: V | None = None


@dataclass(frozen=True, slots=True)
class Update(Generic[V]):
    """One message of a publisher.

    `failures` is filled by the codec of a subscriber: resources that could not be decoded and therefore
    keep their last good value. They fail alone; the rest of the update counts.
    """

    header: Header
    changes: tuple[Change[V], ...] = ()
    failures: Mapping[str, Failure] = field(default_factory=dict)


Request: TypeAlias = Hello | Ack | Resync | Interest
