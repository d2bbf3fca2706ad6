"""Checking policy files without a cluster: faults with their lines, traps, references and conflicts."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axoneme.lib.selectors import LabelSelector, Operator, Requirement
from services.policy.cases.places import Places
from services.policy.cases.validate import Finding, Text, findings_json, validate
from services.policy.cases.witness import witness

HEAD = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: p}\n"


def found(*texts: str) -> list[tuple[str, int, bool, str]]:
    """File, line, severity and path of every finding."""
    named = [Text(f"f{number}.yaml", text) for number, text in enumerate(texts)]
    return [(one.file, one.line, one.error, one.path) for one in validate(named)]


def reasons(*texts: str) -> list[str]:
    """What every finding says."""
    named = [Text(f"f{number}.yaml", text) for number, text in enumerate(texts)]
    return [one.reason for one in validate(named)]


def test_every_fault_has_line_path_reason_and_fix() -> None:
    """All faults of a file at once; a bad file does not hide another's."""
    bad = f'{HEAD}spec:\n  endpointSelector: {{}}\n  ingres: []\n  egress: [{{toCIDR: ["1.2.3"]}}]\n'
    good = f"{HEAD}spec:\n  endpointSelector: {{}}\n  ingressDeny: [{{fromEntities: [world]}}]\n"
    one, two, *rest = validate([Text("bad.yaml", bad), Text("good.yaml", good)])
    assert (one.file, one.line, one.error, one.path) == ("bad.yaml", 6, True, "spec.ingres")
    assert "did you mean ingress?" in one.fix
    assert (two.line, two.path) == (7, "spec.egress[0].toCIDR[0]")
    assert {finding.file for finding in rest} == {"good.yaml"}
    assert str(one).startswith("bad.yaml:6: error: spec.ingres: unknown key 'ingres'; ")


@pytest.mark.parametrize(
    ("section", "line", "words"),
    [
        ("ingress: [{fromEndpoints: []}]", 6, "allows nothing: it names no peer"),
        ("ingressDeny: [{fromEntities: []}]", 6, "denies nothing: it names no peer"),
        ("ingress: [{toPorts: [{ports: []}]}]", 6, "allows nothing: its toPorts name no port"),
        ("ingress: [{fromEntities: [remote-node]}]", 6, "NodePort"),
        ("ingress: [{fromEntities: [cluster]}]", 6, "NodePort"),
    ],
)
def test_traps(section: str, line: int, words: str) -> None:
    """What is accepted and does not do what one would think, at the entry itself."""
    findings = validate([Text("f", f"{HEAD}spec:\n  endpointSelector: {{}}\n  {section}\n")])
    assert [one.line for one in findings if words in one.reason] == [line]
    assert not any(one.error for one in findings)


def test_a_policy_that_only_denies_locks_the_direction() -> None:
    """cilium#20914: default deny as a side effect."""
    text = f"{HEAD}spec:\n  endpointSelector: {{}}\n  egressDeny: [{{toEntities: [world]}}]\n"
    assert any("only denies, but locks egress" in one for one in reasons(text))


def test_groups_that_are_not_in_the_files() -> None:
    """A reference counts as resolved when any of the files holds the group."""
    policy = (
        f"{HEAD}spec:\n  endpointSelector: {{}}\n  egress:\n"
        "    - toCIDRSet: [{cidrGroupRef: partners}]\n"
        "      toPorts: [{ports: [{port: '443', protocol: TCP}]}]\n"
    )
    group = "apiVersion: cilium.io/v2\nkind: CiliumCIDRGroup\nmetadata: {name: partners}\n"
    group += 'spec: {externalCIDRs: ["2001:db8::/32", 192.0.2.0/24]}\n'
    assert found(policy) == [("f0.yaml", 7, False, "spec.egress[0]")]
    assert found(policy, group) == []
    assert found(f"{policy}---\n{group}") == []


