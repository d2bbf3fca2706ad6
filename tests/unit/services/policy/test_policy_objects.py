"""Objects of every kind out of texts: dispatch, lists, duplicates, bounds; every fault of every object."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import yaml

from services.policy.inputs import CidrGroup, CloudGroup
from services.policy.reading.document import Json
from services.policy.reading.faults import Fault, InvalidPolicy
from services.policy.reading.objects import CLUSTER_WIDE, KINDS, MAX_OBJECTS, parse_object, parse_objects
from services.policy.rules import ParsedPolicy, PolicyKey

CILIUM_SPEC: dict[str, Json] = {"endpointSelector": {}, "ingress": [{"fromEndpoints": [{}]}]}
TIERED_SPEC: dict[str, Json] = {"subject": {"namespaces": {}}}
VERSION_AND_SPEC: dict[str, tuple[str, dict[str, Json]]] = {
    "CiliumNetworkPolicy": ("cilium.io/v2", CILIUM_SPEC),
    "CiliumClusterwideNetworkPolicy": ("cilium.io/v2", CILIUM_SPEC),
    "NetworkPolicy": ("networking.k8s.io/v1", {"podSelector": {}}),
    "ClusterNetworkPolicy": (
        "policy.networking.k8s.io/v1alpha2",
        {"tier": "Admin", "priority": 1, **TIERED_SPEC},
    ),
    "AdminNetworkPolicy": ("policy.networking.k8s.io/v1alpha1", {"priority": 1, **TIERED_SPEC}),
    "BaselineAdminNetworkPolicy": ("policy.networking.k8s.io/v1alpha1", TIERED_SPEC),
    "CiliumCIDRGroup": ("cilium.io/v2", {"externalCIDRs": ["10.0.0.0/8", "2001:db8::/32"]}),
    "CloudGroup": ("axoneme.io/v1", {"reference": {"aws": {"region": "x"}}, "cidrs": ["2001:db8::/32"]}),
}


def written(kind: str, name: str = "default", **more: Json) -> dict[str, Json]:
    """An object of a kind."""
    version, spec = VERSION_AND_SPEC[kind]
    whole: dict[str, Json] = {"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": spec}
    # A copy each time: YAML writes anchors for what stands in a text twice.
    return copy.deepcopy(whole | more)


def faults_of(text: str) -> list[Fault]:
    """The faults of a text."""
    with pytest.raises(InvalidPolicy) as caught:
        parse_objects(text)
    return list(caught.value.faults)


def test_the_table_is_complete() -> None:
    """Each kind that is read is tested here."""
    assert VERSION_AND_SPEC.keys() == KINDS
    assert {"CiliumNetworkPolicy", "NetworkPolicy"} == KINDS - CLUSTER_WIDE


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_each_kind_survives_storage(kind: str) -> None:
    """Text, parsed, stored as JSON, parsed: the same object, under the key of its kind."""
    (parsed,) = parse_objects(yaml.safe_dump(written(kind)), "shop")
    assert parsed.key == PolicyKey(kind, "" if kind in CLUSTER_WIDE else "shop", "default")
    assert parse_object(json.loads(json.dumps(parsed.document))) == parsed
    assert "status" not in parsed.document


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("typed", [True, False], ids=["typed", "untyped"])
def test_lists_of_a_kind(kind: str, typed: bool) -> None:
    """An API server leaves kind and apiVersion out of the items of such a list."""
    item = written(kind)
    if not typed:
        item = {key: value for key, value in item.items() if key not in ("kind", "apiVersion")}
    version = VERSION_AND_SPEC[kind][0]
    listed = {
        "apiVersion": version,
        "kind": f"{kind}List",
        "metadata": {"resourceVersion": ""},
        "items": [item],
    }
    assert parse_objects(json.dumps(listed)) == [parse_object(written(kind))]


def test_documents_and_lists_keep_the_order_of_the_text() -> None:
    """All kinds at once, some in a list; empty documents count for nothing."""
    kinds = sorted(KINDS)
    listed = {"apiVersion": "v1", "kind": "List", "items": [written(kind) for kind in kinds[2:]]}
    text = yaml.safe_dump_all([written(kinds[0]), None, listed, written(kinds[1])])
    parsed = parse_objects(text)
    assert [one.key.kind for one in parsed] == [kinds[0], *kinds[2:], kinds[1]]
    assert {type(one) for one in parsed} == {ParsedPolicy, CidrGroup, CloudGroup}


def test_one_name_in_two_namespaces_or_kinds_is_two_objects() -> None:
    """Only kind, namespace and name together must be unique."""
    objects = [
        written("NetworkPolicy", metadata={"name": "a", "namespace": "x"}),
        written("NetworkPolicy", metadata={"name": "a", "namespace": "y"}),
        written("CiliumNetworkPolicy", metadata={"name": "a", "namespace": "x"}),
    ]
    assert len(parse_objects(yaml.safe_dump_all(objects))) == 3


def test_duplicates_are_named_with_the_first_one() -> None:
    """Also between a document and a list, and by the default namespace."""
    first = written("NetworkPolicy", metadata={"name": "a", "namespace": "default"})
    listed = {"apiVersion": "v1", "kind": "List", "items": [written("NetworkPolicy", "a")]}
    text = "\n---\n".join(map(json.dumps, [first, listed]))
    ((document, line, path, reason, fix),) = faults_of(text)
    assert (document, line, path, fix) == (1, 3, "items[0]", "keep one of them")
    assert reason == "NetworkPolicy/default/a appears twice (first in document 1, line 1)"


@pytest.mark.parametrize("listed", [True, False])
def test_too_many_objects(listed: bool) -> None:
    """The first one too many is named; as many as allowed pass."""
    objects = [written("NetworkPolicy", f"p{i}") for i in range(MAX_OBJECTS + 1)]

    def text(some: list[dict[str, Json]]) -> str:
        if listed:
            return json.dumps({"apiVersion": "v1", "kind": "List", "items": some})
        return "\n---\n".join(map(json.dumps, some))

    assert len(parse_objects(text(objects[:-1]))) == MAX_OBJECTS
    ((_, _, _, reason, fix),) = faults_of(text(objects))
    # Documents have their own bound, which is met first.
    assert reason.startswith("101 objects" if listed else "more than 100 documents")
    assert fix == "apply them in several steps"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", (0, 1, "", "the text holds no policy", "write at least one object")),
        ("---\n---\n", (0, 1, "", "the text holds no policy", "write at least one object")),
        (
            "apiVersion: v1\nkind: List\nitems: []\n",
            (0, 1, "", "the text holds no policy", "write at least one object"),
        ),
        ("- 1\n", (0, 1, "", "expected an object, found a list", "start with apiVersion, kind and metadata")),
        ("kind: NetworkPolicy\n", (0, 1, "", "the object has no apiVersion for kind NetworkPolicy",
                                   "write apiVersion: networking.k8s.io/v1")),
        ("apiVersion: v1\nkind: NetworkPolicy\n",
         (0, 1, "apiVersion", "apiVersion 'v1' is not accepted for kind NetworkPolicy",
          "write apiVersion: networking.k8s.io/v1")),
        ("apiVersion: policy.networking.k8s.io/v1beta1\nkind: ClusterNetworkPolicy\n",
         (0, 1, "apiVersion",
          "apiVersion 'policy.networking.k8s.io/v1beta1' is not accepted for kind ClusterNetworkPolicy",
          "write apiVersion: policy.networking.k8s.io/v1alpha2")),
        ("apiVersion: v1\nkind: NetworkPolicyList\nitems: []\n",
         (0, 1, "apiVersion", "apiVersion 'v1' is not accepted for kind NetworkPolicyList",
          "write apiVersion: networking.k8s.io/v1")),
        ("apiVersion: v2\nkind: List\nitems: []\n",
         (0, 1, "apiVersion", "apiVersion 'v2' is not accepted for kind List", "write apiVersion: v1")),
        ("apiVersion: cilium.io/v2\n\nkind: CiliumNetworkPolcy\n",
         (0, 3, "kind", "kind 'CiliumNetworkPolcy' is not a policy", "did you mean CiliumNetworkPolicy?")),
        ("kind: CiliumLocalRedirectPolicy\n",
         (0, 1, "kind", "kind CiliumLocalRedirectPolicy is not supported",
          "it redirects services and is not understood yet; remove it")),
        ("apiVersion: v1\nkind: List\nitems:\n- kind: NetworkPolicyList\n",
         (0, 4, "items[0].kind", "a list inside a list", "write its items into the outer one")),
        ("apiVersion: v1\nkind: List\nitems:\n- null\n", (0, 4, "items[0]", "a list element is null",
          "remove it, or write {} for an empty one")),
        ("apiVersion: v1\nkind: List\nitems:\n- 7\n",
         (0, 4, "items[0]", "expected an object, found a number",
          "start with apiVersion, kind and metadata")),
    ],
)  # fmt: skip
def test_refusals(text: str, fault: tuple[int, int, str, str, str]) -> None:
    """Document, line, path, reason and fix of what is no object."""
    assert faults_of(text) == [Fault(*fault)]


@pytest.mark.parametrize("kind", ["", "7", "Pod", "PodList"])
def test_other_kinds_are_told_what_there_is(kind: str) -> None:
    """The answer lists the kinds."""
    ((_, _, _, _, fix),) = faults_of(f"apiVersion: v1\nkind: {kind}\n")
    assert all(name in fix for name in KINDS)


def test_every_fault_of_every_object_is_reported() -> None:
    """A good object between bad ones is not stored either; each fault has its document, line and path."""
    text = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: A}
spec: {podSelectors: {}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: good}
spec: {podSelector: {}}
---
apiVersion: v1
kind: List
items:
- kind: Secret
- apiVersion: cilium.io/v2
  kind: CiliumCIDRGroup
  metadata: {name: g}
  spec:
    externalCIDRs:
    - 10.0.0.0/8
    - 10.0.0.1
"""
    assert [fault[:3] for fault in faults_of(text)] == [
        (0, 3, "metadata.name"),
        (0, 4, "spec.podSelectors"),
        (2, 14, "items[0].kind"),
        (2, 21, "items[1].spec.externalCIDRs[1]"),
    ]


@pytest.mark.parametrize(
    "document", [{}, [], None, "x", 7, {"kind": "List", "apiVersion": "v1", "items": []}]
)
def test_stored_nonsense_is_invalid(document: Any) -> None:
    """Never another exception."""
    with pytest.raises(InvalidPolicy):
        parse_object(document)


def test_a_stored_list_is_no_object() -> None:
    """Two objects do not fit under one key."""
    items: list[Json] = [written("NetworkPolicy", "a"), written("NetworkPolicy", "b")]
    with pytest.raises(InvalidPolicy, match="2 objects instead of one"):
        parse_object({"apiVersion": "v1", "kind": "List", "items": items})
