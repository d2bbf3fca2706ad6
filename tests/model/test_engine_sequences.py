"""The engine against its plain twin: any sequence of changes, drained anywhere, in any order."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from axoneme.lib.policy.dnsrules import DnsRules
from axoneme.lib.policy.model import SubjectPolicy
from axoneme.lib.policycodec.dnsrules import digest_of
from services.policy.inputs import PolicySettings
from services.policy.resolution.engine import Drained, PolicyEngine
from services.policy.resolution.plainresolve import resolve_with_faults
from tests.conftest import scaled
from tests.model.enginecases import (
    KINDS,
    Change,
    State,
    changes,
    difference,
    expanders,
    named_states,
    settings_of_clusters,
)


class Receiver:
    """What a node knows that heard every drain; checks that each says what changed, and only that."""

    def __init__(self, engine: PolicyEngine) -> None:
        self.engine = engine
        self.policies: dict[str, SubjectPolicy] = {}
        self.dns_rules: dict[str, DnsRules] = {}
        self.revision = 0

    def drain(self) -> Drained:
        """Take the changes of one drain."""
        self.revision += 1
        drained = self.engine.drain(self.revision)
        for key, policy in drained.upserts.items():
            assert self.policies.get(key) != policy, f"{key} was sent although nothing changed"
            assert policy.policy_revision <= self.revision
            self.policies[key] = policy
        for key in drained.removals:
            del self.policies[key]
        for key, rules in drained.dns_rules.items():
            assert self.dns_rules.get(key) != rules, f"{key} was sent although nothing changed"
            self.dns_rules = {one: had for one, had in self.dns_rules.items() if one != key}
            if rules is not None:
                assert rules.digest == digest_of(rules.rules)
                self.dns_rules[key] = rules
        named = {key: one.dns_rules_digest for key, one in self.policies.items() if one.dns_rules_digest}
        assert {key: rules.digest for key, rules in self.dns_rules.items()} == named
        return drained

    def check(self, state: State) -> None:
        """Everything is as the plain twin says; faulted subjects may have what they had before."""
        drained = self.drain()
        expected, faults = resolve_with_faults(
            state.policies.values(), state.identities, self.engine.settings, state.inputs()
        )
        assert drained.faults == faults
        mine = {key: policy for key, policy in self.policies.items() if key not in faults}
        assert mine == expected
        assert set(self.policies) <= set(expected) | set(faults)
        assert all(self.engine.fault_of(key) == text for key, text in faults.items())


@settings(max_examples=scaled(120, 6_000))
@given(settings_of_clusters, st.lists(st.tuples(changes, st.booleans()), max_size=25))
def test_any_sequence_gives_what_a_fresh_start_gives(
    cluster: PolicySettings, steps: list[tuple[Change, bool]]
) -> None:
    """After every drain, wherever it comes, all subjects are as the twin resolves them from scratch."""
    state, receiver = State(), Receiver(PolicyEngine(cluster))
    for change, drain in steps:
        state = change.on(state)
        change.play(receiver.engine)
        if drain:
            receiver.check(state)
    receiver.check(state)
    receiver.drain()
    assert not receiver.drain().upserts


@settings(max_examples=scaled(40, 1_000))
@given(settings_of_clusters, st.lists(changes, max_size=20), st.integers(0, 2**32))
def test_nothing_is_left_behind(cluster: PolicySettings, steps: list[Change], seed: int) -> None:
    """When everything is gone again, no table of the engine has grown."""
    state, engine = State(), PolicyEngine(cluster)
    engine.drain(1)
    empty = _sizes(engine)
    for change in steps:
        state = change.on(state)
        change.play(engine)
        engine.drain(2)
    for change in difference(state, State(), random.Random(seed)):
        change.play(engine)
        engine.drain(3)
    assert _sizes(engine) == empty


def _sizes(engine: PolicyEngine) -> dict[tuple[str, str], int]:
    """How many things are in each table of the engine and of its parts."""
    names = ("_identities", "_nodes", "_port_names", "_referrers", "_sets", "_entries", "_book", "_policies")
    parts = {"": vars(engine)} | {name: vars(getattr(engine, name)) for name in names}
    return {
        (part, name): len(table)
        for part, tables in parts.items()
        for name, table in tables.items()
        if isinstance(table, dict | set)
    }


@settings(max_examples=scaled(30, 1_000))
@given(settings_of_clusters, st.lists(changes, max_size=12), st.lists(changes, max_size=8))
def test_a_fork_changes_nothing_in_the_original(
    cluster: PolicySettings, before: list[Change], after: list[Change]
) -> None:
    """A what-if question sees the same inputs; neither side sees what the other does afterwards."""
    state, receiver = State(), Receiver(PolicyEngine(cluster))
    for change in before:
        state = change.on(state)
        change.play(receiver.engine)
    twin = Receiver(receiver.engine.fork())
    imagined = state
    for change in after:
        imagined = change.on(imagined)
        change.play(twin.engine)
    twin.check(imagined)
    receiver.check(state)
    for change in after:
        change.play(receiver.engine)
    receiver.check(imagined)


@pytest.mark.parametrize("expand", [pytest.param(one, id=name) for name, one in expanders()])
def test_only_the_state_counts_not_the_way_to_it(expand: Callable[[list[str]], list[str]]) -> None:
    """Named states, one after the other: each is reached from each, by shuffled changes."""
    states, rng = named_states(), random.Random(8)
    for cluster in (PolicySettings(), PolicySettings(cluster_name="east", host_firewall=True)):
        names = [one for pair in itertools.permutations(states, 2) for one in pair]
        receiver, present = Receiver(PolicyEngine(cluster)), State()
        for name in expand(names):
            for change in difference(present, states[name], rng):
                change.play(receiver.engine)
                if rng.random() < 0.3:
                    receiver.drain()
            present = states[name]
            receiver.check(present)


@pytest.mark.parametrize("name", sorted(named_states()))
def test_late_inputs_converge(name: str) -> None:
    """RC-LATE: labels, policy, service, names, groups and nodes in a sample of the 5! orders and more."""
    state = named_states()[name]
    rng = random.Random(name)
    orders = list(itertools.permutations(KINDS))
    for order in rng.sample(orders, scaled(60, len(orders))):
        receiver = Receiver(PolicyEngine(PolicySettings(cluster_name="east", host_firewall=True)))
        for kind in order:
            for key, value in getattr(state, kind).items():
                Change(kind, key, value).play(receiver.engine)
            receiver.drain()
        receiver.check(state)
