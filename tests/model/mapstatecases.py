"""Random subject policies, node-local identities and packets, for the tests of the policy algebra.

Whatever is drawn for IPv4 addresses outside the cluster can be drawn for IPv6 ones. Every part has an origin
of its own, so that two map entries are told apart by it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping

from hypothesis import strategies as st

from axoneme.lib.labels import Label, LabelSet
from axoneme.lib.policy.cidrlabels import cidr_label
from axoneme.lib.policy.groups import Group, GroupedContributions
from axoneme.lib.policy.model import (
    ANY_PORT,
    Action,
    AnyPeer,
    AuthMode,
    CidrDefinition,
    Direction,
    Enforcement,
    Entity,
    EntitySelector,
    FqdnDefinition,
    IdentityPeer,
    LabelsDefinition,
    NamedPort,
    NoPeer,
    Part,
    Peer,
    PortBlock,
    Redirect,
    SelectorDefinition,
    SelectorPeer,
    SubjectPolicy,
    one_port,
)
from axoneme.lib.policy.precedence import Tier, precedence
from axoneme.lib.selectors import LabelSelector, Operator, Requirement

LOCAL_BASE = 1 << 24
POD_NUMBERS = (1, 300, 301)
UNLISTED = 999
"""An identity that no rule names."""


def labels(*texts: str) -> LabelSet:
    """Labels of a node-local identity."""
    return LabelSet(tuple(sorted((Label.parse(text) for text in texts), key=lambda one: one.key)))


def _outside(version: int, *more: Label) -> LabelSet:
    world = Label("reserved", f"world-ipv{version}", "")
    return LabelSet(tuple(sorted((world, *more), key=lambda one: one.key)))


LOCAL: Mapping[int, LabelSet] = {
    9: _outside(4),
    10: _outside(6),
    LOCAL_BASE + 1: _outside(4, cidr_label("10.1.0.0/16")),
    LOCAL_BASE + 2: _outside(6, cidr_label("2001:db8:1::/48")),
    LOCAL_BASE + 3: _outside(4, cidr_label("10.0.0.0/8")),
    LOCAL_BASE + 4: _outside(6, cidr_label("2001:db8::/32")),
    LOCAL_BASE + 5: _outside(4, Label("fqdn", "example.com", "")),
    LOCAL_BASE + 6: _outside(6, Label("fqdn", "example.com", "")),
    (2 << 24) + 1: labels("reserved:remote-node", "node:zone=a", "cidr:10.9.0.1/32"),
}

SELECTORS: Mapping[str, SelectorDefinition] = {
    "world": EntitySelector(Entity.WORLD),
    "ten": CidrDefinition(include=("10.0.0.0/8",), exclude=("10.1.0.0/16",)),
    "ten-and-nodes": CidrDefinition(include=("10.0.0.0/8", "0.0.0.0/0"), nodes=True),
    "documentation": CidrDefinition(include=("2001:db8::/32",), exclude=("2001:db8:1::/48",)),
    "all-ipv6": CidrDefinition(include=("::/0",)),
    "name": FqdnDefinition("example.com"),
    "zone": LabelsDefinition((LabelSelector.of(Requirement("node", "zone", Operator.IN, ("a",))),)),
    "nobody": CidrDefinition(include=()),
}

NAMED_PORTS: Mapping[tuple[int, str], int] = {(6, "web"): 81, (17, "dns"): 53}

REDIRECTS = (
    Redirect("http", "", 101),
    Redirect("dns", "", 121),
    Redirect("crd", "one", 126),
    Redirect("crd", "two", 126),
)

_PORTS = (80, 81, 82, 53, 0, 65535, 32768)

blocks: st.SearchStrategy[PortBlock] = st.one_of(
    st.just(ANY_PORT),
    st.builds(PortBlock, st.sampled_from((6, 17)), st.just(0), st.just(0)),
    st.builds(one_port, st.sampled_from((6, 17, 1, 58)), st.sampled_from(_PORTS)),
    st.builds(
        lambda protocol, port, bits: PortBlock(protocol, port >> (16 - bits) << (16 - bits), bits),
        st.sampled_from((6, 6, 17)),
        st.sampled_from(_PORTS),
        st.sampled_from((1, 1, 9, 14, 15, 16)),
    ),
)
ports = st.one_of(
    blocks, st.builds(NamedPort, st.sampled_from((6, 17)), st.sampled_from(("web", "dns", "no")))
)
peers: st.SearchStrategy[Peer] = st.one_of(
    st.just(AnyPeer()),
    st.just(NoPeer()),
    st.builds(IdentityPeer, st.sampled_from(POD_NUMBERS)),
    st.builds(SelectorPeer, st.sampled_from(sorted(SELECTORS))),
)


@dataclasses.dataclass(frozen=True)
class Flavour:
    """Which features random parts use."""

    actions: tuple[Action, ...] = (Action.ALLOW, Action.DENY, Action.REDIRECT)
    redirects: tuple[Redirect, ...] = REDIRECTS[:3]
    tiers: tuple[Tier, ...] = (Tier.ADMIN, Tier.NORMAL, Tier.BASELINE)
    audit: bool = False
    auth: bool = False


PLAIN = Flavour()
FLAVOURS = (
    PLAIN,
    Flavour(tiers=(Tier.NORMAL,)),
    Flavour(redirects=REDIRECTS, tiers=(Tier.NORMAL,), actions=(Action.ALLOW, Action.REDIRECT)),
    Flavour(actions=(*PLAIN.actions, Action.PASS, Action.PASS)),
    Flavour(audit=True),
    Flavour(
        auth=True, tiers=(Tier.NORMAL,), actions=(Action.ALLOW, Action.ALLOW, Action.DENY, Action.REDIRECT)
    ),
    Flavour(actions=(*PLAIN.actions, Action.PASS), redirects=REDIRECTS, audit=True, auth=True),
)


@st.composite
def parts(draw: st.DrawFn, flavour: Flavour, origin: int) -> Part:
    """A part with the given origin."""
    action = draw(st.sampled_from(flavour.actions))
    redirect = draw(st.sampled_from(flavour.redirects)) if action is Action.REDIRECT else None
    auth = None
    if flavour.auth and action in (Action.ALLOW, Action.REDIRECT):
        auth = draw(st.sampled_from((None, None, *AuthMode)))
    word = precedence(
        tier=draw(st.sampled_from(flavour.tiers)),
        priority=draw(st.integers(0, 1)),
        action=action,
        redirect_priority=redirect.priority if redirect else 126,
    )
    return Part(
        direction=draw(st.sampled_from((Direction.INGRESS, Direction.INGRESS, Direction.EGRESS))),
        ports=draw(ports),
        action=action,
        redirect=redirect,
        precedence=word,
        origins=frozenset({origin}),
        audit=flavour.audit and draw(st.booleans()),
        auth=auth,
    )


@st.composite
def groups(draw: st.DrawFn, flavour: Flavour, origin: int) -> Group:
    """A group of one or two parts, numbered from `origin`."""
    made = tuple(draw(parts(flavour, origin + offset)) for offset in range(draw(st.integers(1, 2))))
    numbers = draw(st.frozensets(st.sampled_from(POD_NUMBERS), max_size=2))
    fixed = draw(st.frozensets(peers, max_size=2))
    apart = tuple(one for one in fixed if not (isinstance(one, IdentityPeer) and one.number in numbers))
    return Group(made, apart, numbers)


@st.composite
def policies(draw: st.DrawFn, max_groups: int = 7) -> SubjectPolicy:
    """A policy of one flavour, its contributions as groups or as a plain set."""
    flavour = draw(st.sampled_from(FLAVOURS))
    made = [draw(groups(flavour, 10 * index + 1)) for index in range(draw(st.integers(0, max_groups)))]
    return policy_of(draw, flavour, made)


def policy_of(draw: st.DrawFn, flavour: Flavour, made: Iterable[Group]) -> SubjectPolicy:
    """A policy of some groups with random defaults."""
    grouped = GroupedContributions(made)
    enforcement = [draw(st.sampled_from(Enforcement)) for _ in Direction]
    # Audited policies only ever add a lock.
    audited = [
        Enforcement.DEFAULT_DENY if flavour.audit and draw(st.booleans()) else None for _ in enforcement
    ]
    return SubjectPolicy(
        ingress=enforcement[0],
        egress=enforcement[1],
        audit_ingress=audited[0],
        audit_egress=audited[1],
        contributions=grouped if draw(st.booleans()) else frozenset(grouped),
        selectors=SELECTORS,
    )


def packets(policy: SubjectPolicy) -> list[tuple[int, int]]:
    """Protocols and ports such that every set of ports that blocks tell apart is met."""
    found = {(0, 0), (6, 7), (17, 7), (132, 7)}
    for protocol, first, after in _spans(policy):
        if protocol:
            for port in (first - 1, first, after - 1, after):
                if 0 <= port <= 0xFFFF:
                    found.add((protocol, port))
    return sorted(found)


def _spans(policy: SubjectPolicy) -> Iterator[tuple[int, int, int]]:
    for one in policy.contributions:
        block = one.ports
        if isinstance(block, NamedPort):
            number = NAMED_PORTS.get((block.protocol, block.name), 0)
            block = one_port(block.protocol, number)
        yield block.protocol, block.port, block.port + (1 << (16 - block.prefix_length))
