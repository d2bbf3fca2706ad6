"""Coverage, ties and names in the finished map."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axoneme.lib.policy.blocks import OrderedBlocks, filled, filled_blocks
from axoneme.lib.policy.finish import finish
from axoneme.lib.policy.grouping import groups_of
from axoneme.lib.policy.groups import GroupedContributions
from axoneme.lib.policy.judge import judge
from axoneme.lib.policy.lookup import lookup
from axoneme.lib.policy.model import (
    ANY_PORT,
    Action,
    AnyPeer,
    AuthMode,
    Contribution,
    Direction,
    Enforcement,
    IdentityPeer,
    MapEntry,
    MapKey,
    NamedPort,
    Peer,
    PortBlock,
    Redirect,
    SubjectPolicy,
    one_port,
)
from axoneme.lib.policy.precedence import (
    LOCALHOST_ALLOW,
    MAX_PRIORITY,
    REDIRECT_PRIORITY,
    Tier,
    precedence,
    priority_of,
    tier_of,
)

TCP = PortBlock(6, 0, 0)


_aligned = st.builds(
    lambda port, bits: PortBlock(6, 0xFFF0 | port >> (16 - bits) << (16 - bits), bits),
    st.integers(0, 15),
    st.integers(12, 16),
)


def entry(
    peer: Peer,
    ports: PortBlock | NamedPort,
    action: Action = Action.ALLOW,
    *,
    origin: int = 1,
    listener: str = "",
    audit: bool = False,
    auth: AuthMode | None = None,
    tier: int = Tier.NORMAL,
    priority: int = 0,
) -> Contribution:
    """An ingress contribution; redirects go to a listener of equal priority."""
    redirect = Redirect("crd", listener, 126) if action is Action.REDIRECT else None
    return Contribution(
        direction=Direction.INGRESS,
        peer=peer,
        ports=ports,
        action=action,
        redirect=redirect,
        precedence=precedence(action=action, tier=tier, priority=priority),
        origins=frozenset({origin}),
        audit=audit,
        auth=auth,
    )


def policy(*contributions: Contribution, ingress: Enforcement = Enforcement.DEFAULT_DENY) -> SubjectPolicy:
    """A policy of these contributions; egress is locked."""
    return SubjectPolicy(
        ingress=ingress, egress=Enforcement.DEFAULT_DENY, contributions=frozenset(contributions)
    )


def finished(
    *contributions: Contribution, ingress: Enforcement = Enforcement.DEFAULT_DENY
) -> dict[MapKey, MapEntry]:
    """The map of these contributions."""
    return finish(policy(*contributions, ingress=ingress), local_identities={}, named_ports={})


def test_covered_entries_are_left_out_and_stronger_ones_stay() -> None:
    """An allow under a wider allow adds nothing; a deny does; an entry of any covers the same of one peer."""
    allows = [
        entry(AnyPeer(), TCP),
        entry(IdentityPeer(300), one_port(6, 80)),
        entry(AnyPeer(), one_port(6, 81)),
    ]
    deny = entry(IdentityPeer(300), one_port(6, 82), Action.DENY)
    mapstate = finish(policy(*allows, deny), local_identities={}, named_ports={})
    assert set(mapstate) == {
        MapKey(Direction.INGRESS, 0, TCP),
        MapKey(Direction.INGRESS, 300, one_port(6, 82)),
    }


def test_equal_contributions_unite_their_origins() -> None:
    """Both rules are named for what both allow."""
    both = policy(entry(AnyPeer(), TCP, origin=1), entry(AnyPeer(), TCP, origin=2))
    (only,) = finish(both, local_identities={}, named_ports={}).values()
    assert only.origins == {1, 2}


@pytest.mark.parametrize("peer", [AnyPeer(), IdentityPeer(300)])
def test_equally_strong_redirects_go_by_the_longer_port(peer: Peer) -> None:
    """A narrower redirect to another listener is no repetition of the wider one."""
    wide = entry(AnyPeer(), TCP, Action.REDIRECT, listener="wide")
    narrow = entry(peer, one_port(6, 80), Action.REDIRECT, listener="narrow")
    mapstate = finish(policy(wide, narrow), local_identities={}, named_ports={})
    for port, listener in ((80, "narrow"), (81, "wide")):
        found = lookup(mapstate, Direction.INGRESS, 300, 6, port).entry
        assert found is not None
        assert found.redirect is not None
        assert found.redirect.listener == listener


def test_a_real_deny_beats_one_that_only_reports() -> None:
    """Also at the same key, in either order; and what nothing allows is not opened by a report."""
    report, real = (
        entry(AnyPeer(), TCP, Action.DENY, origin=n, audit=audit) for n, audit in ((1, True), (2, False))
    )
    found = lookup(finished(report, ingress=Enforcement.DEFAULT_ALLOW), Direction.INGRESS, 1, 6, 1)
    assert (found.action, found.forwarded) == (Action.DENY, True)
    (only,) = finished(report, real).values()
    assert not only.audit
    assert not finished(report)


def test_an_audited_allow_opens_nothing() -> None:
    """Tried-out allows and redirects change no verdict; a tried-out lock reports what it would drop."""
    tried = entry(AnyPeer(), TCP, audit=True)
    assert not finished(tried)
    open_direction = SubjectPolicy(
        ingress=Enforcement.DEFAULT_ALLOW,
        egress=Enforcement.DEFAULT_DENY,
        audit_ingress=Enforcement.DEFAULT_DENY,
        contributions=frozenset({tried}),
    )
    mapstate = finish(open_direction, local_identities={}, named_ports={})
    tcp, udp = (lookup(mapstate, Direction.INGRESS, 5, protocol, 1) for protocol in (6, 17))
    assert (tcp.action, udp.action) == (Action.ALLOW, Action.DENY)
    assert udp.forwarded


def test_the_baseline_comes_before_a_tried_out_lock() -> None:
    """As it comes before a lock: what it allows passes and is not reported."""
    base = entry(AnyPeer(), TCP, tier=Tier.BASELINE)
    locked = SubjectPolicy(
        ingress=Enforcement.DEFAULT_ALLOW,
        egress=Enforcement.DEFAULT_DENY,
        audit_ingress=Enforcement.DEFAULT_DENY,
        contributions=frozenset({base}),
    )
    mapstate = finish(locked, local_identities={}, named_ports={})
    tcp, udp = (lookup(mapstate, Direction.INGRESS, 5, protocol, 1) for protocol in (6, 17))
    assert (tcp.action, tcp.forwarded) == (Action.ALLOW, True)
    assert (udp.action, udp.forwarded) == (Action.DENY, True)


@pytest.mark.parametrize("number", [300, 9, 10])
def test_a_pass_leaves_the_decision_to_the_next_tier(number: int) -> None:
    """For the peer and ports it names; a weaker deny of its own tier is skipped with it."""
    contributions = (
        entry(IdentityPeer(number), one_port(6, 80), Action.PASS, tier=Tier.ADMIN),
        entry(AnyPeer(), TCP, Action.DENY, tier=Tier.ADMIN, priority=1),
        entry(AnyPeer(), one_port(6, 80)),
    )
    mapstate = finished(*contributions)
    assert lookup(mapstate, Direction.INGRESS, number, 6, 80).forwarded
    assert not lookup(mapstate, Direction.INGRESS, number, 6, 81).forwarded
    assert not lookup(mapstate, Direction.INGRESS, number + 1, 6, 80).forwarded


def test_a_pass_to_the_default_undoes_the_wider_allow_below_it() -> None:
    """Inside an own block that is open, ports that nothing allows are closed by an entry without origins."""
    contributions = (
        entry(IdentityPeer(300), ANY_PORT, tier=Tier.ADMIN, priority=1),
        entry(AnyPeer(), one_port(6, 25), Action.PASS, tier=Tier.ADMIN),
    )
    mapstate = finished(*contributions)
    undone = mapstate[MapKey(Direction.INGRESS, 300, one_port(6, 25))]
    assert (undone.action, undone.origins) == (Action.DENY, frozenset())
    assert set(mapstate) == {
        MapKey(Direction.INGRESS, 300, ANY_PORT),
        MapKey(Direction.INGRESS, 300, one_port(6, 25)),
    }


@pytest.mark.parametrize(
    ("own", "wide", "expected"),
    [
        (None, None, None),
        (AuthMode.REQUIRED, None, AuthMode.REQUIRED),
        (None, AuthMode.REQUIRED, AuthMode.REQUIRED),
        (AuthMode.DISABLED, AuthMode.ALWAYS_FAIL, AuthMode.DISABLED),
        (AuthMode.REQUIRED, AuthMode.ALWAYS_FAIL, AuthMode.REQUIRED),
    ],
)
@pytest.mark.parametrize("wider_peer", [IdentityPeer(300), AnyPeer()])
def test_authentication_is_inherited_from_wider_rules(
    own: AuthMode | None, wide: AuthMode | None, expected: AuthMode | None, wider_peer: Peer
) -> None:
    """The mode that the rule states itself, or else that of a less specific one; a deny asks for nothing."""
    narrow = entry(IdentityPeer(300), one_port(6, 80), auth=own, origin=2)
    wider = entry(wider_peer, TCP, auth=wide)
    assert lookup(finished(narrow, wider), Direction.INGRESS, 300, 6, 80).auth is expected
    denied = entry(IdentityPeer(300), one_port(6, 80), Action.DENY)
    assert lookup(finished(narrow, wider, denied), Direction.INGRESS, 300, 6, 80).auth is None


def test_the_strictest_wider_authentication_counts() -> None:
    """Two wider rules; and a redirect of everyone asks for what a peer's wider allow asks for."""
    wide = (
        entry(AnyPeer(), ANY_PORT, auth=AuthMode.DISABLED),
        entry(IdentityPeer(300), TCP, auth=AuthMode.REQUIRED, origin=2),
    )
    narrow = entry(IdentityPeer(300), one_port(6, 80), origin=3)
    proxied = entry(AnyPeer(), one_port(6, 80), Action.REDIRECT, origin=4)
    for last in (narrow, proxied):
        mapstate = finished(*wide, last)
        assert lookup(mapstate, Direction.INGRESS, 300, 6, 80).auth is AuthMode.REQUIRED
        assert lookup(mapstate, Direction.INGRESS, 300, 17, 80).auth is AuthMode.DISABLED


