"""What rules mean for one subject: contributions, default deny, origins.

    rules that select the subject + members of their peer selectors -> SubjectPolicy

Pure. Only cluster-wide and reserved numbers appear as peers; what node-local identities may satisfy (world)
travels as a selector reference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from axoneme.lib import identities
from axoneme.lib.labels import CLUSTER_KEY, K8S
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
    Origin,
    Peer,
    SelectorPeer,
    SubjectPolicy,
)
from axoneme.lib.policy.precedence import LOCALHOST_ALLOW, precedence
from services.policy.rules import EntityName, ParsedPolicy, Peers, Rule, RuleEntry
from services.policy.selectors import LabelSelector, Operator, Requirement

WORLD_KEY: Final = "entity:world"
WORLD: Final = EntitySelector(Entity.WORLD)
# Members of the entity `cluster` beside the pods of the local cluster; never unmanaged, which is what an
# address reads as before its identity is known.
CLUSTER_NUMBERS: Final = (
    identities.HOST,
    identities.REMOTE_NODE,
    identities.INIT,
    identities.INGRESS,
    identities.HEALTH,
    identities.KUBE_APISERVER,
)
LOCALHOST: Final = Origin.of(kind="reserved", namespace="", name="allow-localhost", rule="")
INIT_LOCKED: Final = Origin.of(kind="reserved", namespace="", name="init-locked", rule="")
_ALLOW_LOCALHOST: Final = Contribution(
    direction=Direction.INGRESS,
    peer=IdentityPeer(identities.HOST),
    ports=ANY_PORT,
    action=Action.ALLOW,
    precedence=LOCALHOST_ALLOW,
    origins=frozenset({LOCALHOST.origin_id}),
)

Members = Callable[[LabelSelector], Iterable[int]]


@dataclass(slots=True)
class BoundEntry:
    """A rule entry of one policy, with the peers that do not depend on identities worked out."""

    entry: RuleEntry
    origin: Origin
    fixed: tuple[Peer, ...]
    selectors: tuple[LabelSelector, ...]
    # Contributions as of the current identities; None after one of its selectors changed.
    cached: frozenset[Contribution] | None = None

    def contributions(self, members: Members) -> frozenset[Contribution]:
        """What the entry adds to each of its subjects."""
        if self.cached is None:
            self.cached = frozenset(_contributions(self, members))
        return self.cached


@dataclass(slots=True)
class BoundRule:
    """A rule of one policy with its entries bound."""

    policy: ParsedPolicy
    rule: Rule
    entries: tuple[BoundEntry, ...] = ()
    peer_selectors: frozenset[LabelSelector] = field(default_factory=frozenset)


def bind(policy: ParsedPolicy, cluster_name: str) -> tuple[BoundRule, ...]:
    """Prepare the rules of a policy for resolution in a cluster."""
    bound = []
    for rule in policy.rules:
        entries = tuple(_bind_entry(policy, entry, cluster_name) for entry in rule.entries)
        selectors = frozenset(selector for entry in entries for selector in entry.selectors)
        bound.append(BoundRule(policy, rule, entries, selectors))
    return tuple(bound)


def _bind_entry(policy: ParsedPolicy, entry: RuleEntry, cluster_name: str) -> BoundEntry:
    fixed, selectors = _peers(entry.peers, cluster_name)
    return BoundEntry(entry, policy.origin(entry), fixed, selectors)


def _peers(peers: Peers, cluster_name: str) -> tuple[tuple[Peer, ...], tuple[LabelSelector, ...]]:
    if peers.anyone:
        return (AnyPeer(),), ()
    fixed: list[Peer] = []
    selectors = list(peers.selectors)
    for entity in peers.entities:
        if entity is EntityName.ALL:
            fixed.append(AnyPeer())
        elif entity is EntityName.WORLD:
            fixed.append(SelectorPeer(WORLD_KEY))
        elif entity is EntityName.HOST:
            fixed.append(IdentityPeer(identities.HOST))
        else:
            fixed.extend(IdentityPeer(number) for number in CLUSTER_NUMBERS)
            selectors.append(pods_of_cluster(cluster_name))
    return tuple(fixed), tuple(selectors)


def pods_of_cluster(cluster_name: str) -> LabelSelector:
    """Every pod of a cluster."""
    return LabelSelector.of(Requirement(K8S, CLUSTER_KEY, Operator.IN, (cluster_name,)))


def _contributions(bound: BoundEntry, members: Members) -> Iterable[Contribution]:
    entry = bound.entry
    action = Action.DENY if entry.deny else Action.ALLOW
    word = precedence(action=action)
    numbers = {number for selector in bound.selectors for number in members(selector)}
    peers = {*bound.fixed, *(IdentityPeer(number) for number in numbers)}
    for peer in peers:
        for ports in entry.ports:
            yield Contribution(
                direction=entry.direction,
                peer=peer,
                ports=ports,
                action=action,
                precedence=word,
                origins=frozenset({bound.origin.origin_id}),
            )


def resolve(number: int, rules: Sequence[BoundRule], members: Members, revision: int) -> SubjectPolicy:
    """The policy of a subject, given the rules that select it."""
    contributions: set[Contribution] = set()
    origins: dict[int, Origin] = {}
    locking: dict[Direction, set[int]] = {direction: set() for direction in Direction}
    for rule in rules:
        for entry in rule.entries:
            origins[entry.origin.origin_id] = entry.origin
            locking[entry.entry.direction].add(entry.origin.origin_id)
            contributions |= entry.contributions(members)
    if number == identities.INIT:
        _lock(INIT_LOCKED, origins, locking)
    if locking[Direction.INGRESS] and number != identities.HOST:
        contributions.add(_ALLOW_LOCALHOST)
        origins[LOCALHOST.origin_id] = LOCALHOST
    refers_to_world = any(one.peer == SelectorPeer(WORLD_KEY) for one in contributions)
    return SubjectPolicy(
        ingress=_enforcement(locking[Direction.INGRESS]),
        egress=_enforcement(locking[Direction.EGRESS]),
        contributions=frozenset(contributions),
        selectors={WORLD_KEY: WORLD} if refers_to_world else {},
        origins=origins,
        ingress_default_deny=frozenset(locking[Direction.INGRESS]),
        egress_default_deny=frozenset(locking[Direction.EGRESS]),
        policy_revision=revision,
    )


def _lock(origin: Origin, origins: dict[int, Origin], locking: dict[Direction, set[int]]) -> None:
    origins[origin.origin_id] = origin
    for direction in Direction:
        locking[direction].add(origin.origin_id)


def _enforcement(locking: set[int]) -> Enforcement:
    return Enforcement.DEFAULT_DENY if locking else Enforcement.DEFAULT_ALLOW
