"""Coverage, ties and names in the finished map."""

from __future__ import annotations

import pytest

from axoneme.lib.policy.finish import finish
from axoneme.lib.policy.lookup import lookup
from axoneme.lib.policy.model import (
    ANY_PORT,
    Action,
    AnyPeer,
    Contribution,
    Direction,
    Enforcement,
    IdentityPeer,
    MapKey,
    NamedPort,
    Peer,
    PortBlock,
    Redirect,
    SubjectPolicy,
    one_port,
)
from axoneme.lib.policy.precedence import LOCALHOST_ALLOW, precedence

TCP = PortBlock(6, 0, 0)


def entry(
    peer: Peer,
    ports: PortBlock | NamedPort,
    action: Action = Action.ALLOW,
    *,
    origin: int = 1,
    listener: str = "",
    audit: bool = False,
) -> Contribution:
    """An ingress contribution; redirects go to a listener of equal priority."""
    redirect = Redirect("crd", listener, 126) if action is Action.REDIRECT else None
    return Contribution(
        direction=Direction.INGRESS,
        peer=peer,
        ports=ports,
        action=action,
        redirect=redirect,
        precedence=precedence(action=action),
        origins=frozenset({origin}),
        audit=audit,
    )


def policy(*contributions: Contribution, ingress: Enforcement = Enforcement.DEFAULT_DENY) -> SubjectPolicy:
    """A policy of these contributions; egress is locked."""
    return SubjectPolicy(
        ingress=ingress, egress=Enforcement.DEFAULT_DENY, contributions=frozenset(contributions)
    )


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
    """Also at the same key, in either order."""
    report, real = (
        entry(AnyPeer(), TCP, Action.DENY, origin=n, audit=audit) for n, audit in ((1, True), (2, False))
    )
    assert lookup(
        finish(policy(report), local_identities={}, named_ports={}), Direction.INGRESS, 1, 6, 1
    ).forwarded
    (only,) = finish(policy(report, real), local_identities={}, named_ports={}).values()
    assert not only.audit


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
    """Tier, priority, then deny > redirect > allow; the local host's allow is the lowest above 0."""
    words = [
        precedence(tier=0, priority=9, action=Action.ALLOW),
        precedence(action=Action.DENY),
        precedence(action=Action.REDIRECT, redirect_priority=1),
        precedence(action=Action.REDIRECT, redirect_priority=126),
        precedence(action=Action.ALLOW),
        precedence(priority=1, action=Action.DENY),
        LOCALHOST_ALLOW,
    ]
    assert words == sorted(words, reverse=True)
    assert LOCALHOST_ALLOW == 1
    for wrong in ({"tier": 256}, {"priority": 65_536}):
        with pytest.raises(ValueError):
            precedence(**wrong, action=Action.ALLOW)
    with pytest.raises(ValueError):
        precedence(action=Action.REDIRECT, redirect_priority=127)
