"""Traps in an accepted policy, said when it is applied and in its status; nothing is refused here.

What needs no cluster (`of_policy`) is also what `axoneme policy validate` says; `traps_of` knows the
identities, the other policies and what references resolve to.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, TypeAlias

from axoneme.lib.policy.groups import GroupedContributions
from axoneme.lib.policy.model import AuthMode, Direction, Enforcement, SubjectPolicy
from services.policy.dnstraps import unlearned
from services.policy.resolution.engine import PolicyEngine
from services.policy.resolution.expansion import weight_of
from services.policy.rules import NO_RESTRICTION, EntityName, ParsedPolicy, Rule, RuleEntry
from services.policy.settings import EnforcementMode

MAP_ENTRIES: Final = 16_384
"""Entries of one endpoint's policy map."""
Subjects: TypeAlias = list[tuple[SubjectPolicy, int]]
"""The different policies of a policy's subjects, with how many have each."""
_FULL_SHARE: Final = 0.8
_HAVE_A_PROXY: Final = frozenset({"dns"})
"""Parsers of which every node has a proxy."""
_BEHIND_SNAT: Final = frozenset({EntityName.REMOTE_NODE, EntityName.CLUSTER, EntityName.CLUSTER_MESH})


def of_policy(policy: ParsedPolicy) -> list[str]:
    """Traps that the object shows by itself."""
    found = [text for rule in policy.rules for entry in rule.entries for text in _of_entry(entry)]
    for direction in Direction:
        entries = [entry for rule in policy.rules for entry in rule.entries if entry.direction is direction]
        locks = any(rule.enforces(direction) for rule in policy.rules)
        if locks and entries and all(entry.deny for entry in entries):
            name = direction.name.lower()
            found.append(f"only denies, but locks {name} as a whole unless another policy allows")
    return found


def traps_of(policy: ParsedPolicy, engine: PolicyEngine) -> list[str]:
    """All traps of a policy beside what the cluster has; `engine` need not hold the policy yet."""
    if engine.settings.mode is EnforcementMode.NEVER:
        return [*of_policy(policy), "has no effect: the enforcement mode of the cluster is never"]
    present = engine.subject_policies(policy)
    return [
        *of_policy(policy),
        *_of_subjects(policy, present, engine),
        *(text for rule in policy.rules for text in _unresolved(rule, engine)),
        *_unlearned(policy, present, engine),
        *_newly_locked(policy, present),
        *_of_size(policy, present, engine),
    ]


def _of_subjects(policy: ParsedPolicy, present: Subjects, engine: PolicyEngine) -> Iterator[str]:
    if any(rule.of_nodes for rule in policy.rules) and not engine.settings.host_firewall:
        yield "its nodeSelector has no effect: the host firewall is off (enable_host_firewall)"
    elif not present and not engine.selected_nodes(policy):
        yield "selects no endpoint that is known now; check endpointSelector and namespace"


def _of_size(policy: ParsedPolicy, present: Subjects, engine: PolicyEngine) -> Iterator[str]:
    """A forecast of the fullest map among the subjects."""
    stored = engine.policies.get(policy.key)
    largest = max((map_size(one) for one, _ in present), default=0)
    if stored != policy:
        largest += engine.size_of(policy) - (engine.size_of(stored) if stored else 0)
    if largest >= MAP_ENTRIES * _FULL_SHARE:
        advice = (
            "an endpoint keeps its last policy when the map is too small; select peers by fewer identities"
        )
        yield f"needs up to {largest} of the {MAP_ENTRIES} entries of an endpoint's policy map: {advice}"


def map_size(policy: SubjectPolicy) -> int:
    """At most so many entries, unless more prefixes than the policy's own lie inside those."""
    contributions = policy.contributions
    if not isinstance(contributions, GroupedContributions):
        return len(contributions)
    weights = {key: weight_of(definition) for key, definition in policy.selectors.items()}
    return sum(
        len(group.parts)
        * (len(group.numbers) + sum(weights.get(getattr(peer, "key", ""), 1) for peer in group.fixed))
        for group in contributions.groups
    )


def _newly_locked(policy: ParsedPolicy, present: Subjects) -> Iterator[str]:
    """Default deny that this policy switches on; nothing where another policy had done so already."""
    for direction in Direction:
        if not any(rule.enforces(direction) for rule in policy.rules):
            continue
        fresh = sum(count for one, count in present if _opens(one, direction, policy))
        if fresh:
            noun = "identity" if fresh == 1 else "identities"
            where = f"default deny on for {direction.name.lower()} of {fresh} {noun}"
            if policy.audit:
                yield f"would switch {where}: what no rule allows is reported there, not dropped"
            else:
                yield f"switches {where}: what no rule allows is dropped there"


def _opens(one: SubjectPolicy, direction: Direction, policy: ParsedPolicy) -> bool:
    enforced = one.audited_enforcement(direction) if policy.audit else one.enforcement(direction)
    return enforced is Enforcement.DEFAULT_ALLOW


def _of_entry(entry: RuleEntry) -> Iterator[str]:
    verb = "denies" if entry.deny else "allows"
    nobody = entry.peers.nobody and not entry.requires
    if nobody or not any(rule.ports for rule in entry.ports):
        why = "it names no peer" if nobody else "its toPorts name no port"
        yield f"{entry.path} {verb} nothing: {why}"
    elif entry.deny and entry.ports == NO_RESTRICTION:
        yield f"{entry.path} has no ports, so it denies every port and protocol of its peers"
    snat = sorted(_BEHIND_SNAT.intersection(entry.peers.entities))
    if snat and entry.direction is Direction.INGRESS and not entry.deny:
        names = " and ".join(snat)
        yield (
            f"{entry.path} allows {names}: traffic from outside that NodePort forwards with another node's "
            "source address may pass as remote-node"
        )
    parsers = sorted({rule.l7.parser for rule in entry.ports if rule.l7 is not None} - _HAVE_A_PROXY)
    if parsers:
        names = ", ".join(parsers)
        yield f"{entry.path} redirects to a proxy ({names}); a node without it refuses the policy"
    if entry.auth in (AuthMode.REQUIRED, AuthMode.ALWAYS_FAIL):
        yield f"{entry.path} asks for authentication; a node that cannot do it refuses the policy"


def _unresolved(rule: Rule, engine: PolicyEngine) -> Iterator[str]:
    for entry in rule.entries:
        for text in engine.unresolved(entry.peers):
            yield f"{entry.path} refers to {text}, which selects nobody now"


def _unlearned(policy: ParsedPolicy, present: Subjects, engine: PolicyEngine) -> Iterator[str]:
    if any(entry.peers.fqdns for rule in policy.rules for entry in rule.entries):
        in_force = [engine.dns_rules_of(one) for one, _ in present]
        yield from (text for rule in policy.rules for text in unlearned(policy, rule, in_force))
