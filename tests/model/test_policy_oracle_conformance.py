"""The oracle against every recorded verdict: what makes it trustworthy as a judge of the engine.

The expected verdicts come from an existing policy engine and an independent evaluator; none of this
repository's code takes part.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.model.oracle import Oracle

FOLDER = Path(__file__).parents[1] / "data" / "conformance"
SIDES = (("egress", "from", "to"), ("ingress", "to", "from"))


def recorded(name: str) -> list[dict[str, Any]]:
    """The cases of a file."""
    found: list[dict[str, Any]] = json.loads((FOLDER / name).read_text())["cases"]
    return found


def wrong_flows(case: dict[str, Any]) -> Iterator[str]:
    """Flows of a case about which the oracle is wrong."""
    oracle = Oracle(case)
    for flow in case["flows"]:
        for side, subject, peer in SIDES:
            answer = oracle.verdict(side, flow[subject], flow[peer], flow["proto"], flow["port"])
            matched = set(flow.get("matched", {}).get(side, []))
            auth = flow.get(f"auth_{side}", answer.auth)
            known = matched <= answer.matched and (not matched or matched & answer.strongest)
            if (answer.verdict, answer.auth) != (flow["expect"][side], auth) or not known:
                yield f"{case['id']} {side} {flow}: {answer}"


def test_every_recorded_flow() -> None:
    """403 sets with policies of all kinds: verdict, authentication and the policies behind both."""
    cases = recorded("cilium_policies.json")
    assert len(cases) == 403
    assert [wrong for case in cases for wrong in wrong_flows(case)] == []


def pods_of(case: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The pods of a reachability case in the order of its matrix, which is that of their texts."""
    ports = {
        f"serve-{port}-{proto.lower()}": {"proto": proto, "port": port}
        for port in (80, 81)
        for proto in ("TCP", "UDP", "SCTP")
    }
    pods = {
        f"{pod['namespace']}/{pod['name']}": {
            "kind": "pod",
            "namespace": pod["namespace"],
            "labels": pod["labels"],
            "ip": pod["ip"],
            "namespaceLabels": case["namespaces"][pod["namespace"]],
            "namedPorts": ports,
        }
        for pod in case["pods"]
    }
    return dict(sorted(pods.items()))


def wanted(case: dict[str, Any]) -> dict[str, dict[str, list[str]]]:
    """The matrix to compare with: an ipBlock selects no pods, and sections of types not listed are inert."""
    own: bool = "ipBlock" in case.get("difference", "")
    found: dict[str, dict[str, list[str]]] = case["expected_cilium" if own else "expected"]
    return found


def matrix(oracle: Oracle, names: list[str], side: str, proto: str, port: int) -> list[str]:
    """Rows of source pods by destination pods for one direction."""

    def cell(source: str, target: str) -> str:
        ends = (source, target) if side == "egress" else (target, source)
        return "1" if oracle.verdict(side, *ends, proto, port).verdict == "allow" else "0"

    return ["".join(cell(source, target) for target in names) for source in names]


def test_every_recorded_matrix() -> None:
    """203 sets of NetworkPolicies, every pod to every pod by six protocols and ports."""
    cases = recorded("k8s_networkpolicy.json")
    assert len(cases) == 203
    for case in cases:
        pods = pods_of(case)
        oracle = Oracle({"endpoints": pods, "policies": case["policies"]})
        for where, rows in wanted(case).items():
            proto, port = where.split("/")
            for side in ("ingress", "egress"):
                assert matrix(oracle, list(pods), side, proto, int(port)) == rows[side], (case["id"], where)


@pytest.mark.parametrize("unlisted", [False, True])
def test_sections_of_types_that_are_not_listed(unlisted: bool) -> None:
    """The one reading in which Cilium and the text of the API differ is a switch of the oracle."""
    differing = [
        case for case in recorded("k8s_networkpolicy.json") if "policyTypes" in case.get("difference", "")
    ]
    assert len(differing) == 3
    for case in differing:
        pods = pods_of(case)
        oracle = Oracle({"endpoints": pods, "policies": case["policies"]}, unlisted=unlisted)
        rows = case["expected_cilium" if unlisted else "expected"]["TCP/80"]["ingress"]
        assert matrix(oracle, list(pods), "ingress", "TCP", 80) == rows, case["id"]
