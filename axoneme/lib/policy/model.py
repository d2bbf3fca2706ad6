"""What a policy says about one subject, before and after a node finishes it.

`SubjectPolicy` is what the policy service computes and streams: a set of contributions, each from one or
more rules. `MapKey` and `MapEntry` are what `finish` makes of it for one node. All values are immutable;
ports are in host order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, TypeAlias

PORT_BITS: Final = 16
ANY_IDENTITY: Final = 0


class Direction(IntEnum):
    """Direction of traffic as seen from the subject; the byte of the policy map's key."""

    INGRESS = 1
    EGRESS = 2


class Action(IntEnum):
    """What a rule says; the byte of the policy map's entry."""

    ALLOW = 1
    DENY = 2
    REDIRECT = 3


class Enforcement(IntEnum):
    """What happens to traffic of a direction that no entry matches."""

    DEFAULT_ALLOW = 1
    DEFAULT_DENY = 2


class Entity(IntEnum):
    """Peer groups whose members a node knows better than the cluster does."""

    WORLD = 1


@dataclass(frozen=True, slots=True)
class AnyPeer:
    """Every peer."""


@dataclass(frozen=True, slots=True)
class NoPeer:
    """Nobody: the rule selected nothing. Never the same as any peer."""


@dataclass(frozen=True, slots=True)
class IdentityPeer:
    """One cluster-wide or reserved number; never 0, which stands for every peer in a map key."""

    number: int

    def __post_init__(self) -> None:
        if self.number <= 0:
            raise ValueError(f"identity {self.number} is not the number of a peer")


@dataclass(frozen=True, slots=True)
class SelectorPeer:
    """Reference to a selector of the subject that each node resolves with its own identities."""

    key: str


Peer: TypeAlias = AnyPeer | NoPeer | IdentityPeer | SelectorPeer


@dataclass(frozen=True, slots=True)
class EntitySelector:
    """Members of an entity."""

    entity: Entity


SelectorDefinition: TypeAlias = EntitySelector


@dataclass(frozen=True, slots=True, order=True)
class PortBlock:
    """An aligned block of ports of one protocol; (0, 0, 0) is every protocol and port.

    `prefix_length` counts the significant bits of `port`: 16 is one port, 0 every port of the protocol.
    For ICMP and ICMPv6 the port is the type.
    """

    protocol: int
    port: int
    prefix_length: int

    def __post_init__(self) -> None:
        if not (0 <= self.protocol <= 255 and 0 <= self.port <= 0xFFFF):
            raise ValueError(f"protocol {self.protocol} or port {self.port} is out of range")
        if not 0 <= self.prefix_length <= PORT_BITS:
            raise ValueError(f"prefix length {self.prefix_length} of a port block is not within 0..16")
        if self.port & ((1 << (PORT_BITS - self.prefix_length)) - 1):
            raise ValueError(f"port {self.port} is not aligned to {self.prefix_length} bits")
        if self.protocol == 0 and self.prefix_length != 0:
            raise ValueError("every protocol implies every port")

    @property
    def specificity(self) -> int:
        """Significant bits of protocol and port: 0 for any, 8 for a protocol, up to 24 for one port."""
        return 0 if self.protocol == 0 else 8 + self.prefix_length

    def covers(self, other: PortBlock) -> bool:
        """Whether each port of `other` is one of this block."""
        if self.protocol == 0:
            return True
        shift = PORT_BITS - self.prefix_length
        return (
            self.protocol == other.protocol
            and self.prefix_length <= other.prefix_length
            and self.port >> shift == other.port >> shift
        )

    def ancestors(self) -> Iterator[PortBlock]:
        """All wider blocks that cover this one, the narrowest first."""
        if self.protocol == 0:
            return
        for length in range(self.prefix_length - 1, -1, -1):
            yield PortBlock(self.protocol, self.port & _mask(length), length)
        yield ANY_PORT


ANY_PORT: Final = PortBlock(0, 0, 0)


def _mask(prefix_length: int) -> int:
    return 0xFFFF << (PORT_BITS - prefix_length) & 0xFFFF


def one_port(protocol: int, port: int) -> PortBlock:
    """The block that holds exactly this port (0 too, which is an ordinary number here)."""
    return PortBlock(protocol, port, PORT_BITS)


