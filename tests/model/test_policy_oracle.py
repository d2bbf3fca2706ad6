"""The algebra against brute force: whole policies against the oracle, contributions against a maximum."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from axoneme.lib import identities
from axoneme.lib.labels import LabelSet
from axoneme.lib.policy.finish import finish
from axoneme.lib.policy.lookup import lookup
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
    NamedPort,
    NoPeer,
    PortBlock,
    Redirect,
    SelectorPeer,
    SubjectPolicy,
    blocks_of_range,
    one_port,
)
from axoneme.lib.policy.precedence import REDIRECT_PRIORITY, Tier, precedence
from services.policy.cnp import parse_policies
from services.policy.engine import resolve_all
from tests.conftest import scaled
from tests.model import oracle
from tests.model.policycases import (
    PORTS,
    PROTOCOLS,
    WORLD_TWINS,
    cluster_identities,
    policies,
    reserved_identities,
)

FLOWS = ((6, 80), (17, 53), (6, 8080), (58, 128))
LOCAL = {number: identities.RESERVED[number][1] for number in WORLD_TWINS}


@pytest.mark.parametrize("cluster_name", ["default", "east"])
@settings(max_examples=scaled(30, 300))
@given(objects=policies())
def test_maps_decide_as_the_oracle_does(objects: list[dict[str, Any]], cluster_name: str) -> None:
    """Every subject × peer × port of a small cluster, IPv4 and IPv6 addresses outside it included."""
    pods = cluster_identities(cluster_name)
    resolved = resolve_all(
        parse_policies(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})), pods, cluster_name
    )
    peers = pods | reserved_identities()
    parties = {number: oracle.Party.of(labels.texts()) for number, labels in peers.items()}
    for number in [*list(pods)[::5], identities.INIT]:
        mapstate = finish(resolved[number], local_identities=LOCAL, named_ports={})
        for direction in Direction:
            for peer in peers:
                for protocol, port in (
                    (6, 80),
                    (6, 81),
                    (17, 53),
                    (6, 8080),
                    (132, 65535),
                    (1, 8),
                    (58, 128),
                ):
                    flow = oracle.Flow(direction.name.lower(), parties[number], parties[peer], protocol, port)
                    expected = oracle.verdict(objects, flow, cluster_name=cluster_name)
                    decision = lookup(mapstate, direction, peer, protocol, port)
                    assert decision.forwarded == (expected == "allow"), (flow, decision)


@settings(max_examples=scaled(25, 250))
@given(objects=policies())
def test_the_two_families_of_the_world_are_twins(objects: list[dict[str, Any]]) -> None:
    """Whatever is decided for an IPv4 address outside is decided for an IPv6 one."""
    pods = cluster_identities("default")
    resolved = resolve_all(
        parse_policies(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})), pods, "default"
    )
    for number in list(pods)[::4]:
        mapstate = finish(resolved[number], local_identities=LOCAL, named_ports={})
        for direction in Direction:
            for protocol, port in [(p, n) for p in PROTOCOLS for n in PORTS[::2]]:
                four, six = (lookup(mapstate, direction, world, protocol, port) for world in WORLD_TWINS)
                assert four.forwarded == six.forwarded


_blocks = st.one_of(
    st.just(ANY_PORT),
    st.builds(lambda protocol: PortBlock(protocol, 0, 0), st.sampled_from((6, 17))),
    st.builds(
        lambda protocol, port, bits: PortBlock(protocol, port >> (16 - bits) << (16 - bits), bits),
        st.sampled_from((6, 17)),
        st.sampled_from(PORTS),
        st.integers(1, 16),
    ),
    st.builds(NamedPort, st.sampled_from((6, 17)), st.sampled_from(("http", "absent"))),
)
_peers = st.one_of(
    st.just(AnyPeer()),
    st.just(NoPeer()),
    st.builds(IdentityPeer, st.sampled_from((1, 300, 301, 9))),
    st.just(SelectorPeer("entity:world")),
)


@st.composite
def _contribution(draw: st.DrawFn) -> Contribution:
    action = draw(st.sampled_from(Action))
    redirect = None
    if action is Action.REDIRECT:
        parser = draw(st.sampled_from(("http", "dns")))
        redirect = Redirect(parser, "", REDIRECT_PRIORITY[parser])
    word = precedence(
        tier=draw(st.sampled_from((Tier.ADMIN, Tier.NORMAL))),
        priority=draw(st.integers(0, 1)),
        action=action,
        redirect_priority=redirect.priority if redirect else 126,
    )
    return Contribution(
        direction=Direction.INGRESS,
        peer=draw(_peers),
        ports=draw(_blocks),
        action=action,
        redirect=redirect,
        precedence=word,
        origins=frozenset({draw(st.integers(1, 5))}),
    )


NAMED = {(6, "http"): 8080}


def _plain_decision(policy: SubjectPolicy, identity: int, protocol: int, port: int) -> tuple[Any, Any] | None:
    """The strongest contribution that matches, found by looking at each."""
    best: Contribution | None = None
    for one in policy.contributions:
        peer = one.peer
        world = isinstance(peer, SelectorPeer) and identity in WORLD_TWINS
        if not (isinstance(peer, AnyPeer) or peer == IdentityPeer(identity) or world):
            continue
        ports = one.ports
        if isinstance(ports, NamedPort):
            number = NAMED.get((ports.protocol, ports.name))
            if number is None or (ports.protocol, number) != (protocol, port):
                continue
        elif not ports.covers(one_port(protocol, port)):
            continue
        if best is None or one.precedence > best.precedence:
            best = one
    if best is None:
        return (Action.ALLOW, None) if policy.ingress is Enforcement.DEFAULT_ALLOW else None
    return best.action, best.redirect


@settings(max_examples=scaled(150, 5_000))
@given(contributions=st.frozensets(_contribution(), max_size=8), enforcement=st.sampled_from(Enforcement))
def test_the_map_decides_as_the_strongest_contribution(
    contributions: frozenset[Contribution], enforcement: Enforcement
) -> None:
    """Coverage and the kernel's look-up lose nothing, whichever contributions are there."""
    policy = SubjectPolicy(
        ingress=enforcement,
        egress=Enforcement.DEFAULT_DENY,
        contributions=contributions,
        selectors={"entity:world": EntitySelector(Entity.WORLD)},
    )
    mapstate = finish(policy, local_identities=LOCAL, named_ports=NAMED)
    for identity in (1, 300, 301, 302, *WORLD_TWINS):
        for protocol, port in [(p, n) for p in (6, 17, 1) for n in (*PORTS, 8, 2)]:
            decision = lookup(mapstate, Direction.INGRESS, identity, protocol, port)
            entry = decision.entry
            found = None if entry is None else (entry.action, entry.redirect)
            assert found == _plain_decision(policy, identity, protocol, port)


