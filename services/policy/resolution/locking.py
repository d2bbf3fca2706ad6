"""Which directions of a subject are default-denied, by which rules, and with which audited ones.

    rules that select the subject + kind + settings ──> Locking (R-40 to R-44)

Rules whose policy is only tried out lock the audited side alone. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from axoneme.lib import identities
from axoneme.lib.policy.model import Direction, Enforcement, Origin
from services.policy.inputs import EnforcementMode, PolicySettings
from services.policy.resolution.bind import BoundRule

INIT_LOCKED: Final = Origin.of(kind="reserved", namespace="", name="init-locked", rule="")
ALWAYS_LOCKED: Final = Origin.of(kind="reserved", namespace="", name="enforcement-always", rule="")


class SubjectKind(Enum):
    """What a subject is, as far as its defaults depend on it."""

    ENDPOINT = 1
    INIT = 2
    HOST_IDENTITY = 3
    """The identity of every host, which is a peer; as a subject a host has its node's name (HOST)."""
    HOST = 4


def kind_of(subject: int | str) -> SubjectKind:
    """The kind of a subject: an identity, or the name of a node."""
    if isinstance(subject, str):
        return SubjectKind.HOST
    if subject == identities.INIT:
        return SubjectKind.INIT
    return SubjectKind.HOST_IDENTITY if subject == identities.HOST else SubjectKind.ENDPOINT


def unenforced(kind: SubjectKind, settings: PolicySettings) -> bool:
    """Whether no rule counts for subjects of a kind."""
    return settings.mode is EnforcementMode.NEVER or kind is SubjectKind.HOST_IDENTITY


@dataclass(frozen=True, slots=True)
class Locking:
    """By direction: the origins that lock it, for good and only on trial."""

    enforced: Mapping[Direction, frozenset[Origin]] = field(default_factory=dict)
    audited: Mapping[Direction, frozenset[Origin]] = field(default_factory=dict)

    def enforcement(self, direction: Direction) -> Enforcement:
        """The default of a direction without audited policies."""
        return Enforcement.DEFAULT_DENY if self.enforced.get(direction) else Enforcement.DEFAULT_ALLOW

    def audited_enforcement(self, direction: Direction) -> Enforcement | None:
        """The default with audited policies, where that is another."""
        changes = self.audited.get(direction) and not self.enforced.get(direction)
        return Enforcement.DEFAULT_DENY if changes else None

    def origins(self, direction: Direction) -> frozenset[Origin]:
        """Everything that locks a direction, on trial or not."""
        nothing = frozenset[Origin]()
        return self.enforced.get(direction, nothing) | self.audited.get(direction, nothing)


def locking_of(kind: SubjectKind, rules: Iterable[BoundRule], settings: PolicySettings) -> Locking:
    """How the directions of a subject are locked by the rules that select it."""
    if unenforced(kind, settings):
        return Locking()
    enforced: dict[Direction, set[Origin]] = {direction: set() for direction in Direction}
    audited: dict[Direction, set[Origin]] = {direction: set() for direction in Direction}
    for rule in rules:
        side = audited if rule.policy.audit else enforced
        for direction in rule.rule.locks:
            side[direction].update(_locking_origins(rule, direction))
    for direction in Direction:
        if kind is SubjectKind.INIT:
            enforced[direction].add(INIT_LOCKED)
        if settings.mode is EnforcementMode.ALWAYS:
            enforced[direction].add(ALWAYS_LOCKED)
    return Locking(_frozen(enforced), _frozen(audited))


def _locking_origins(rule: BoundRule, direction: Direction) -> Iterable[Origin]:
    """The entries of the direction; the rule itself when it has none, as in `ingress: []`."""
    found = [entry.origin for entry in rule.entries if entry.direction is direction]
    return found or [rule.policy.origin_of_path(rule.rule.path)]


def _frozen(origins: Mapping[Direction, set[Origin]]) -> dict[Direction, frozenset[Origin]]:
    return {direction: frozenset(found) for direction, found in origins.items()}
