"""Policies as parsed: what a user wrote, checked, with its namespace applied, before identities come in."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from axoneme.lib.policy.model import Direction, Origin, PortBlock
from services.policy.document import Json
from services.policy.selectors import LabelSelector


class PolicyKey(NamedTuple):
    """Name of a stored policy."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.namespace}/{self.name}"


class EntityName(StrEnum):
    """Entities that rules may name."""

    ALL = "all"
    WORLD = "world"
    HOST = "host"
    CLUSTER = "cluster"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peers:
    """The other side of a section entry. `anyone` without selectors and entities; else their union, so that
    an empty union is nobody.
    """

    anyone: bool = False
    selectors: tuple[LabelSelector, ...] = ()
    entities: tuple[EntityName, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleEntry:
    """One element of ingress, egress, ingressDeny or egressDeny; no ports means that nothing matches."""

    path: str
    direction: Direction
    deny: bool
    peers: Peers
    ports: tuple[PortBlock, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """`spec` or one element of `specs`: its subjects and what holds for them."""

    path: str
    subject: LabelSelector
    entries: tuple[RuleEntry, ...]

    def enforces(self, direction: Direction) -> bool:
        """Whether the rule switches default deny on for a direction of its subjects."""
        return any(entry.direction is direction for entry in self.entries)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedPolicy:
    """One accepted object, and the JSON form in which it is stored."""

    key: PolicyKey
    labels: tuple[str, ...]
    rules: tuple[Rule, ...]
    document: dict[str, Json]

    def origin(self, entry: RuleEntry) -> Origin:
        """Where contributions of an entry come from."""
        return Origin.of(
            kind=self.key.kind,
            namespace=self.key.namespace,
            name=self.key.name,
            rule=entry.path,
            labels=self.labels,
        )