def test_an_entry_that_narrower_ones_fill_is_left_out() -> None:
    """Two halves that are denied leave nothing of the whole that is allowed."""
    halves = [entry(AnyPeer(), PortBlock(6, port, 1), Action.DENY, origin=2) for port in (0, 0x8000)]
    mapstate = finished(entry(AnyPeer(), TCP), *halves)
    assert {key.ports for key in mapstate} == {PortBlock(6, 0, 1), PortBlock(6, 0x8000, 1)}
    mapstate = finished(entry(IdentityPeer(300), TCP), *halves)
    assert {key.identity for key in mapstate} == {0}
    stronger = entry(IdentityPeer(300), TCP, tier=Tier.ADMIN)
    assert {key.identity for key in finished(stronger, *halves)} == {0, 300}
    for half in halves:
        assert {key.identity for key in finished(entry(IdentityPeer(300), TCP), half)} == {0, 300}


def test_a_more_specific_rule_that_lost_asks_for_nothing() -> None:
    """A redirect beats the plain allow of fewer ports, and with it the authentication of that rule."""
    proxied = entry(AnyPeer(), TCP, Action.REDIRECT)
    proven = entry(IdentityPeer(300), one_port(6, 80), auth=AuthMode.REQUIRED, origin=2)
    found = lookup(finished(proxied, proven), Direction.INGRESS, 300, 6, 80)
    assert (found.action, found.auth) == (Action.REDIRECT, None)


