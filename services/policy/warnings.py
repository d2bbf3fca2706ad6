"""Traps in an accepted policy, said when it is applied. Advice only: nothing here refuses a policy."""

from __future__ import annotations

from axoneme.lib.policy.model import Direction, Enforcement
from services.policy.engine import PolicyEngine
from services.policy.rules import ParsedPolicy, RuleEntry


def warnings_of(policy: ParsedPolicy, engine: PolicyEngine) -> list[str]:
    """What a user may not expect of a policy, before it comes into force."""
    found = []
    subjects = engine.selected_subjects(policy)
    if not subjects:
        found.append("selects no endpoint that is known now; check endpointSelector and namespace")
    for rule in policy.rules:
        found += [text for entry in rule.entries if (text := _of_entry(entry))]
    for direction in Direction:
        if any(rule.enforces(direction) for rule in policy.rules):
            found += _newly_locked(direction, policy, subjects, engine)
    return found


def _newly_locked(
    direction: Direction, policy: ParsedPolicy, subjects: set[int], engine: PolicyEngine
) -> list[str]:
    """Default deny that this policy switches on; nothing where another policy had done so already."""
    present = [engine.subject(number) for number in subjects]
    fresh = sum(
        one is not None and one.enforcement(direction) is Enforcement.DEFAULT_ALLOW for one in present
    )
    if subjects and not fresh:
        return []
    name = direction.name.lower()
    noun = "identity" if fresh == 1 else "identities"
    found = []
    if fresh:
        found.append(
            f"switches default deny on for {name} of {fresh} {noun}: what no rule allows is dropped there"
        )
    entries = [entry for rule in policy.rules for entry in rule.entries if entry.direction is direction]
    if entries and all(entry.deny for entry in entries):
        found.append(f"only denies, but locks {name} as a whole unless another policy allows")
    return found


def _of_entry(entry: RuleEntry) -> str:
    peers = entry.peers
    nobody = not (peers.anyone or peers.selectors or peers.entities)
    if nobody or not entry.ports:
        verb = "denies" if entry.deny else "allows"
        return f"{entry.path} {verb} nothing: {'it names no peer' if nobody else 'its toPorts name no port'}"
    return ""
