"""Oracle, compiled map and kernel must agree: random policies, each verdict asked three times, IPv4 and IPv6.

The oracle is brute force over whole policies (`tests/model/oracle.py`); the second test asks the same of bare
contributions, so that precedence, redirects and audit are covered beyond what today's policies produce.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from axoneme.lib import identities
from axoneme.lib.policy.finish import finish
from axoneme.lib.policy.lookup import Decision, lookup
from axoneme.lib.policy.model import (
    ANY_PORT,
    Action,
    AnyPeer,
    Contribution,
    Direction,
    Enforcement,
    IdentityPeer,
    MapKey,
    PortBlock,
    Redirect,
    SubjectPolicy,
    one_port,
)
from axoneme.lib.policy.precedence import Tier, precedence
from services.policy.cnp import parse_policies
from services.policy.engine import resolve_all
from tests.bpf import packets as p
from tests.bpf.harness import POD, Datapath
from tests.conftest import SOAK, scaled
from tests.model import oracle
from tests.model.policycases import WORLD_TWINS, cluster_identities, policies, reserved_identities

pytestmark = [pytest.mark.root, pytest.mark.slow]

PORTS = (79, 80, 81, 443, 8080, 53, 1, 65535)
# Types with an id: without one, all packets of a type between two addresses are one connection.
ICMP_TYPES = {p.ICMP: (8, 8, 13, 0), p.ICMP6: (128, 128, 129)}
LOCAL = {number: identities.RESERVED[number][1] for number in WORLD_TWINS}
FLOWS_PER_POLICY = 200
DROP_OF = {None: 133, Action.DENY: 181, Action.REDIRECT: 180}


@dataclass(frozen=True)
class Question:
    """One packet to be judged."""

    direction: Direction
    peer: int
    protocol: int
    port: int
    v: int


def questions(rng: random.Random, peers: list[int], count: int) -> Iterator[Question]:
    for _ in range(count):
        v, peer = rng.choice((4, 6)), rng.choice(peers)
        if peer in WORLD_TWINS:
            v = 4 if peer == identities.WORLD_IPV4 else 6
        protocol = rng.choice((p.TCP, p.TCP, p.UDP, p.SCTP, p.ICMP if v == 4 else p.ICMP6))
        port = rng.choice(ICMP_TYPES.get(protocol, PORTS))
        yield Question(rng.choice(list(Direction)), peer, protocol, port, v)


def address_of(peer: int, v: int) -> str:
    if peer in WORLD_TWINS:
        return "198.51.100.7" if v == 4 else "2001:db8::7"
    if v == 4:
        return f"10.{50 + (peer >> 16)}.{peer >> 8 & 255}.{peer & 255}"
    return f"fd00:50::{peer >> 16:x}:{peer & 0xFFFF:x}"


def introduce(datapath: Datapath, peers: list[int]) -> None:
    """Addresses of all peers; the world through its wide prefixes."""
    datapath.identity("0.0.0.0/0", identities.WORLD_IPV4)
    datapath.identity("::/0", identities.WORLD_IPV6)
    for peer in set(peers) - set(WORLD_TWINS):
        datapath.identity(f"{address_of(peer, 4)}/32", peer)
        datapath.identity(f"{address_of(peer, 6)}/128", peer)


_ports = itertools.cycle(range(20_000, 60_000))  # no two questions share a connection


def frame_of(question: Question) -> bytes:
    pod, peer, ours = POD[question.v], address_of(question.peer, question.v), next(_ports)
    if question.protocol in (p.ICMP, p.ICMP6):
        body = p.icmp(question.port, ours)
    elif question.protocol == p.TCP:
        body = p.tcp(ours, question.port)
    elif question.protocol == p.UDP:
        body = p.udp(ours, question.port)
    else:
        body = p.sctp(ours, question.port)
    ends = (pod, peer) if question.direction is Direction.EGRESS else (peer, pod)
    return p.packet(*ends, question.protocol, body)


def ask_kernel(datapath: Datapath, question: Question, decision: Decision) -> bool:
    """The kernel's verdict; its drop reason and events must fit the map's decision."""
    frame = frame_of(question)
    egress = question.direction is Direction.EGRESS
    outcome = datapath.send(frame) if egress else datapath.receive(frame)
    verdict = outcome.event(5)
    peer = verdict["destination_identity"] if egress else verdict["source_identity"]
    assert int(peer) == question.peer
    if outcome.passed:
        assert outcome.types() == [5, 4]
        audited = decision.action is Action.DENY
        assert int(verdict["verdict"]) == (4 if audited else 1)
    else:
        assert outcome.types() == [5, 1]
        assert outcome.drop_reason == DROP_OF[decision.action]
    assert int(verdict["match_type"]) == match_type(decision.key)
    return outcome.passed


def match_type(key: MapKey | None) -> int:
    if key is None:
        return 0
    bits, specific = key.ports.specificity, key.identity != 0
    if bits == 0:
        return 1 if specific else 4
    if bits == 8:
        return 5 if specific else 6
    return 2 if specific else 3


def expected_of(decision: Decision) -> bool:
    # No redirect passes before there is a proxy to take it.
    return decision.forwarded and decision.action is not Action.REDIRECT


@settings(max_examples=scaled(25, 250), derandomize=not SOAK)
@given(objects=policies(), seed=st.integers(0, 2**32))
def test_policies(loaded_datapath: Datapath, objects: list[dict[str, Any]], seed: int) -> None:
    datapath, rng = loaded_datapath, random.Random(seed)
    datapath.reset()
    cluster_name = rng.choice(("default", "east"))
    pods = cluster_identities(cluster_name)
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    resolved = resolve_all(parse_policies(text), pods, cluster_name)
    peers = pods | reserved_identities()
    introduce(datapath, list(peers))
    parties = {number: oracle.Party.of(labels.texts()) for number, labels in peers.items()}
    for subject in rng.sample(list(pods), 2):
        mapstate = finish(resolved[subject], local_identities=LOCAL, named_ports={})
        datapath.forget_connections()
        datapath.policy(mapstate)
        for one in questions(rng, list(peers), FLOWS_PER_POLICY):
            name = one.direction.name.lower()
            flow = oracle.Flow(name, parties[subject], parties[one.peer], one.protocol, one.port)
            wanted = oracle.verdict(objects, flow, cluster_name=cluster_name) == "allow"
            decision = lookup(mapstate, one.direction, one.peer, one.protocol, one.port)
            assert decision.forwarded == wanted, one
            assert ask_kernel(datapath, one, decision) == wanted, one


def random_block(rng: random.Random) -> PortBlock:
    protocol = rng.choice((0, p.TCP, p.UDP, p.SCTP, p.ICMP, p.ICMP6))
    if protocol == 0:
        return ANY_PORT
    if protocol in (p.ICMP, p.ICMP6):
        return one_port(protocol, rng.choice((8, 128, 13, 129, 0)))
    length = rng.choice((0, 0, 4, 9, 12, 15, 16, 16))
    return PortBlock(protocol, rng.choice(PORTS) >> (16 - length) << (16 - length), length)


def random_contribution(rng: random.Random, peers: list[int], origin: int) -> Contribution:
    action = rng.choice((Action.ALLOW, Action.ALLOW, Action.DENY, Action.REDIRECT))
    redirect = Redirect("http", "", 101) if action is Action.REDIRECT else None
    word = precedence(
        tier=rng.choice((Tier.ADMIN, Tier.NORMAL, Tier.BASELINE)),
        priority=rng.choice((0, 0, 1, 65535)),
        action=action,
        redirect_priority=101,
    )
    return Contribution(
        direction=rng.choice(list(Direction)),
        peer=AnyPeer() if rng.random() < 0.3 else IdentityPeer(rng.choice(peers)),
        ports=random_block(rng),
        action=action,
        redirect=redirect,
        precedence=word,
        origins=frozenset({origin}),
        audit=action is Action.DENY and rng.random() < 0.2,
    )


def strongest(policy: SubjectPolicy, one: Question) -> tuple[Action | None, bool]:
    """Action and audit of the strongest contribution that matches, found by looking at each."""
    best = (-1, False)
    action: Action | None = None
    if policy.enforcement(one.direction) is Enforcement.DEFAULT_ALLOW:
        best, action = (0, True), Action.ALLOW
    for rule in policy.contributions:
        peers = isinstance(rule.peer, AnyPeer) or rule.peer == IdentityPeer(one.peer)
        ports = rule.ports
        assert isinstance(ports, PortBlock)
        if rule.direction is not one.direction or not peers:
            continue
        if ports.covers(one_port(one.protocol, one.port)) and (rule.precedence, not rule.audit) > best:
            best, action = (rule.precedence, not rule.audit), rule.action
    return action, not best[1] and action is Action.DENY


def by_hand(policy: SubjectPolicy, one: Question) -> bool:
    action, audit = strongest(policy, one)
    return action is Action.ALLOW or (action is Action.DENY and audit)


@pytest.mark.parametrize("seed", range(scaled(25, 250)))
def test_contributions(datapath: Datapath, seed: int) -> None:
    rng = random.Random(seed)
    peers = [1, *WORLD_TWINS, *rng.sample(range(256, 65536), 4), 3 << 16 | 777]
    introduce(datapath, peers)
    contributions = {random_contribution(rng, peers, i) for i in range(rng.randint(0, 25))}
    policy = SubjectPolicy(
        ingress=rng.choice(list(Enforcement)),
        egress=rng.choice(list(Enforcement)),
        contributions=frozenset(contributions),
    )
    mapstate = finish(policy, local_identities={}, named_ports={})
    datapath.policy(mapstate)
    for one in questions(rng, peers, FLOWS_PER_POLICY):
        wanted = by_hand(policy, one)
        decision = lookup(mapstate, one.direction, one.peer, one.protocol, one.port)
        assert expected_of(decision) == wanted, one
        assert ask_kernel(datapath, one, decision) == wanted, one
