"""Policies as parsed: what a user wrote, checked, with its namespace applied, before identities come in.

The same model holds every kind of object: readers (`cnp`, `networkpolicy`, `clusternetworkpolicy`) make it,
`bind` resolves what it refers to. Emptiness is explicit everywhere: `Peers` without content is nobody,
`RuleEntry.ports` without elements matches nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from axoneme.lib.policy.model import ANY_PORT, Action, AuthMode, Direction, NamedPort, Origin, PortBlock
from axoneme.lib.policy.precedence import Tier
from axoneme.lib.selectors import LabelSelector
from services.policy.reading.document import Json


class PolicyKey(NamedTuple):
    """Name of a stored object; `namespace` is empty for cluster-wide kinds."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.namespace}/{self.name}" if self.namespace else f"{self.kind}/{self.name}"


class EntityName(StrEnum):
    """Entities that rules may name."""

    ALL = "all"
    WORLD = "world"
    WORLD_IPV4 = "world-ipv4"
    WORLD_IPV6 = "world-ipv6"
    HOST = "host"
    REMOTE_NODE = "remote-node"
    KUBE_APISERVER = "kube-apiserver"
    HEALTH = "health"
    INIT = "init"
    UNMANAGED = "unmanaged"
    INGRESS = "ingress"
    CLUSTER = "cluster"
    CLUSTER_MESH = "cluster-mesh"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class CidrPeer:
    """Addresses outside the cluster in a prefix but in none of `excepts`; canonical texts, host bits 0."""

    cidr: str
    excepts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CidrGroupPeer:
    """Addresses of CIDR groups: the one called `name`, or all whose own labels `selector` selects."""

    name: str = ""
    selector: LabelSelector | None = None
    excepts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ServicePeer:
    """Backends of services: the one called `name`, or all whose labels `selector` selects.

    An empty `namespace` is any namespace (selectors only).
    """

    namespace: str = ""
    name: str = ""
    selector: LabelSelector | None = None


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class FqdnPeer:
    """Addresses learned for a name (`pattern` False) or for names of a pattern; canonical text."""

    text: str
    pattern: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Peers:
    """The other side of a section entry. `anyone` without anything else; else their union, so that an empty
    union is nobody.

    `selectors` have their namespace applied, but not the default cluster (that is a setting, see `bind`);
    `nodes` are about node labels (keys with the source `node`); `cloud_groups` are canonical JSON texts of
    what the user wrote.
    """

    anyone: bool = False
    selectors: tuple[LabelSelector, ...] = ()
    entities: tuple[EntityName, ...] = ()
    cidrs: tuple[CidrPeer, ...] = ()
    cidr_groups: tuple[CidrGroupPeer, ...] = ()
    services: tuple[ServicePeer, ...] = ()
    cloud_groups: tuple[str, ...] = ()
    fqdns: tuple[FqdnPeer, ...] = ()
    nodes: tuple[LabelSelector, ...] = ()

    @property
    def nobody(self) -> bool:
        """Whether nothing is named at all."""
        return self == Peers()


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class HeaderMatch:
    """A condition on one HTTP header; a mismatch denies unless `mismatch` is LOG, ADD, DELETE or REPLACE."""

    name: str
    value: str = ""
    secret: str = ""
    mismatch: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class HttpRule:
    """One allowed kind of HTTP request; regular expressions are anchored at both ends, empty ones match all.

    `headers` are `Name` or `Name: value` texts that must all be there.
    """

    method: str = ""
    path: str = ""
    host: str = ""
    headers: tuple[str, ...] = ()
    header_matches: tuple[HeaderMatch, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class TlsContext:
    """Name of the secret behind a TLS side, with the entries inside it."""

    secret_namespace: str = ""
    secret: str = ""
    certificate: str = ""
    private_key: str = ""
    trusted_ca: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class L7:
    """What a proxy does with connections of a port element, and which requests it lets through.

    `parser` is http, tls, dns, kafka, crd (a listener) or the text of `l7proto`. `allow_all`: every request
    passes although the connection is redirected (`http: [{}]`, TLS without rules, a listener). `generic`
    are the key/value rules of `l7` and `kafka` as sorted pairs.
    """

    parser: str
    allow_all: bool = False
    listener: str = ""
    priority: int = 0
    http: tuple[HttpRule, ...] = ()
    dns: tuple[FqdnPeer, ...] = ()
    generic: tuple[tuple[tuple[str, str], ...], ...] = ()
    server_names: tuple[str, ...] = ()
    terminating: TlsContext | None = None
    originating: TlsContext | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PortRule:
    """One element of toPorts or icmps: ports, and what a proxy does with them (None: nothing)."""

    ports: tuple[PortBlock | NamedPort, ...]
    l7: L7 | None = None


NO_RESTRICTION: Final = (PortRule(ports=(ANY_PORT,)),)
"""The ports of an entry that names none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleEntry:
    """One element of a section.

    `tier` and `priority` (0 strongest) order it among others; priority counts rules within a tier, so an
    earlier rule of one tiered object has a smaller number than a later one. `requires` are selectors that
    only narrow (fromRequires, toRequires): such an entry may have peers that are nobody.
    """

    path: str
    direction: Direction
    action: Action
    peers: Peers
    ports: tuple[PortRule, ...] = NO_RESTRICTION
    tier: Tier = Tier.NORMAL
    priority: int = 0
    auth: AuthMode | None = None
    requires: tuple[LabelSelector, ...] = ()

    @property
    def deny(self) -> bool:
        """Whether the entry denies."""
        return self.action is Action.DENY


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """`spec` or one element of `specs`: its subjects and what holds for them.

    `subject` selects endpoints, or nodes by their labels when `of_nodes`. `locks` are the directions in
    which it switches default deny on; a tiered rule locks nothing.
    """

    path: str
    subject: LabelSelector
    entries: tuple[RuleEntry, ...]
    of_nodes: bool = False
    locks: frozenset[Direction] = frozenset()

    def enforces(self, direction: Direction) -> bool:
        """Whether the rule switches default deny on for a direction of its subjects."""
        return direction in self.locks


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedPolicy:
    """One accepted policy object, and the JSON form in which it is stored.

    `audit`: the annotation `policy.axoneme.io/audit: "true"`; the policy is tried out, not enforced.
    """

    key: PolicyKey
    labels: tuple[str, ...]
    rules: tuple[Rule, ...]
    document: dict[str, Json]
    audit: bool = False

    def origin(self, entry: RuleEntry) -> Origin:
        """Where contributions of an entry come from."""
        return self.origin_of_path(entry.path)

    def origin_of_path(self, path: str) -> Origin:
        """The origin of a part of the object, such as `spec.ingress[0]` or `spec.podSelector`."""
        return Origin.of(
            kind=self.key.kind,
            namespace=self.key.namespace,
            name=self.key.name,
            rule=path,
            labels=self.labels,
        )