def blocks_of_range(protocol: int, first: int, last: int) -> tuple[PortBlock, ...]:
    """Split an inclusive range into maximal aligned blocks, at most 30 of them."""
    blocks = []
    while first <= last:
        bits = PORT_BITS if first == 0 else (first & -first).bit_length() - 1
        while first + (1 << bits) - 1 > last:
            bits -= 1
        blocks.append(PortBlock(protocol, first, PORT_BITS - bits))
        first += 1 << bits
    return tuple(blocks)


@dataclass(frozen=True, slots=True, order=True)
class NamedPort:
    """A port of the subject by name, resolved for each endpoint (ingress only)."""

    protocol: int
    name: str


@dataclass(frozen=True, slots=True, order=True)
class Redirect:
    """Where redirected traffic goes; `priority` is 1 (strongest) to 126."""

    parser: str
    listener: str = ""
    priority: int = 126


@dataclass(frozen=True, slots=True, order=True)
class Origin:
    """The rule that a contribution comes from. `origin_id` is a number made of the other fields."""

    origin_id: int
    kind: str
    namespace: str
    name: str
    rule: str
    labels: tuple[str, ...] = ()

    @classmethod
    def of(cls, *, kind: str, namespace: str, name: str, rule: str, labels: tuple[str, ...] = ()) -> Origin:
        """Make an origin with its number: the first 8 bytes of the SHA-256 of the other fields."""
        parts = (kind, namespace, name, rule, *labels)
        text = b"".join(len(raw).to_bytes(4, "big") + raw for raw in (part.encode() for part in parts))
        number = int.from_bytes(hashlib.sha256(text).digest()[:8], "big")
        return cls(number, kind, namespace, name, rule, labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """What one or more rules add to a mapstate; equal rules of several policies share one."""

    direction: Direction
    peer: Peer
    ports: PortBlock | NamedPort
    action: Action
    redirect: Redirect | None = None
    precedence: int
    origins: frozenset[int]
    audit: bool = False

    def __post_init__(self) -> None:
        if (self.redirect is not None) != (self.action is Action.REDIRECT):
            raise ValueError("a redirect target belongs to the action REDIRECT and to no other")


@dataclass(frozen=True, kw_only=True)
class SubjectPolicy:
    """Everything that applies to one subject, the same for all nodes.

    `policy_revision` is a remark (etcd revision of the last change); two policies that differ in it alone
    are equal.
    """

    ingress: Enforcement
    egress: Enforcement
    contributions: frozenset[Contribution] = frozenset()
    selectors: Mapping[str, SelectorDefinition] = field(default_factory=dict)
    origins: Mapping[int, Origin] = field(default_factory=dict)
    ingress_default_deny: frozenset[int] = frozenset()
    egress_default_deny: frozenset[int] = frozenset()
    policy_revision: int = field(default=0, compare=False)

    def enforcement(self, direction: Direction) -> Enforcement:
        """The enforcement of one direction."""
        return self.ingress if direction is Direction.INGRESS else self.egress

    @property
    def digest(self) -> bytes:
        """SHA-256 over contributions, selectors and enforcements: equal digests finish to equal maps.

        Not the digest of the wire, which `axoneme.lib.policycodec` computes over serialised entries.
        """
        lines = sorted(_canonical(contribution) for contribution in self.contributions)
        lines += [f"{key}={definition!r}" for key, definition in sorted(self.selectors.items())]
        lines.append(f"{self.ingress:d} {self.egress:d}")
        return hashlib.sha256("\n".join(lines).encode()).digest()


def _canonical(contribution: Contribution) -> str:
    one = contribution
    return repr(
        (
            one.direction,
            one.peer,
            one.ports,
            one.action,
            one.redirect,
            one.precedence,
            sorted(one.origins),
            one.audit,
        )
    )


@dataclass(frozen=True, slots=True, order=True)
class MapKey:
    """Key of a policy map; identity 0 stands for every peer."""

    direction: Direction
    identity: int
    ports: PortBlock


@dataclass(frozen=True, slots=True, kw_only=True)
class MapEntry:
    """Entry of a policy map. An entry without origins is the default allow of its direction."""

    action: Action
    precedence: int
    redirect: Redirect | None = None
    origins: frozenset[int] = frozenset()
    audit: bool = False