@given(blocks=st.sets(_aligned, max_size=8))
def test_blocks_that_others_fill(blocks: set[PortBlock]) -> None:
    """Counted port by port, of a protocol with 16 ports at the end of the range."""

    def ports(block: PortBlock) -> set[int]:
        return set(range(block.port, block.port + (1 << (16 - block.prefix_length))))

    order = OrderedBlocks(blocks)
    full = filled_blocks(blocks)
    for block in blocks:
        inside = [one for one in blocks if one != block and block.covers(one)]
        assert set(order.inside(block)) == set(inside)
        rest = ports(block).difference(*map(ports, inside))
        assert filled(block, inside) == (block in full) == (not rest)


def test_named_ports_are_those_of_the_endpoint() -> None:
    """An undefined name opens nothing."""
    named = policy(entry(AnyPeer(), NamedPort(6, "http")))
    assert not finish(named, local_identities={}, named_ports={(17, "http"): 80})
    (key,) = finish(named, local_identities={}, named_ports={(6, "http"): 80})
    assert key.ports == one_port(6, 80)


def test_default_allow_is_an_entry_below_every_rule() -> None:
    """One map switch changes enforcement too; without it no match means drop."""
    mapstate = finish(policy(ingress=Enforcement.DEFAULT_ALLOW), local_identities={}, named_ports={})
    (key,) = mapstate
    assert (key, mapstate[key].precedence, mapstate[key].origins) == (
        MapKey(Direction.INGRESS, 0, ANY_PORT),
        0,
        frozenset(),
    )
    assert lookup(mapstate, Direction.INGRESS, 5, 0, 0).forwarded
    assert not lookup(mapstate, Direction.EGRESS, 5, 6, 80).forwarded


