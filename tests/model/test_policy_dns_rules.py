"""DNS rules as the proxy applies them against what becomes of a request by brute force, for random policies.

For every flow that the finished map redirects to the DNS proxy, and every name: the highest level of the
rules that match server, protocol and port, by union, says what `Scene.outcome` says of a DNS request.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from axoneme.lib import dnsnames
from axoneme.lib.labels import LabelSet
from axoneme.lib.policy.dnsrules import DnsRule, DnsRules
from axoneme.lib.policy.model import AnyPeer, Direction, IdentityPeer, SelectorPeer
from axoneme.lib.policy.selection import selects
from axoneme.lib.policycodec.dnsrules import decode_rules, digest_of, encode_rules
from services.policy.cases.l7 import DnsRequest, Outcome
from services.policy.cases.testcase import Flow
from services.policy.cases.testscene import Scene
from services.policy.resolution import dnscompile
from tests.conftest import SOAK, scaled
from tests.model.dnscases import NAMES, dns_case
from tests.model.policycases_random import random_case
from tests.model.policycases_twins import twin_of
from tests.model.policycheck import scene_of

BLOCKS = 3


def judged(rules: DnsRules | None, server: int, labels: LabelSet | None, flow: Flow, name: str) -> bool:
    """Whether a query passes, by the words of the contract alone."""
    matching = [
        rule
        for rule in (rules.rules if rules is not None else ())
        if rule.covers(flow.protocol, flow.port) and _serves(rule, rules, server, labels)
    ]
    level = max((rule.level for rule in matching), default=0)
    return any(
        rule.every_name
        or any(dnsnames.matches(one.text, pattern=one.pattern, name=name) for one in rule.names)
        for rule in matching
        if rule.level == level
    )


def _serves(rule: DnsRule, rules: DnsRules | None, server: int, labels: LabelSet | None) -> bool:
    peer = rule.peer
    if isinstance(peer, SelectorPeer):
        assert rules is not None
        return labels is not None and selects(rules.selectors[peer.key], labels)
    return isinstance(peer, AnyPeer) or (isinstance(peer, IdentityPeer) and peer.number == server)


def answers(case: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    """What the proxy says of each name in each redirected flow; fails where the brute force says another."""
    scene = scene_of(case)
    for flow in scene.case.flows:
        view, verdict = scene.view(flow.source), scene.verdict(flow, Direction.EGRESS)
        if view is None:
            continue
        rules = scene.engine.dns_rules_of(view.policy)
        _check_rules(view.policy.dns_rules_digest, rules)
        if verdict.text != "redirect:dns":
            continue
        server = scene.numbers[flow.target]
        for name in NAMES:
            outcome = scene.outcome(flow, Direction.EGRESS, DnsRequest(name=name))
            passes = judged(rules, server, view.local_identities.get(server), flow, name)
            where = f"{case.get('id')}: {flow} {name!r}: {rules}"
            assert (outcome is Outcome.ALLOW) == passes, where
            yield f"{flow} {name}", passes


def _check_rules(digest: bytes, rules: DnsRules | None) -> None:
    """The policy names its rules by their digest, and they survive the wire."""
    assert digest == (b"" if rules is None else rules.digest)
    if rules is not None:
        assert rules.digest == digest_of(rules.rules)
        assert decode_rules(encode_rules("subject:300", rules)) == ("subject:300", rules)


@pytest.mark.parametrize("wide", [0, 256], ids=["every list is long", "lists are short"])
@pytest.mark.parametrize("block", range(BLOCKS))
def test_random_policies(block: int, wide: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Policies about DNS; whether servers are listed or summed up changes no verdict."""
    monkeypatch.setattr(dnscompile, "WIDE", wide)
    found = []
    for seed in range(block * 100_000, block * 100_000 + scaled(60, 2_000)):
        case = {"id": f"dns-{seed}", **dns_case(random.Random(seed), flows=12)}
        found += [passes for _, passes in answers(case)]
    assert found.count(True) > 100
    assert found.count(False) > 100


def test_policies_of_every_kind() -> None:
    """The same where DNS rules are a few among everything else."""
    found = []
    for seed in range(5_000_000, 5_000_000 + scaled(150, 5_000)):
        case = {"id": f"any-{seed}", **random_case(random.Random(seed))}
        names = list(case["endpoints"])
        pods = [name for name in names if case["endpoints"][name]["kind"] == "pod"]
        pairs = [(one, other, proto) for one in pods for other in names for proto in ("UDP", "TCP")]
        case["flows"] = [{"from": one, "to": two, "proto": proto, "port": 53} for one, two, proto in pairs]
        found += [passes for _, passes in answers(case)]
    assert found.count(True) > 100
    assert found.count(False) > 100


@settings(max_examples=scaled(60, 1_500), derandomize=not SOAK, deadline=None)
@given(st.integers(0, 2**32).map(lambda seed: dns_case(random.Random(seed), flows=8)))
def test_shrunk_cases(case: dict[str, Any]) -> None:
    """Under hypothesis."""
    list(answers(case))


def test_ipv6_decides_as_ipv4_does() -> None:
    """Every verdict about resolvers with IPv4 addresses holds for their IPv6 twins."""
    for seed in range(7_000_000, 7_000_000 + scaled(60, 1_500)):
        case = {"id": f"twin-{seed}", **dns_case(random.Random(seed), flows=12)}
        assert [passes for _, passes in answers(case)] == [passes for _, passes in answers(twin_of(case))]


def test_a_scene_without_dns_rules_has_none() -> None:
    """Only subjects with redirects to the proxy have rules."""
    case = dns_case(random.Random(1), flows=1)
    for policy in case["policies"]:
        policy["spec"]["egress"] = [{"toEntities": ["all"]}]
    scene: Scene = scene_of(case)
    assert not any(policy.dns_rules_digest for policy in scene.engine.resolved.values())


@pytest.mark.parametrize("family", [4, 6])
def test_a_node_may_be_a_server_by_its_address_and_by_its_entity(family: int) -> None:
    """What a prefix redirects on the node, an entity allows by number: both are about the same server."""
    case = dns_case(random.Random(1), flows=0)
    dns = {"ports": [{"port": "53", "protocol": "UDP"}], "rules": {"dns": [{"matchName": "example.com"}]}}
    egress = [{"toCIDR": ["10.1.0.0/16"], "toPorts": [dns]}, {"toEntities": ["remote-node"]}]
    case |= {
        "config": {"policyCIDRMatchMode": ["nodes"]},
        "flows": [{"from": "web", "to": "node", "proto": "UDP", "port": 53}],
        "policies": [
            {
                "apiVersion": "cilium.io/v2",
                "kind": "CiliumNetworkPolicy",
                "metadata": {"name": "nodes", "namespace": "default"},
                "spec": {"endpointSelector": {}, "egress": egress},
            }
        ],
    }
    found = list(answers(case if family == 4 else twin_of(case)))
    assert len(found) == len(NAMES)
    assert all(passes for _, passes in found)
