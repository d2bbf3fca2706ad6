"""Selector cache and engine against their plain twins, whatever the order of arrival."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from axoneme.lib import identities
from axoneme.lib.labels import LabelSet, workload_labels
from axoneme.lib.policy.model import SubjectPolicy
from services.policy.cnp import parse_object, parse_policies
from services.policy.engine import PolicyEngine, resolve_all
from services.policy.rules import ParsedPolicy
from services.policy.selectorcache import BruteSelectorCache, SelectorCache
from services.policy.selectors import LabelSelector, Operator, Requirement, scope_peer, scope_subject
from services.policy.warnings import warnings_of
from tests.conftest import scaled
from tests.model.policycases import cluster_identities, policies

_requirements = st.builds(
    lambda source, key, operator, values: Requirement(
        source, key, operator, tuple(sorted(values)) if operator in (Operator.IN, Operator.NOT_IN) else ()
    ),
    st.sampled_from(["any", "k8s", "reserved"]),
    st.sampled_from(["app", "tier", "init", "io.kubernetes.pod.namespace"]),
    st.sampled_from(Operator),
    st.sets(st.sampled_from(["web", "db", "a", "b", "front", ""]), min_size=1, max_size=2),
)
_selectors = st.builds(
    lambda requirements: LabelSelector.of(*requirements), st.lists(_requirements, max_size=3)
)
_labels = st.builds(
    lambda app, tier, namespace: workload_labels(
        [f"app={app}", f"tier={tier}"], namespace=namespace, cluster="east"
    ),
    st.sampled_from(["web", "db"]),
    st.sampled_from(["front", "back"]),
    st.sampled_from(["a", "b"]),
)
_operations = st.lists(
    st.one_of(
        st.tuples(st.just("keep"), _selectors),
        st.tuples(st.just("drop"), st.integers(0, 20)),
        st.tuples(st.just("put"), st.integers(256, 260), _labels),
        st.tuples(st.just("remove"), st.integers(256, 260)),
    ),
    max_size=30,
)


@settings(max_examples=scaled(200, 5_000))
@given(_operations)
def test_the_cache_selects_as_a_look_at_everything_does(operations: list[tuple[Any, ...]]) -> None:
    """After each step every kept selector has the members of the brute-force twin."""
    cache, brute, kept = SelectorCache(), BruteSelectorCache(), []
    for kind, *rest in operations:
        if kind == "keep":
            cache.keep(rest[0])
            kept.append(rest[0])
        elif kind == "drop" and kept:
            cache.drop(kept.pop(rest[0] % len(kept)))
        elif kind == "put":
            before = {selector: brute.members(selector) for selector in kept}
            changed = cache.put(*rest)
            brute.put(*rest)
            assert changed == {one for one in before if before[one] != brute.members(one)}
        elif kind == "remove":
            before = {selector: brute.members(selector) for selector in kept}
            changed = cache.remove(rest[0])
            brute.remove(rest[0])
            assert changed == {one for one in before if before[one] != brute.members(one)}
        for selector in kept:
            assert cache.members(selector) == brute.members(selector)


@given(_selectors, _labels, st.sampled_from(["a", "b"]))
def test_no_subject_selector_leaves_its_namespace(
    selector: LabelSelector, labels: LabelSet, namespace: str
) -> None:
    """Also with negations and reserved keys: the scope is an AND."""
    if scope_subject(selector, namespace).matches(labels):
        label = labels.get("io.kubernetes.pod.namespace")
        assert label is not None
        assert label.value == namespace


@given(_selectors, _labels, st.sampled_from(["a", "b"]))
def test_a_peer_selector_that_names_no_namespace_stays_in_it(
    selector: LabelSelector, labels: LabelSet, namespace: str
) -> None:
    """Unless the user widens it, or asks for a reserved label."""
    if selector.mentions_namespace or selector.mentions_reserved:
        assert scope_peer(selector, namespace) == selector
    elif scope_peer(selector, namespace).matches(labels):
        label = labels.get("io.kubernetes.pod.namespace")
        assert label is not None
        assert label.value == namespace


def _apply_all(steps: list[Callable[[PolicyEngine], None]]) -> tuple[PolicyEngine, dict[int, SubjectPolicy]]:
    engine = PolicyEngine("east")
    sent: dict[int, SubjectPolicy] = {}
    for index, step in enumerate(steps):
        step(engine)
        drained = engine.drain(index)
        sent.update(drained.upserts)
        for number in drained.removals:
            del sent[number]
    return engine, sent


@settings(max_examples=scaled(40, 1_000))
@given(objects=policies(), other=policies(), seed=st.integers(0, 2**32))
def test_any_order_gives_what_a_fresh_start_gives(
    objects: list[dict[str, Any]], other: list[dict[str, Any]], seed: int
) -> None:
    """Random additions, replacements and removals, drained after each; the result equals resolving it all."""
    rng = random.Random(seed)
    pods = cluster_identities("east")
    final = {policy.key: policy for policy in map(parse_object, objects)}
    transient = [policy for policy in map(parse_object, other) if rng.random() < 0.7]
    labels = list(pods.values())

    def put(policy: ParsedPolicy) -> Callable[[PolicyEngine], None]:
        return lambda engine: engine.put_policy(policy)

    def remove(policy: ParsedPolicy) -> Callable[[PolicyEngine], None]:
        return lambda engine: engine.remove_policy(policy.key)

    def identity(number: int, labels: LabelSet) -> Callable[[PolicyEngine], None]:
        return lambda engine: engine.put_identity(number, labels)

    def without(number: int) -> Callable[[PolicyEngine], None]:
        return lambda engine: engine.remove_identity(number)

    early = [put(policy) for policy in transient]
    early += [identity(number, rng.choice(labels)) for number in [*pods, 5000] if rng.random() < 0.5]
    rng.shuffle(early)
    late = [put(policy) for policy in final.values()]
    late += [remove(policy) for policy in transient if policy.key not in final]
    late += [identity(number, one) for number, one in pods.items()]
    late += [without(5000)]
    rng.shuffle(late)
    engine, sent = _apply_all(early + late)
    expected = resolve_all(final.values(), pods, "east")
    assert sent == expected
    assert {number: engine.subject(number) for number in expected} == expected


def test_only_affected_subjects_change() -> None:
    """A new frontend touches the backend's policy and itself, nobody else."""
    engine = PolicyEngine("east")
    pods = {
        300: workload_labels(["app=backend"], namespace="default", cluster="east"),
        301: workload_labels(["app=other"], namespace="default", cluster="east"),
    }
    for number, labels in pods.items():
        engine.put_identity(number, labels)
    spec = {
        "endpointSelector": {"matchLabels": {"app": "backend"}},
        "ingress": [{"fromEndpoints": [{"matchLabels": {"app": "frontend"}}]}],
    }
    policy = _object("p", spec)
    warnings = warnings_of(policy, engine)
    engine.drain(1)
    assert warnings == []  # nothing was drained yet, so nothing can be newly locked
    assert "switches default deny on for ingress of 1 identity" in warnings_of(policy, engine)[0]
    engine.put_policy(policy)
    assert set(engine.drain(2).upserts) == {300}
    engine.put_identity(302, workload_labels(["app=frontend"], namespace="default", cluster="east"))
    assert engine.affected_subjects(302) == {300, 302}
    assert set(engine.drain(3).upserts) == {300, 302}
    engine.put_policy(policy)
    assert not engine.drain(4).upserts
    engine.remove_identity(302)
    drained = engine.drain(5)
    assert (set(drained.upserts), drained.removals) == ({300}, {302})
    engine.remove_policy(policy.key)
    assert set(engine.drain(6).upserts) == {300}