def test_precedence_words() -> None:
    """Tier, priority, then deny > redirect > allow > pass; the local host's allow is the lowest above 0."""
    words = [
        precedence(tier=0, priority=9, action=Action.ALLOW),
        precedence(tier=0, priority=9, action=Action.PASS),
        precedence(action=Action.DENY),
        precedence(action=Action.REDIRECT, redirect_priority=1),
        precedence(action=Action.REDIRECT, redirect_priority=126),
        precedence(action=Action.ALLOW),
        precedence(priority=1, action=Action.DENY),
        precedence(tier=Tier.BASELINE, action=Action.DENY),
        LOCALHOST_ALLOW,
    ]
    assert words == sorted(words, reverse=True)
    assert LOCALHOST_ALLOW == 1
    assert precedence(tier=0, priority=0, action=Action.DENY) == 0xFFFFFFFF
    for wrong in ({"tier": 16}, {"priority": MAX_PRIORITY + 1}, {"tier": -1}):
        with pytest.raises(ValueError):
            precedence(**wrong, action=Action.ALLOW)
    with pytest.raises(ValueError):
        precedence(action=Action.REDIRECT, redirect_priority=127)


@pytest.mark.parametrize("tier", Tier)
@pytest.mark.parametrize("priority", [0, 1, 128_127, MAX_PRIORITY])
def test_a_word_tells_its_level(tier: Tier, priority: int) -> None:
    """Also the last rule of the weakest object of a tier: priority 1000, rule 127."""
    for action in Action:
        word = precedence(tier=tier, priority=priority, action=action)
        assert (tier_of(word), priority_of(word)) == (tier, priority)


def test_parsers_without_a_place_of_their_own_are_as_strong_as_a_listener() -> None:
    assert REDIRECT_PRIORITY["kafka"] == REDIRECT_PRIORITY["generic"] == REDIRECT_PRIORITY["crd"] == 126


