"""What a policy says about one subject, before and after a node finishes it.

`SubjectPolicy` is what the policy service computes and streams: a set of contributions, each from one or
more rules. `MapKey` and `MapEntry` are what `finish` makes of it for one node. All values are immutable;
ports are in host order and live in `axoneme.lib.policy.ports`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, NamedTuple, TypeAlias

from axoneme.lib.policy.ports import ANY_PORT, NamedPort, PortBlock, blocks_of_range, one_port
from axoneme.lib.selectors import LabelSelector

__all__ = ["ANY_PORT", "NamedPort", "PortBlock", "blocks_of_range", "one_port"]

ANY_IDENTITY: Final = 0


class Direction(IntEnum):
    """Direction of traffic as seen from the subject; the byte of the policy map's key."""

    INGRESS = 1
    EGRESS = 2

    __hash__ = int.__hash__  # enums hash their names, which maps with many keys feel


class Action(IntEnum):
    """What a rule says; the byte of the policy map's entry. PASS never reaches a map."""

    ALLOW = 1
    DENY = 2
    REDIRECT = 3
    PASS = 4


class Enforcement(IntEnum):
    """What happens to traffic of a direction that no entry matches."""

    DEFAULT_ALLOW = 1
    DEFAULT_DENY = 2


class AuthMode(IntEnum):
    """What a connection must prove before it is let through; the higher number is the stricter."""

    DISABLED = 1
    REQUIRED = 2
    ALWAYS_FAIL = 3


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


@dataclass(frozen=True, slots=True)
class LabelsDefinition:
    """Node-local identities that at least one of the selectors selects; without selectors nobody."""

    alternatives: tuple[LabelSelector, ...]


@dataclass(frozen=True, slots=True)
class CidrDefinition:
    """Addresses outside the cluster inside one of `include` and none of `exclude` (canonical prefixes).

    Nobody without `include`. With `nodes` it also selects nodes whose address lies inside a prefix longer
    than /0 (`policy-cidr-match-mode: nodes`).
    """

    include: tuple[str, ...]
    exclude: tuple[str, ...] = ()
    nodes: bool = False


@dataclass(frozen=True, slots=True)
class FqdnDefinition:
    """Addresses learned for a DNS name; `text` is the canonical name or pattern, exactly as in the label
    `fqdn:<text>` of the identities that it selects.
    """

    text: str
    pattern: bool = False


SelectorDefinition: TypeAlias = EntitySelector | LabelsDefinition | CidrDefinition | FqdnDefinition


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
class Part:
    """A contribution without its peer: what holds for each peer of a rule entry.

    `audit` marks a part of a policy that is only tried out. `auth` is the mode that the rule states itself;
    None inherits.
    """

    direction: Direction
    ports: PortBlock | NamedPort
    action: Action
    redirect: Redirect | None = None
    precedence: int
    origins: frozenset[int]
    audit: bool = False
    auth: AuthMode | None = None

    def __post_init__(self) -> None:
        if (self.redirect is not None) != (self.action is Action.REDIRECT):
            raise ValueError("a redirect target belongs to the action REDIRECT and to no other")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution(Part):
    """What one or more rules add to a mapstate for one peer."""

    peer: Peer

    @classmethod
    def of(cls, part: Part, peer: Peer) -> Contribution:
        """The contribution of a part for a peer."""
        return cls(
            direction=part.direction,
            peer=peer,
            ports=part.ports,
            action=part.action,
            redirect=part.redirect,
            precedence=part.precedence,
            origins=part.origins,
            audit=part.audit,
            auth=part.auth,
        )


@dataclass(frozen=True, kw_only=True)
class SubjectPolicy:
    """Everything that applies to one subject, the same for all nodes.

    `ingress` and `egress` hold without the audited policies, `audit_ingress` and `audit_egress` with them
    (None: no audited policy changes the direction's default). `contributions` is a frozenset, or a
    `GroupedContributions` where rule entries are shared by many subjects. `dns_rules_digest` names the DNS
    rules (`dnsrules.DnsRules`) that the redirects to the DNS proxy need, empty without any. `policy_revision`
    is a remark (etcd revision of the last change); two policies that differ in it alone are equal.
    """

    ingress: Enforcement
    egress: Enforcement
    audit_ingress: Enforcement | None = None
    audit_egress: Enforcement | None = None
    contributions: AbstractSet[Contribution] = frozenset()
    selectors: Mapping[str, SelectorDefinition] = field(default_factory=dict)
    origins: Mapping[int, Origin] = field(default_factory=dict)
    ingress_default_deny: frozenset[int] = frozenset()
    egress_default_deny: frozenset[int] = frozenset()
    dns_rules_digest: bytes = b""
    policy_revision: int = field(default=0, compare=False)

    def enforcement(self, direction: Direction) -> Enforcement:
        """The enforcement of one direction without audited policies."""
        return self.ingress if direction is Direction.INGRESS else self.egress

    def audited_enforcement(self, direction: Direction) -> Enforcement:
        """The enforcement of one direction if the audited policies were in force too."""
        audited = self.audit_ingress if direction is Direction.INGRESS else self.audit_egress
        return audited or self.enforcement(direction)

    def default_deny(self, direction: Direction) -> frozenset[int]:
        """The origins that switch default deny on in a direction, audited ones included."""
        return self.ingress_default_deny if direction is Direction.INGRESS else self.egress_default_deny


class MapKey(NamedTuple):
    """Key of a policy map; identity 0 stands for every peer. A tuple, because maps have many of them."""

    direction: Direction
    identity: int
    ports: PortBlock


@dataclass(frozen=True, slots=True, kw_only=True)
class MapEntry:
    """Entry of a policy map.

    An entry without origins is the default of its direction (allow, or deny where a wider entry has to be
    undone). `audit`: the packet passes and is reported as one that an audited policy would drop.
    """

    action: Action
    precedence: int
    redirect: Redirect | None = None
    origins: frozenset[int] = frozenset()
    audit: bool = False
    auth: AuthMode | None = None