def _object(name: str, spec: dict[str, Any]) -> ParsedPolicy:
    metadata = {"name": name, "namespace": "default"}
    text = json.dumps(
        {"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": metadata, "spec": spec}
    )
    return parse_policies(text)[0]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"ingressDeny": [{"fromEntities": ["world"]}]}, "only denies"),
        ({"ingress": [{}]}, "spec.ingress[0] allows nothing: it names no peer"),
        ({"egress": [{"toEntities": ["all"], "toPorts": [{}]}]}, "its toPorts name no port"),
        ({"ingress": [{"fromEntities": ["all"]}]}, "selects no endpoint"),
    ],
)
def test_warnings(spec: dict[str, Any], words: str) -> None:
    """Traps are said, never refused."""
    policy = _object("p", {"endpointSelector": {}, **spec})
    assert any(words in text for text in warnings_of(policy, PolicyEngine("east")))


@pytest.mark.parametrize(
    ("key", "operator", "values", "matches"),
    [
        ("app", Operator.IN, ("web",), True),
        ("k8s:app", Operator.IN, ("web",), True),
        ("container:app", Operator.IN, ("web",), False),
        ("$app", Operator.EXISTS, (), False),
        ("app", Operator.NOT_IN, ("db",), True),
        ("app", Operator.NOT_IN, ("web",), False),
        ("tier", Operator.NOT_IN, ("x",), True),
        ("tier", Operator.IN, ("",), False),
        ("tier", Operator.EXISTS, (), False),
        ("tier", Operator.DOES_NOT_EXIST, (), True),
        ("container:app", Operator.DOES_NOT_EXIST, (), True),
    ],
)
def test_requirements(key: str, operator: Operator, values: tuple[str, ...], matches: bool) -> None:
    """NotIn is met without the key; a source must be the label's own unless it is any."""
    labels = workload_labels(["app=web"], namespace="a", cluster="east")
    assert Requirement.of(key, operator, values).matches(labels) is matches


def test_unmanaged_is_no_member_of_the_cluster() -> None:
    """An address whose identity is not known yet must not pass as part of the cluster."""
    engine = PolicyEngine("east")
    engine.put_identity(300, workload_labels(["app=x"], namespace="default", cluster="east"))
    engine.put_policy(_object("p", {"endpointSelector": {}, "ingress": [{"fromEntities": ["cluster"]}]}))
    policy = engine.drain(1).upserts[300]
    numbers = {getattr(one.peer, "number", None) for one in policy.contributions}
    assert identities.UNMANAGED not in numbers
    assert {identities.HOST, identities.KUBE_APISERVER, 300} <= numbers
