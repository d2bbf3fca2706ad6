"""Verdicts of an existing policy engine for concrete flows, for the cases that use supported fields only."""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path
from typing import Any

import pytest

from axoneme.lib import identities
from axoneme.lib.labels import LabelSet, workload_labels
from axoneme.lib.policy.finish import finish
from axoneme.lib.policy.lookup import lookup
from axoneme.lib.policy.model import Direction
from services.policy.cnp import parse_policies
from services.policy.engine import PolicyEngine
from tests.model import oracle

CASES = json.loads((Path(__file__).parents[1] / "data" / "cilium_policies_subset.json").read_text())["cases"]
PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132, "ICMP": 1, "ICMPV6": 58}
LOCAL = {n: identities.RESERVED[n][1] for n in (identities.WORLD_IPV4, identities.WORLD_IPV6)}


def _cluster_name(case: dict[str, Any]) -> str:
    return str(case["config"].get("clusterName", "default"))


def _numbers(case: dict[str, Any]) -> tuple[dict[str, int], dict[int, LabelSet]]:
    """Identity of each endpoint by name, and the labels of the pods'."""
    numbers: dict[str, int] = {}
    pods: dict[int, LabelSet] = {}
    for name, endpoint in case["endpoints"].items():
        kind = endpoint["kind"]
        if kind == "pod":
            numbers[name] = 1000 + len(pods)
            pods[numbers[name]] = workload_labels(
                [f"{key}={value}" for key, value in endpoint.get("labels", {}).items()],
                namespace=endpoint["namespace"],
                cluster=endpoint.get("cluster", _cluster_name(case)),
                service_account=endpoint.get("serviceAccount", "default"),
                namespace_labels=endpoint.get("namespaceLabels", {}),
            )
        elif kind == "world":
            six = ipaddress.ip_address(endpoint["ip"]).version == 6
            numbers[name] = identities.WORLD_IPV6 if six else identities.WORLD_IPV4
        else:
            numbers[name] = identities.RESERVED_NUMBER_BY_NAME[kind]
    return numbers, pods


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_verdicts(case: dict[str, Any]) -> None:
    """The engine's map and the brute-force oracle both give the recorded verdict of each side."""
    cluster_name = _cluster_name(case)
    numbers, pods = _numbers(case)
    engine = PolicyEngine(cluster_name)
    for number, labels in pods.items():
        engine.put_identity(number, labels)
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": case["policies"]})
    for policy in parse_policies(text):
        engine.put_policy(policy)
    engine.drain(1)
    every = pods | {number: labels for number, (_, labels) in identities.RESERVED.items()}
    parties = {name: oracle.Party.of(every[number].texts()) for name, number in numbers.items()}
    for flow in case["flows"]:
        protocol = PROTOCOLS[flow["proto"]]
        for direction in Direction:
            side = direction.name.lower()
            expected = flow["expect"].get(side, "none")
            if expected == "none":
                continue
            subject, peer = (flow["to"], flow["from"]) if side == "ingress" else (flow["from"], flow["to"])
            policy = engine.subject(numbers[subject])
            assert policy is not None
            mapstate = finish(policy, local_identities=LOCAL, named_ports={})
            decision = lookup(mapstate, direction, numbers[peer], protocol, flow["port"])
            assert decision.forwarded == (expected == "allow"), (flow, side, decision)
            question = oracle.Flow(side, parties[subject], parties[peer], protocol, flow["port"])
            assert oracle.verdict(case["policies"], question, cluster_name=cluster_name) == expected