@given(st.integers(0, 65535), st.integers(0, 65535))
def test_a_range_is_split_into_few_blocks_that_cover_exactly_it(one: int, other: int) -> None:
    """Blocks are aligned, disjoint, at most 30, and hold the ports of the range and no others."""
    first, last = min(one, other), max(one, other)
    blocks = blocks_of_range(6, first, last)
    assert len(blocks) <= 30
    position = first
    for block in blocks:
        assert block.port == position
        position += 1 << (16 - block.prefix_length)
    assert position == last + 1


def test_a_removed_deny_shows_the_allow_below_it() -> None:
    """Contributions stay, so that what one covered comes back when it goes."""
    allow = Contribution(
        direction=Direction.INGRESS, peer=AnyPeer(), ports=one_port(6, 80), action=Action.ALLOW,
        precedence=precedence(action=Action.ALLOW), origins=frozenset({1}),
    )  # fmt: skip
    deny = Contribution(
        direction=Direction.INGRESS, peer=AnyPeer(), ports=PortBlock(6, 0, 0), action=Action.DENY,
        precedence=precedence(action=Action.DENY), origins=frozenset({2}),
    )  # fmt: skip
    locked = {"ingress": Enforcement.DEFAULT_DENY, "egress": Enforcement.DEFAULT_DENY}
    both = SubjectPolicy(**locked, contributions=frozenset({allow, deny}))
    one = SubjectPolicy(**locked, contributions=frozenset({allow}))
    empty: dict[int, LabelSet] = {}
    assert [entry.action for entry in finish(both, local_identities=empty, named_ports={}).values()] == [
        Action.DENY
    ]
    assert [entry.action for entry in finish(one, local_identities=empty, named_ports={}).values()] == [
        Action.ALLOW
    ]