@pytest.mark.parametrize("names", [("one", "two"), ("two", "one")])
def test_two_listeners_at_one_key_are_ordered_by_name(names: tuple[str, str]) -> None:
    """Which rule was read first does not matter; the judge says the same."""
    rules = [
        entry(AnyPeer(), TCP, Action.REDIRECT, listener=name, origin=origin)
        for origin, name in enumerate(names, 1)
    ]
    (only,) = finished(*rules).values()
    assert only.redirect == Redirect("crd", "two", 126)
    assert only.origins == {names.index("two") + 1}
    judgement = judge(policy(*rules), Direction.INGRESS, 300, 6, 80, local_identities={}, named_ports={})
    assert judgement.redirect == only.redirect


def test_equal_rules_are_written_once_where_words_do_not_decide() -> None:
    """A repetition of a wider rule adds no entry, also beside authentication."""
    wide = entry(AnyPeer(), TCP, auth=AuthMode.REQUIRED)
    again = entry(IdentityPeer(300), one_port(6, 80), origin=2)
    assert set(finished(wide, again)) == {MapKey(Direction.INGRESS, 0, TCP)}


def test_what_holds_for_the_peer_is_more_specific_than_what_holds_for_everyone() -> None:
    """Of the same ports: its authentication counts, and its redirect where two are equally strong."""
    own = entry(IdentityPeer(300), TCP, auth=AuthMode.DISABLED)
    everyone = entry(AnyPeer(), TCP, auth=AuthMode.REQUIRED, origin=2)
    mapstate = finished(own, everyone)
    modes = [lookup(mapstate, Direction.INGRESS, number, 6, 80).auth for number in (300, 301)]
    assert modes == [AuthMode.DISABLED, AuthMode.REQUIRED]
    redirects = [
        entry(IdentityPeer(300), TCP, Action.REDIRECT, listener="a"),
        entry(AnyPeer(), TCP, Action.REDIRECT, listener="b", origin=2),
    ]
    found = lookup(finished(*redirects), Direction.INGRESS, 300, 6, 80).entry
    assert found is not None
    assert found.redirect == Redirect("crd", "a", 126)


@pytest.mark.parametrize("peer", [AnyPeer(), IdentityPeer(300)])
def test_filled_entries_are_left_out_where_words_do_not_decide(peer: Peer) -> None:
    """Also beside a pass: nothing of the whole is left when both halves are denied."""
    halves = [entry(peer, PortBlock(6, port, 1), Action.DENY, origin=2) for port in (0, 0x8000)]
    step = entry(AnyPeer(), one_port(17, 53), Action.PASS, tier=Tier.ADMIN)
    mapstate = finished(entry(peer, TCP), *halves, step)
    assert {key.ports for key in mapstate} == {PortBlock(6, 0, 1), PortBlock(6, 0x8000, 1)}


def test_contributions_that_share_objects_are_told_apart() -> None:
    """A plain set is put into groups by object first: everything that may differ has to count."""
    origins, ports = frozenset({1}), one_port(6, 80)
    base = Contribution(
        direction=Direction.INGRESS,
        peer=AnyPeer(),
        ports=ports,
        action=Action.ALLOW,
        precedence=precedence(action=Action.ALLOW),
        origins=origins,
    )
    redirect = Redirect("crd", "", 126)
    others: list[dict[str, Any]] = [
        {"ports": one_port(6, 81)},
        {"direction": Direction.EGRESS},
        {"auth": AuthMode.REQUIRED},
        {"audit": True},
        {"origins": frozenset({2})},
        {"precedence": precedence(action=Action.ALLOW, tier=Tier.ADMIN)},
        {"action": Action.DENY},
        {"action": Action.REDIRECT, "redirect": redirect},
    ]
    every = frozenset({base, *(replace(base, **changes) for changes in others)})
    groups = groups_of(every)
    assert len(groups) == len(every) == len(others) + 1
    assert frozenset(GroupedContributions(groups)) == every


def test_equal_contributions_of_other_objects_are_one_group() -> None:
    """Rules read twice, and peers that share a rule."""
    rules = frozenset(entry(IdentityPeer(number), one_port(6, 80)) for number in (300, 301))
    (group,) = groups_of(rules)
    assert group.numbers == {300, 301}
