"""What an explanation says about the rules that matched: who won, who lost, and why."""

from __future__ import annotations

import pytest

from axoneme.lib.labels import Label, LabelSet
from axoneme.lib.policy.groups import Group, GroupedContributions
from axoneme.lib.policy.judge import Judgement, judge
from axoneme.lib.policy.model import (
    ANY_PORT,
    Action,
    AnyPeer,
    AuthMode,
    Contribution,
    Direction,
    Enforcement,
    Entity,
    EntitySelector,
    IdentityPeer,
    NamedPort,
    Part,
    Peer,
    PortBlock,
    Redirect,
    SelectorPeer,
    SubjectPolicy,
    one_port,
)
from axoneme.lib.policy.precedence import Tier, precedence

TCP = PortBlock(6, 0, 0)
WEB = one_port(6, 80)
WORLD = {
    4: LabelSet((Label("reserved", "world-ipv4", ""),)),
    6: LabelSet((Label("reserved", "world-ipv6", ""),)),
}


def rule(
    action: Action = Action.ALLOW,
    ports: PortBlock | NamedPort = WEB,
    peer: Peer | None = None,
    *,
    tier: int = Tier.NORMAL,
    priority: int = 0,
    redirect: Redirect | None = None,
    audit: bool = False,
    auth: AuthMode | None = None,
) -> Contribution:
    """An ingress rule for everyone unless a peer is given."""
    if action is Action.REDIRECT and redirect is None:
        redirect = Redirect("http", "", 101)
    word = precedence(
        tier=tier,
        priority=priority,
        action=action,
        redirect_priority=redirect.priority if redirect else 126,
    )
    return Contribution(
        direction=Direction.INGRESS,
        peer=peer or AnyPeer(),
        ports=ports,
        action=action,
        redirect=redirect,
        precedence=word,
        origins=frozenset({1}),
        audit=audit,
        auth=auth,
    )


def judged(
    *rules: Contribution,
    default: Enforcement = Enforcement.DEFAULT_DENY,
    audited: Enforcement | None = None,
    port: int = 80,
    identity: int = 300,
    labels: LabelSet | None = None,
) -> Judgement:
    """The judgement of one TCP packet."""
    policy = SubjectPolicy(
        ingress=default,
        egress=Enforcement.DEFAULT_DENY,
        audit_ingress=audited,
        contributions=frozenset(rules),
        selectors={"world": EntitySelector(Entity.WORLD)},
    )
    return judge(
        policy,
        Direction.INGRESS,
        identity,
        6,
        port,
        local_identities={},
        named_ports={(6, "web"): 80},
        labels=labels,
    )


ALLOW = rule()
CRD = Redirect("crd", "one", 126)
LOST = [
    (ALLOW, rule(Action.DENY, TCP), "a deny wins over it"),
    (ALLOW, rule(Action.REDIRECT, ANY_PORT), "a stronger rule of the same level redirects"),
    (
        rule(Action.REDIRECT, redirect=CRD),
        rule(Action.REDIRECT, TCP),
        "a redirect of a stronger priority wins over it",
    ),
    (
        rule(Action.REDIRECT, TCP, redirect=CRD),
        rule(Action.REDIRECT, redirect=Redirect("kafka", "", 126)),
        "an equally strong redirect is more specific",
    ),
    (rule(Action.DENY), rule(tier=Tier.ADMIN), "its tier (normal) is not asked: the tier admin decides"),
    (
        rule(tier=Tier.LAST),
        rule(Action.DENY, tier=Tier.BASELINE),
        "its tier (last) is not asked: the tier baseline decides",
    ),
    (
        rule(Action.DENY, tier=Tier.ADMIN, priority=1),
        rule(tier=Tier.ADMIN),
        "a rule of a stronger priority in its tier decides",
    ),
    (rule(Action.PASS), rule(), "an allow of the same level wins over it"),
    (rule(Action.PASS, tier=Tier.ADMIN), rule(), "it leaves the decision to the next tier"),
    (rule(audit=True), rule(), "only tried out (audit)"),
]


@pytest.mark.parametrize(("loser", "winner", "why"), LOST)
def test_why_a_rule_lost(loser: Contribution, winner: Contribution, why: str) -> None:
    judgement = judged(loser, winner)
    assert judgement.winners == (winner,)
    assert judgement.losers == ((loser, why),)
    assert (judgement.action, judgement.redirect) == (winner.action, winner.redirect)


