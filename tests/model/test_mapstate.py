"""Finished maps against brute force over the contributions, and whether they hold an entry too many."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from axoneme.lib.policy.finish import finish
from axoneme.lib.policy.groups import GroupedContributions
from axoneme.lib.policy.judge import Judgement, judge
from axoneme.lib.policy.lookup import Decision, lookup
from axoneme.lib.policy.model import Action, Direction, Enforcement, MapEntry, MapKey, SubjectPolicy
from tests.conftest import scaled
from tests.model import mapstatecases as cases

PEERS = (*cases.POD_NUMBERS, cases.UNLISTED, *cases.LOCAL)
WORLD_TWINS = ((9, 10), (cases.LOCAL_BASE + 5, cases.LOCAL_BASE + 6))


def finished(policy: SubjectPolicy) -> dict[MapKey, MapEntry]:
    return finish(policy, local_identities=cases.LOCAL, named_ports=cases.NAMED_PORTS)


def judged(policy: SubjectPolicy, direction: Direction, peer: int, packet: tuple[int, int]) -> Judgement:
    return judge(
        policy,
        direction,
        peer,
        *packet,
        local_identities=cases.LOCAL,
        named_ports=cases.NAMED_PORTS,
    )


def check(decision: Decision, judgement: Judgement) -> None:
    """The entry does what the judgement says, because of rules that the judgement names."""
    entry = decision.entry
    assert decision.forwarded == judgement.forwarded
    if judgement.action is None and judgement.default is Enforcement.DEFAULT_DENY:
        assert entry is None or (entry.action, entry.origins, entry.audit) == (
            Action.DENY,
            frozenset(),
            False,
        )
        return
    assert entry is not None
    expected = (judgement.action or Action.ALLOW, judgement.redirect, judgement.audit, judgement.auth)
    assert (entry.action, entry.redirect, entry.audit, entry.auth) == expected
    winners = frozenset().union(*(one.origins for one in judgement.winners))
    assert entry.origins <= winners
    assert bool(entry.origins) == bool(winners)


@settings(max_examples=scaled(80, 3_000))
@given(policy=cases.policies())
def test_maps_decide_as_the_judge_does(policy: SubjectPolicy) -> None:
    """Every peer, IPv4 and IPv6 ones outside the cluster included, and every set of ports told apart."""
    mapstate = finished(policy)
    packets = cases.packets(policy)
    for direction in Direction:
        for peer in PEERS:
            for packet in packets:
                decision = lookup(mapstate, direction, peer, *packet)
                check(decision, judged(policy, direction, peer, packet))


@settings(max_examples=scaled(80, 3_000))
@given(policy=cases.policies())
def test_every_entry_is_needed(policy: SubjectPolicy) -> None:
    """Without any one of them some packet meets another fate or another rule."""
    mapstate = finished(policy)
    packets = cases.packets(policy)
    for key in mapstate:
        rest = {other: entry for other, entry in mapstate.items() if other != key}
        peers = PEERS if key.identity == 0 else (key.identity,)
        assert any(
            _seen(mapstate, key.direction, peer, packet) != _seen(rest, key.direction, peer, packet)
            for peer in peers
            for packet in packets
        ), (key, mapstate)


def _seen(
    mapstate: Mapping[MapKey, MapEntry], direction: Direction, peer: int, packet: tuple[int, int]
) -> object:
    entry = lookup(mapstate, direction, peer, *packet).entry
    return entry and (entry.action, entry.redirect, entry.audit, entry.auth, entry.origins)


@settings(max_examples=scaled(40, 1_000))
@given(policy=cases.policies(), data=st.data())
def test_neither_order_nor_form_matters(policy: SubjectPolicy, data: st.DataObject) -> None:
    """Groups in any order, a plain set, and selectors in another order all finish to the same map."""
    contributions = policy.contributions
    if isinstance(contributions, GroupedContributions):
        contributions = GroupedContributions(data.draw(st.permutations(contributions.groups)))
    else:
        contributions = frozenset(data.draw(st.permutations(sorted(contributions, key=repr))))
    backwards = dict(reversed(list(policy.selectors.items())))
    other = dataclasses.replace(policy, contributions=contributions, selectors=backwards)
    plain = dataclasses.replace(policy, contributions=frozenset(policy.contributions))
    assert finished(policy) == finished(other) == finished(plain)


@settings(max_examples=scaled(40, 1_000))
@given(policy=cases.policies())
def test_the_families_of_the_world_are_twins(policy: SubjectPolicy) -> None:
    """Whatever does not name prefixes treats IPv4 and IPv6 addresses alike."""
    families = {"ten", "ten-and-nodes", "documentation", "all-ipv6"}
    used = {getattr(one.peer, "key", "") for one in policy.contributions}
    kept = frozenset(
        one for one in policy.contributions if getattr(one.peer, "key", "") not in families & used
    )
    policy = dataclasses.replace(policy, contributions=kept)
    mapstate = finished(policy)
    for direction in Direction:
        for packet in cases.packets(policy):
            for four, six in WORLD_TWINS:
                assert _seen(mapstate, direction, four, packet) == _seen(mapstate, direction, six, packet)


@settings(max_examples=scaled(40, 1_000))
@given(policy=cases.policies())
def test_every_matching_rule_wins_or_has_a_reason(policy: SubjectPolicy) -> None:
    """Winners and losers together are what matches; only what is in force, or reported, wins."""
    for packet in cases.packets(policy)[::3]:
        for peer in (300, 9, 10):
            judgement = judged(policy, Direction.INGRESS, peer, packet)
            losers = [one for one, _ in judgement.losers]
            assert not set(losers) & set(judgement.winners)
            assert all(reason for _, reason in judgement.losers)
            assert judgement.audit or not any(one.audit for one in judgement.winners)
            assert all(one.action is judgement.action for one in judgement.winners)
            assert judgement.action is not Action.PASS
