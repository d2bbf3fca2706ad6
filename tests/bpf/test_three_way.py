"""Oracle, compiled map and kernel must agree: random policies, each verdict asked three times, IPv4 and IPv6.

The oracle is brute force over whole policies (`tests/model/oracle.py`); the second test asks the same of bare
contributions, so that tiers, redirects, passes and audit meet more often than in policies.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from axoneme.lib.policy.finish import finish
from axoneme.lib.policy.judge import judge
from axoneme.lib.policy.model import (
    ANY_PORT,
    Action,
    AnyPeer,
    Contribution,
    Direction,
    Enforcement,
    IdentityPeer,
    PortBlock,
    Redirect,
    SubjectPolicy,
    one_port,
)
from axoneme.lib.policy.precedence import Tier, precedence
from services.policy.cases.testscene import sides_of
from tests.bpf import packets as p
from tests.bpf.harness import Datapath
from tests.bpf.questions import (
    WORLD_TWINS,
    Question,
    address_of,
    ask_kernel,
    decision_on,
    expected_of,
)
from tests.bpf.scenequestions import introduce, question_of
from tests.conftest import scaled
from tests.model.oracle import Oracle
from tests.model.policycases_random import random_cases
from tests.model.policycheck import ask, scene_of

pytestmark = [pytest.mark.root, pytest.mark.slow]

PORTS = (79, 80, 81, 443, 8080, 53, 1, 65535)
# Types with an id: without one, all packets of a type between two addresses are one connection.
ICMP_TYPES = {p.ICMP: (8, 8, 13, 0), p.ICMP6: (128, 128, 129)}
FLOWS_PER_POLICY = 200
STOPPED = ("deny", "redirect")


@pytest.mark.parametrize("block", range(4))
def test_policies(loaded_datapath: Datapath, block: int) -> None:
    """Policies of every kind; what the oracle says about a flow, the kernel does with its packet.

    `tests/model/test_policy_oracle.py` asks without a kernel, and shrinks what it finds.
    """
    for case in random_cases(40_000_000 + block * 100_000, scaled(12, 150), flows=60):
        check(loaded_datapath, case, random.Random(case["id"]))


def check(datapath: Datapath, case: dict[str, Any], rng: random.Random) -> None:
    """Load each subject's map in turn and send its packets."""
    scene, oracle = scene_of(case), Oracle(case)
    datapath.reset()
    introduce(datapath, scene)
    asked = [
        (sides_of(flow, side)[0], answer.verdict, question_of(scene, flow, side, rng.choice((4, 6))))
        for flow, plain in zip(scene.case.flows, case["flows"], strict=True)
        for side in Direction
        if (answer := ask(oracle, plain, side)).verdict != "none"
    ]
    for subject in sorted({subject for subject, _, _ in asked}):
        view = scene.view(subject)
        assert view is not None
        datapath.forget_connections()
        datapath.policy(view.entries)
        for _, verdict, question in (one for one in asked if one[0] == subject):
            if question.protocol in ICMP_TYPES and question.port not in ICMP_TYPES[question.protocol]:
                continue
            passed = ask_kernel(datapath, question, decision_on(view.entries, question))
            assert passed != verdict.startswith(STOPPED), (case["id"], subject, verdict, question)


def introduce_numbers(datapath: Datapath, peers: list[int]) -> None:
    """Addresses of all peers; the world through its wide prefixes."""
    datapath.identity("0.0.0.0/0", WORLD_TWINS[0])
    datapath.identity("::/0", WORLD_TWINS[1])
    for peer in set(peers) - set(WORLD_TWINS):
        datapath.identity(f"{address_of(peer, 4)}/32", peer)
        datapath.identity(f"{address_of(peer, 6)}/128", peer)


def questions(rng: random.Random, peers: list[int], count: int) -> Iterator[Question]:
    """Random packets with these peers."""
    for _ in range(count):
        v, peer = rng.choice((4, 6)), rng.choice(peers)
        if peer in WORLD_TWINS:
            v = 4 if peer == WORLD_TWINS[0] else 6
        protocol = rng.choice((p.TCP, p.TCP, p.UDP, p.SCTP, p.ICMP if v == 4 else p.ICMP6))
        port = rng.choice(ICMP_TYPES.get(protocol, PORTS))
        yield Question(rng.choice(list(Direction)), peer, protocol, port, v)


def random_block(rng: random.Random) -> PortBlock:
    """A block of ports, often a wide one."""
    protocol = rng.choice((0, p.TCP, p.UDP, p.SCTP, p.ICMP, p.ICMP6))
    if protocol == 0:
        return ANY_PORT
    if protocol in (p.ICMP, p.ICMP6):
        return one_port(protocol, rng.choice((8, 128, 13, 129, 0)))
    length = rng.choice((0, 0, 4, 9, 12, 15, 16, 16))
    return PortBlock(protocol, rng.choice(PORTS) >> (16 - length) << (16 - length), length)


def random_contribution(rng: random.Random, peers: list[int], origin: int) -> Contribution:
    """A contribution of any action and level."""
    action = rng.choice((Action.ALLOW, Action.ALLOW, Action.DENY, Action.REDIRECT, Action.PASS))
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
        audit=rng.random() < 0.1,
    )


@pytest.mark.parametrize("seed", range(scaled(25, 250)))
def test_contributions(datapath: Datapath, seed: int) -> None:
    """Bare contributions, judged packet by packet, in the map and in the kernel."""
    rng = random.Random(seed)
    peers = [1, *WORLD_TWINS, *rng.sample(range(256, 65536), 4), 3 << 16 | 777]
    introduce_numbers(datapath, peers)
    contributions = {random_contribution(rng, peers, i) for i in range(rng.randint(0, 25))}
    policy = SubjectPolicy(
        ingress=rng.choice(list(Enforcement)),
        egress=rng.choice(list(Enforcement)),
        audit_ingress=rng.choice((None, Enforcement.DEFAULT_DENY)),
        contributions=frozenset(contributions),
    )
    mapstate = finish(policy, local_identities={}, named_ports={})
    datapath.policy(mapstate)
    for one in questions(rng, peers, FLOWS_PER_POLICY):
        judged = judge(
            policy, one.direction, one.peer, one.protocol, one.port, local_identities={}, named_ports={}
        )
        wanted = judged.forwarded and judged.redirect is None
        decision = decision_on(mapstate, one)
        assert expected_of(decision) == wanted, one
        assert ask_kernel(datapath, one, decision) == wanted, one
