"""Traps in an accepted policy, said when it is applied. Advice only: nothing here refuses a policy."""

from __future__ import annotations

from axoneme.lib.policy.model import Direction, Enforcement
from services.policy.engine import PolicyEngine
from services.policy.rules import ParsedPolicy, Rule, RuleEntry


def warnings_of(policy: ParsedPolicy, engine: PolicyEngine) -> list[str]:
    """What a user may not expect of a policy, before it comes into force."""
    found = []
    subjects = engine.selected_subjects(policy)
    if not subjects:
        found.append("selects no endpoint that is known now; check endpointSelector and namespace")
    for rule in policy.rules:
        found += _of_rule(rule)
    for direction in Direction:
        if any(rule.enforces(direction) for rule in policy.rules):
            found += _newly_locked(direction, subjects, engine)
    return found


def _newly_locked(direction: Direction, subjects: set[int], engine: PolicyEngine) -> list[str]:
    policies = [engine.subject(number) for number in subjects]
    fresh = sum(
        one is not None and one.enforcement(direction) is Enforcement.DEFAULT_ALLOW for one in policies
    )
    if not fresh:
        return []
    name = direction.name.lower()
    noun = "identity" if fresh == 1 else "identities"
    return [f"switches default deny on for {name} of {fresh} {noun}: what no rule allows is dropped there"]


def _of_rule(rule: Rule) -> list[str]:
    found = []
    for direction in Direction:
        entries = [entry for entry in rule.entries if entry.direction is direction]
        if entries and all(entry.deny for entry in entries):
            name = direction.name.lower()
            found.append(f"{rule.path} only denies, but locks {name} as a whole unless another policy allows")
    return found + [text for entry in rule.entries if (text := _of_entry(entry))]


def _of_entry(entry: RuleEntry) -> str:
    peers = entry.peers
    nobody = not (peers.anyone or peers.selectors or peers.entities)
    if nobody or not entry.ports:
        verb = "denies" if entry.deny else "allows"
        return f"{entry.path} {verb} nothing: {'it names no peer' if nobody else 'its toPorts name no port'}"
    return ""