def test_a_pass_takes_weaker_rules_of_its_tier_with_it() -> None:
    deny = rule(Action.DENY, tier=Tier.ADMIN, priority=1)
    step = rule(Action.PASS, tier=Tier.ADMIN)
    judgement = judged(ALLOW, deny, step)
    assert judgement.winners == (ALLOW,)
    assert dict(judgement.losers) == {
        deny: "a stronger rule of its tier leaves the decision to the next tier",
        step: "it leaves the decision to the next tier",
    }
    alone = judged(deny, step, default=Enforcement.DEFAULT_ALLOW)
    assert (alone.action, alone.default, alone.forwarded) == (None, Enforcement.DEFAULT_ALLOW, True)
    assert dict(alone.losers) == {
        deny: "a stronger rule of its tier leaves the decision to the next tier, where no rule matches",
        step: "it leaves the decision to the next tier, where no rule matches",
    }


def test_nothing_matches() -> None:
    """The default of the direction is named."""
    for default in Enforcement:
        judgement = judged(rule(ports=one_port(6, 81)), rule(peer=IdentityPeer(301)), default=default)
        assert (judgement.action, judgement.default, judgement.winners) == (None, default, ())
        assert judgement.forwarded == (default is Enforcement.DEFAULT_ALLOW)
        assert not judgement.losers


def test_all_rules_of_the_deciding_level_win() -> None:
    """Whichever ports and peers they name; their authentication is that of the narrowest."""
    rules = (
        rule(ports=NamedPort(6, "web"), peer=IdentityPeer(300), auth=AuthMode.DISABLED),
        rule(ports=TCP),
        rule(ports=ANY_PORT, auth=AuthMode.REQUIRED),
    )
    judgement = judged(*rules)
    assert set(judgement.winners) == set(rules)
    assert judgement.auth is AuthMode.DISABLED
    assert judged(*rules, port=81).auth is AuthMode.REQUIRED


def test_what_is_tried_out_only_reports() -> None:
    """A tried-out deny, and a tried-out lock, which has no rule to name."""
    deny = rule(Action.DENY, audit=True)
    judgement = judged(ALLOW, deny)
    assert (judgement.action, judgement.audit, judgement.forwarded) == (Action.DENY, True, True)
    assert judgement.winners == (deny,)
    assert judgement.losers == ((ALLOW, "a deny wins over it"),)
    baseline = rule(tier=Tier.BASELINE)
    locked = judged(baseline, default=Enforcement.DEFAULT_ALLOW, audited=Enforcement.DEFAULT_DENY)
    assert (locked.action, locked.audit, locked.winners) == (Action.ALLOW, False, (baseline,))
    nobody = judged(default=Enforcement.DEFAULT_ALLOW, audited=Enforcement.DEFAULT_DENY)
    assert (nobody.action, nobody.audit, nobody.default) == (Action.DENY, True, Enforcement.DEFAULT_DENY)
    assert nobody.winners == ()


@pytest.mark.parametrize("version", [4, 6])
def test_references_are_judged_by_labels(version: int) -> None:
    """A peer without known labels is nobody that only a node knows."""
    world = rule(peer=SelectorPeer("world"))
    assert judged(world, identity=1 << 24, labels=WORLD[version]).winners == (world,)
    assert judged(world, identity=1 << 24).winners == ()


def test_groups_are_read_like_sets() -> None:
    """Only the contributions for the peer are made from a group."""
    part = Part(
        direction=Direction.INGRESS,
        ports=WEB,
        action=Action.ALLOW,
        precedence=precedence(action=Action.ALLOW),
        origins=frozenset({1}),
    )
    grouped = GroupedContributions([Group((part,), (SelectorPeer("world"),), frozenset({300}))])
    policy = SubjectPolicy(
        ingress=Enforcement.DEFAULT_DENY,
        egress=Enforcement.DEFAULT_DENY,
        contributions=grouped,
        selectors={"world": EntitySelector(Entity.WORLD)},
    )
    local = {9: WORLD[4], 10: WORLD[6]}
    for number, expected in ((300, True), (301, False), (9, True), (10, True)):
        judgement = judge(policy, Direction.INGRESS, number, 6, 80, local_identities=local, named_ports={})
        assert judgement.forwarded is expected