def test_the_same_object_twice() -> None:
    """In two files it is a surprise, not a fault."""
    text = f"{HEAD}spec:\n  endpointSelector: {{}}\n  ingress: [{{fromEntities: [world]}}]\n"
    assert found(text, text) == [("f1.yaml", 1, False, "")]
    assert "is also in f0.yaml:1" in reasons(text, text)[0]


def redirecting(name: str, selector: str, rules: str, namespace: str = "default") -> str:
    """A policy with L7 rules on port 80."""
    return (
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\n"
        f"metadata: {{name: {name}, namespace: {namespace}}}\n"
        f"spec:\n  endpointSelector: {selector}\n  ingress:\n    - toPorts:\n"
        f"        - {{ports: [{{port: '80', protocol: TCP}}], {rules}}}\n"
    )


HTTP, KAFKA = "rules: {http: [{}]}", "rules: {kafka: [{topic: t}]}"


def conflicts(*texts: str) -> list[Finding]:
    """The errors of files."""
    return [one for one in validate(Text(str(n), text) for n, text in enumerate(texts)) if one.error]


def test_r48_conflicts_name_both_rules() -> None:
    """Two rules that ask for different parsers of the same connections of one pod."""
    one, *more = conflicts(
        redirecting("a", "{matchLabels: {app: x}}", HTTP), redirecting("b", "{matchLabels: {tier: y}}", KAFKA)
    )
    assert not more
    assert (one.file, one.line, one.path) == ("1", 7, "spec.ingress[0]")
    assert "default/a" in one.reason
    assert "default/b" in one.reason


@pytest.mark.parametrize(
    ("selector", "namespace", "rules"),
    [
        ("{matchLabels: {app: y}}", "default", KAFKA),
        ("{matchExpressions: [{key: app, operator: NotIn, values: [x]}]}", "default", KAFKA),
        ("{matchExpressions: [{key: app, operator: DoesNotExist}]}", "default", KAFKA),
        ("{}", "other", KAFKA),
        ("{}", "default", HTTP),
    ],
)
def test_r48_no_conflict_without_a_common_pod(selector: str, namespace: str, rules: str) -> None:
    """Subjects that exclude each other, and rules that merge, are fine."""
    first = redirecting("a", "{matchLabels: {app: x}}", HTTP)
    assert conflicts(first, redirecting("b", selector, rules, namespace)) == []


def test_places_in_lists_and_documents() -> None:
    """A line for each object and path, whatever the objects are wrapped in."""
    text = f"kind: List\napiVersion: v1\nitems:\n- kind: A\n  spec:\n    ingress:\n    - {{}}\n---\n{HEAD}"
    places = Places(text)
    assert [
        places.line(0),
        places.line(0, "items[0].spec.ingress[0]"),
        places.line(0, "spec.ingress[0]"),
    ] == [4, 7, 7]
    assert [places.line(1), places.line(1, "spec.nothing"), places.line(7)] == [9, 9, 1]
    assert Places(json.dumps({"kind": "A", "spec": {"x": 1}})).line(0, "spec.x") == 1


def test_json_form() -> None:
    """For programs: counts and one record a finding."""
    answer: Any = findings_json(validate([Text("f", "kind: Nonsense\n")]))
    assert (answer["errors"], answer["warnings"]) == (1, 0)
    assert answer["findings"][0]["severity"] == "error"


_requirements = st.builds(
    Requirement.of,
    st.sampled_from(["app", "k8s:tier", "any:app", "reserved:host", "io.kubernetes.pod.namespace"]),
    st.sampled_from(list(Operator)),
    st.lists(st.sampled_from(["a", "b", "any-value"]), min_size=1, max_size=2).map(tuple),
)


@given(st.lists(st.lists(_requirements, max_size=3).map(lambda some: LabelSelector.of(*some)), max_size=3))
def test_a_witness_meets_all_selectors(selectors: list[LabelSelector]) -> None:
    """What is found is always right."""
    labels = witness(selectors)
    assert labels is None or all(selector.matches(labels) for selector in selectors)
