"""Metadata of objects, our own annotations, and the stored form."""

from __future__ import annotations

from typing import Any

import pytest

from services.policy.reading import cnp
from services.policy.reading.document import from_plain
from services.policy.reading.faults import Fault
from services.policy.reading.fields import Fields
from services.policy.reading.metadata import AUDIT
from services.policy.rules import PolicyKey
from tests.unit.services.policy.readings import CCNP, CNP, policy_of, read

SPEC: dict[str, Any] = {"endpointSelector": {}, "ingress": [{}]}


def with_metadata(head: dict[str, Any], **changed: Any) -> dict[str, Any]:
    return {**head, "metadata": {**head["metadata"], **changed}, "spec": SPEC}


def test_names_and_namespaces() -> None:
    """A namespaced object is in the default namespace unless it says; a cluster-wide one in none."""
    assert policy_of(with_metadata(CNP)).key == PolicyKey(cnp.KIND, "shop", "p")
    assert policy_of(with_metadata(CNP, namespace=None)).key == PolicyKey(cnp.KIND, "default", "p")
    assert policy_of(with_metadata(CCNP)).key == PolicyKey(cnp.CLUSTERWIDE_KIND, "", "p")
    assert policy_of(with_metadata(CCNP, namespace="")).key == PolicyKey(cnp.CLUSTERWIDE_KIND, "", "p")
    assert str(policy_of(with_metadata(CCNP)).key) == f"{cnp.CLUSTERWIDE_KIND}/p"


def test_labels_are_part_of_the_origin() -> None:
    """Sorted, as key=value."""
    policy = policy_of(with_metadata(CNP, labels={"b": "1", "a": ""}))
    assert policy.labels == ("a=", "b=1")
    assert policy.origin_of_path("spec.ingress[0]").labels == policy.labels


@pytest.mark.parametrize(
    ("annotations", "audit"),
    [
        ({}, False),
        ({"a": "b", "kubectl.kubernetes.io/last-applied-configuration": "{}"}, False),
        ({AUDIT: "true"}, True),
        ({AUDIT: "false"}, False),
        ({AUDIT: "true", "a": 5}, True),
    ],
)
@pytest.mark.parametrize("head", [CNP, CCNP])
def test_the_audit_annotation(annotations: dict[str, Any], audit: bool, head: dict[str, Any]) -> None:
    """Foreign annotations are neither read nor stored."""
    policy = policy_of(with_metadata(head, annotations=annotations))
    assert policy.audit is audit
    metadata = policy.document["metadata"]
    assert isinstance(metadata, dict)
    assert metadata.get("annotations") == ({AUDIT: "true"} if audit else None)


@pytest.mark.parametrize(
    ("changed", "path", "words"),
    [
        ({"annotations": {AUDIT: "yes"}}, f"metadata.annotations.{AUDIT}", "neither"),
        ({"annotations": {AUDIT: True}}, f"metadata.annotations.{AUDIT}", "neither"),
        ({"annotations": {AUDIT: None}}, f"metadata.annotations.{AUDIT}", "neither"),
        ({"annotations": {AUDIT: ""}}, f"metadata.annotations.{AUDIT}", "neither"),
        (
            {"annotations": {"policy.axoneme.io/audt": "true"}},
            "metadata.annotations.policy.axoneme.io/audt",
            "unknown annotation",
        ),
        ({"annotations": []}, "metadata.annotations", "expected a mapping"),
        ({"name": None}, "metadata", "no name"),
        ({"name": ""}, "metadata.name", "not a valid name"),
        ({"name": "P_"}, "metadata.name", "not a valid name"),
        ({"name": "a" * 254}, "metadata.name", "not a valid name"),
        ({"name": 5}, "metadata.name", "expected a text"),
        ({"namespace": "a.b"}, "metadata.namespace", "not a valid namespace"),
        ({"labels": ["a"]}, "metadata.labels", "expected a mapping"),
        ({"labels": {"a": 1}}, "metadata.labels.a", "expected a text"),
        ({"lables": {}}, "metadata.lables", "unknown key"),
    ],
)
def test_metadata_that_is_refused(changed: dict[str, Any], path: str, words: str) -> None:
    """One fault each."""
    policy, faults = read(with_metadata(CNP, **changed))
    assert policy is None
    assert [(fault.path, words in fault.reason) for fault in faults] == [(path, True)], faults


def test_objects_without_the_usual_parts() -> None:
    """Metadata, a rule, a namespace where none belongs, keys beside spec."""
    cases: list[tuple[dict[str, Any], str]] = [
        ({**CNP, "metadata": None, "spec": SPEC}, "no metadata"),
        (CNP, "no rule"),
        ({**CNP, "specs": []}, "no rule"),
        ({**CNP, "specs": SPEC}, "expected a list"),
        ({**CNP, "spec": []}, "expected a mapping"),
        ({**CNP, "spec": SPEC, "description": "x"}, "description beside spec"),
        ({**CNP, "spec": SPEC, "speccs": []}, "unknown key"),
        (with_metadata(CCNP, namespace="a"), "has no namespace"),
    ]
    for document, words in cases:
        policy, faults = read(document)
        assert policy is None
        assert any(words in fault.reason for fault in faults), (document, faults)


def test_what_a_server_adds_is_not_stored() -> None:
    """And the stored form reads as the same policy, also in another default namespace."""
    added = {
        "uid": "1",
        "resourceVersion": "2",
        "generation": 3,
        "creationTimestamp": "2024-01-01T00:00:00Z",
        "managedFields": [{"manager": "x"}],
    }
    document = {**with_metadata(CNP, labels={"a": "b"}, **added), "status": {"conditions": []}}
    policy = policy_of(document)
    assert policy.document == {**with_metadata(CNP, labels={"a": "b"})}
    faults: list[Fault] = []
    assert cnp.read_cilium(from_plain(policy.document), "other", Fields(faults)) == policy
    assert not faults
