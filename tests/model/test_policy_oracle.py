"""Whole random cases: the brute-force oracle, the engine's finished maps and the judge of packets agree.

Cases have policies of every kind and all features, default and custom cluster names, one and two families.
What must not change a verdict (the family, the order of policies, prefixes named elsewhere) is checked too.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings

from axoneme.lib.policy.model import Direction
from tests.conftest import SOAK, scaled
from tests.model.oracle import Oracle
from tests.model.policycases import cases
from tests.model.policycases_random import random_case, random_cases
from tests.model.policycases_twins import twin_of
from tests.model.policycases_world import PREFIXES
from tests.model.policycheck import ask, disagreements, scene_of, text_of

BLOCKS = 6
CASES_PER_BLOCK = 100


@pytest.mark.parametrize("block", range(BLOCKS))
def test_random_cases(block: int) -> None:
    """Seeded, so that every run asks the same; soak asks more."""
    count = scaled(CASES_PER_BLOCK, 4_000)
    for case in random_cases(block * 100_000, count):
        assert list(disagreements(case)) == []


@settings(max_examples=scaled(60, 1_500), derandomize=not SOAK)
@given(case=cases(flows=12))
def test_shrunk_cases(case: dict[str, Any]) -> None:
    """The same under hypothesis, which shrinks what it finds."""
    assert list(disagreements(case)) == []


def verdicts(case: dict[str, Any]) -> list[str]:
    """The engine's verdicts about every flow of a case, both sides."""
    scene = scene_of(case)
    return [scene.verdict(flow, side).text for flow in scene.case.flows for side in Direction]


def seeded(first: int, count: int, *, only: int = 0) -> Iterator[dict[str, Any]]:
    """Random cases, with one family if asked for."""
    for seed in range(first, first + count):
        yield {"id": f"seed-{seed}", **random_case(random.Random(seed), flows=25, only=only)}


@pytest.mark.parametrize("block", range(2))
def test_ipv6_decides_as_ipv4_does(block: int) -> None:
    """Every verdict about IPv4 addresses holds for their IPv6 twins, in the engine and in the oracle."""
    for case in seeded(10_000_000 + block * 100_000, scaled(30, 2_000), only=4):
        other = twin_of(case)
        assert verdicts(case) == verdicts(other), case["id"]
        one, two = Oracle(case), Oracle(other)
        for flow, twin in zip(case["flows"], other["flows"], strict=True):
            for side in Direction:
                assert text_of(ask(one, flow, side)) == text_of(ask(two, twin, side)), (case["id"], flow)


def test_prefixes_named_elsewhere_change_no_verdict() -> None:
    """GHSA-3wwx-63fv-pfq6: a policy for others that names narrower prefixes changes identities only."""
    for case in seeded(20_000_000, scaled(30, 2_000)):
        families = [v for v in (4, 6) if case["config"].get(f"ipv{v}", True)]
        foreign = {
            "apiVersion": "cilium.io/v2",
            "kind": "CiliumNetworkPolicy",
            "metadata": {"name": "foreign", "namespace": "nowhere"},
            "spec": {
                "endpointSelector": {},
                "egress": [{"toCIDR": [prefix for v in families for prefix in PREFIXES[v]]}],
            },
        }
        pod = {"kind": "pod", "namespace": "nowhere", "labels": {}}
        before = {**case, "endpoints": {**case["endpoints"], "stranger": pod}}
        after = {**before, "policies": [*case["policies"], foreign]}
        assert verdicts(before) == verdicts(after), case["id"]


def test_the_order_of_policies_changes_no_verdict() -> None:
    """Policies are a set, whatever order they came in."""
    for case in seeded(30_000_000, scaled(30, 2_000)):
        backwards = {**case, "policies": case["policies"][::-1]}
        assert verdicts(case) == verdicts(backwards), case["id"]


def element(**more: Any) -> dict[str, Any]:
    """An element of toPorts about TCP 53, a port that both HTTP and DNS rules may name."""
    return {"toPorts": [{"ports": [{"port": "53", "protocol": "TCP"}], **more}]}


def listener(name: str, priority: int) -> dict[str, Any]:
    """A listener of a proxy."""
    return {"envoyConfig": {"kind": "CiliumEnvoyConfig", "name": "e"}, "name": name, "priority": priority}


HTTP = element(rules={"http": [{"method": "GET"}]})
DNS = element(rules={"dns": [{"matchPattern": "*"}]})
CONTRADICTIONS = {
    "two parsers": (HTTP, DNS, "error"),
    "two listeners": (element(listener=listener("a", 7)), element(listener=listener("b", 7)), "error"),
    "listeners of two priorities": (
        element(listener=listener("a", 7)),
        element(listener=listener("b", 9)),
        "redirect:crd",
    ),
    "two modes": (
        {**element(), "authentication": {"mode": "required"}},
        {**element(), "authentication": {"mode": "disabled"}},
        "error",
    ),
    "http and tls": (HTTP, element(serverNames=["a.example"]), "redirect:http"),
    "a parser and none": (HTTP, element(), "redirect:http"),
}


@pytest.mark.parametrize("settled", ["", "by a deny", "because one is only tried out"])
@pytest.mark.parametrize("what", CONTRADICTIONS)
def test_contradictions(what: str, settled: str) -> None:
    """R-48: rules that want different things for one group of peers and ports make no policy."""
    *entries, expected = CONTRADICTIONS[what]
    annotations = {"policy.axoneme.io/audit": "true"} if settled.startswith("because") else {}
    specs = [{"endpointSelector": {}, "egress": [one]} for one in entries]
    if settled == "by a deny":
        specs.append({"endpointSelector": {}, "egressDeny": [element()]})
    policies = [
        {
            "apiVersion": "cilium.io/v2",
            "kind": "CiliumNetworkPolicy",
            "metadata": {"name": f"p{i}", "namespace": "default", "annotations": annotations if i else {}},
            "spec": spec,
        }
        for i, spec in enumerate(specs)
    ]
    endpoints = {name: {"kind": "pod", "namespace": "default", "labels": {"app": name}} for name in "ab"}
    flow = {"from": "a", "to": "b", "proto": "TCP", "port": 53}
    case = {"config": {}, "endpoints": endpoints, "policies": policies, "flows": [flow]}
    assert list(disagreements(case)) == []
    if not settled:
        assert text_of(ask(Oracle(case), flow, Direction.EGRESS)) == expected
