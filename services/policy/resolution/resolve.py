"""What the rules that select a subject mean for it.

    rules ──frame_of──> Frame: everything but identities    (once per set of rules)
    Frame + groups ──policy_of──> SubjectPolicy              (after each change of a group)

Only cluster-wide and reserved numbers appear as peers; what node-local identities may satisfy travels as a
selector reference with its definition. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypedDict

from axoneme.lib import identities
from axoneme.lib.policy.groups import Group, GroupedContributions
from axoneme.lib.policy.model import (
    ANY_PORT,
    Action,
    Direction,
    Enforcement,
    Origin,
    Part,
    Peer,
    SelectorDefinition,
    SubjectPolicy,
)
from axoneme.lib.policy.precedence import LOCALHOST_ALLOW, Tier
from axoneme.lib.selectors import LabelSelector
from services.policy.inputs import PolicySettings
from services.policy.resolution.bind import BoundEntry, BoundRule
from services.policy.resolution.bindpeers import localised
from services.policy.resolution.conflicts import conflicts_among
from services.policy.resolution.dnscompile import entries_about_dns
from services.policy.resolution.expansion import same_groups
from services.policy.resolution.locking import Locking, SubjectKind, locking_of, unenforced

LOCALHOST: Final = Origin.of(kind="reserved", namespace="", name="allow-localhost", rule="")
_LET_LOCALHOST_IN: Final = Part(
    direction=Direction.INGRESS,
    ports=ANY_PORT,
    action=Action.ALLOW,
    precedence=LOCALHOST_ALLOW,
    origins=frozenset({LOCALHOST.origin_id}),
)
LOCALHOST_GROUP: Final = Group(parts=(_LET_LOCALHOST_IN,), numbers=frozenset({identities.HOST}))
TRIED_LOCALHOST_GROUP: Final = Group(
    parts=(replace(_LET_LOCALHOST_IN, audit=True),), numbers=frozenset({identities.HOST})
)


class Header(TypedDict):
    """The fields of a SubjectPolicy that do not depend on identities."""

    ingress: Enforcement
    egress: Enforcement
    audit_ingress: Enforcement | None
    audit_egress: Enforcement | None
    selectors: Mapping[str, SelectorDefinition]
    origins: Mapping[int, Origin]
    ingress_default_deny: frozenset[int]
    egress_default_deny: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A subject's policy as far as it does not depend on identities.

    `entries` are those that count, narrowed by what their subjects require; `overlapping` when two of them
    share an origin and a part. `about_dns` are those of them that say which names may be asked for. A frame
    with a `fault` stands for a policy that cannot be computed.
    """

    header: Header
    entries: tuple[BoundEntry, ...] = ()
    localhost: Group | None = None
    overlapping: bool = False
    about_dns: tuple[BoundEntry, ...] = ()
    fault: str = ""

    @property
    def locks_egress(self) -> bool:
        """Whether what no rule of egress allows is dropped."""
        return self.header["egress"] is Enforcement.DEFAULT_DENY


def frame_of(kind: SubjectKind, rules: Sequence[BoundRule], settings: PolicySettings) -> Frame:
    """Work out which entries count for subjects that these rules select, and how they are locked."""
    if unenforced(kind, settings):
        return Frame(header=_header(Locking(), (), {}))
    locking = locking_of(kind, rules, settings)
    entries = tuple(_narrowed(rules, settings))
    localhost = _localhost(kind, rules, locking, settings)
    conflicts = conflicts_among(entry for rule in rules if not rule.policy.audit for entry in rule.entries)
    return Frame(
        header=_header(locking, entries, _origins(rules, locking, localhost=localhost is not None)),
        entries=entries,
        localhost=localhost,
        overlapping=_overlap(entries),
        about_dns=entries_about_dns(entries),
        fault="; ".join(map(str, conflicts)),
    )


def _narrowed(rules: Sequence[BoundRule], settings: PolicySettings) -> Iterable[BoundEntry]:
    """All entries, with what fromRequires and toRequires of the same direction ask of their endpoints.

    Only allow entries of the normal tier are narrowed: a narrower deny would let more through.
    """
    required = _required(rules, settings)
    for entry in (entry for rule in rules for entry in rule.entries):
        selectors = required.get(entry.direction)
        narrows = selectors and entry.action is Action.ALLOW and entry.tier is Tier.NORMAL
        yield entry.narrowed(selectors) if selectors and narrows else entry


def _required(rules: Iterable[BoundRule], settings: PolicySettings) -> dict[Direction, list[LabelSelector]]:
    found: dict[Direction, dict[LabelSelector, None]] = {}
    for entry in (entry for rule in rules for entry in rule.rule.entries):
        if entry.requires:
            asked = (localised(selector, settings) for selector in entry.requires)
            found.setdefault(entry.direction, {}).update(dict.fromkeys(asked))
    return {direction: sorted(selectors) for direction, selectors in found.items()}


def _localhost(
    kind: SubjectKind, rules: Iterable[BoundRule], locking: Locking, settings: PolicySettings
) -> Group | None:
    """What lets the local host in where nothing denies it: only where a rule is about ingress (R-43).

    Rules that are tried out let it in for the trial alone.
    """
    if kind is SubjectKind.HOST or not settings.allow_localhost or not locking.origins(Direction.INGRESS):
        return None
    about = [rule for rule in rules if _about_ingress(rule)]
    if not about:
        return None
    return TRIED_LOCALHOST_GROUP if all(rule.policy.audit for rule in about) else LOCALHOST_GROUP


def _about_ingress(rule: BoundRule) -> bool:
    ingress = Direction.INGRESS
    return rule.rule.enforces(ingress) or any(entry.direction is ingress for entry in rule.entries)


def _origins(rules: Iterable[BoundRule], locking: Locking, *, localhost: bool) -> dict[int, Origin]:
    found = {entry.origin.origin_id: entry.origin for rule in rules for entry in rule.entries}
    for direction in Direction:
        found.update({origin.origin_id: origin for origin in locking.origins(direction)})
    return found | {LOCALHOST.origin_id: LOCALHOST} if localhost else found


def _overlap(entries: Sequence[BoundEntry]) -> bool:
    """Whether entries of one origin share a part, so that they could contribute the same thing twice."""
    counts = Counter(entry.origin.origin_id for entry in entries)
    repeated = [entry for entry in entries if counts[entry.origin.origin_id] > 1]
    parts = Counter(part for entry in repeated for part in (*entry.plain, *entry.named))
    return any(count > 1 for count in parts.values()) or any(entry.named for entry in repeated)


def policy_of(
    frame: Frame, groups: Iterable[Group], revision: int, dns_rules_digest: bytes = b""
) -> SubjectPolicy:
    """The policy of a frame whose entries contribute these groups."""
    everything = disjoint(groups) if frame.overlapping else tuple(groups)
    if frame.localhost is not None:
        everything = (*everything, frame.localhost)
    return SubjectPolicy(
        contributions=GroupedContributions(everything),
        dns_rules_digest=dns_rules_digest,
        policy_revision=revision,
        **frame.header,
    )


def _header(locking: Locking, entries: Iterable[BoundEntry], origins: Mapping[int, Origin]) -> Header:
    return Header(
        ingress=locking.enforcement(Direction.INGRESS),
        egress=locking.enforcement(Direction.EGRESS),
        audit_ingress=locking.audited_enforcement(Direction.INGRESS),
        audit_egress=locking.audited_enforcement(Direction.EGRESS),
        selectors={key: one for entry in entries if entry.plain for key, one in entry.references},
        origins=origins,
        ingress_default_deny=_numbers(locking.origins(Direction.INGRESS)),
        egress_default_deny=_numbers(locking.origins(Direction.EGRESS)),
    )


def _numbers(origins: Iterable[Origin]) -> frozenset[int]:
    return frozenset(origin.origin_id for origin in origins)


def disjoint(groups: Iterable[Group]) -> tuple[Group, ...]:
    """The same contributions, each in one group only."""
    fixed: dict[Part, dict[Peer, None]] = {}
    numbers: dict[Part, set[int]] = {}
    for group in groups:
        for part in group.parts:
            fixed.setdefault(part, {}).update(dict.fromkeys(group.fixed))
            numbers.setdefault(part, set()).update(group.numbers)
    return tuple(Group((part,), tuple(fixed[part]), frozenset(numbers[part])) for part in fixed)


def same_policy(one: SubjectPolicy, other: SubjectPolicy) -> bool:
    """Whether two resolved policies say the same, told without expanding their groups."""
    if one is other:
        return True
    left, right = one.contributions, other.contributions
    if not (isinstance(left, GroupedContributions) and isinstance(right, GroupedContributions)):
        return one == other
    return (
        len(left) == len(right)
        and _content(one) == _content(other)
        and same_groups(left.groups, right.groups)
    )


def _content(one: SubjectPolicy) -> tuple[object, ...]:
    return (
        one.ingress,
        one.egress,
        one.audit_ingress,
        one.audit_egress,
        one.ingress_default_deny,
        one.egress_default_deny,
        one.origins,
        one.selectors,
        one.dns_rules_digest,
    )
