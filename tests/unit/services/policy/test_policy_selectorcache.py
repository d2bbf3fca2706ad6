"""Selector cache against its plain twin, and how selectors are scoped."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from axoneme.lib.labels import Label, LabelSet, workload_labels
from axoneme.lib.selectors import LabelSelector, Operator, Requirement
from services.policy.resolution.selectorcache import BruteSelectorCache, SelectorCache
from services.policy.scope import mentions_namespace, mentions_reserved, scope_peer, scope_subject
from tests.conftest import scaled

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
        st.tuples(st.just("copy")),
    ),
    max_size=30,
)


@settings(max_examples=scaled(200, 5_000))
@given(_operations)
def test_the_cache_selects_as_a_look_at_everything_does(operations: list[tuple[Any, ...]]) -> None:
    """After each step every kept selector has the members of the brute-force twin."""
    cache: SelectorCache[int] = SelectorCache()
    brute: BruteSelectorCache[int] = BruteSelectorCache()
    kept: list[tuple[int, LabelSelector]] = []
    for kind, *rest in operations:
        before = {number: brute.members(selector) for number, selector in kept}
        changed = set()
        if kind == "keep":
            kept.append((cache.keep(rest[0]), rest[0]))
        elif kind == "drop" and kept:
            cache.drop(kept.pop(rest[0] % len(kept))[0])
        elif kind == "put":
            changed = cache.put(*rest)
            brute.put(*rest)
        elif kind == "remove":
            changed = cache.remove(rest[0])
            brute.remove(rest[0])
        elif kind == "copy":
            cache = cache.copy()
        for number, selector in kept:
            assert cache.number_of(selector) == number
            assert cache.members(number) == cache.view(number) == brute.members(selector)
            assert (number in changed) == (
                before.get(number, brute.members(selector)) != cache.members(number)
            )


def test_a_copy_goes_its_own_way() -> None:
    """What happens to one cache does not show in the other."""
    cache: SelectorCache[int] = SelectorCache()
    selector = LabelSelector((Requirement("any", "app", Operator.EXISTS),))
    number = cache.keep(selector)
    twin = cache.copy()
    twin.put(300, workload_labels(["app=x"], namespace="a", cluster="east"))
    assert (cache.members(number), twin.members(number)) == (frozenset(), frozenset({300}))
    cache.drop(number)
    assert twin.number_of(selector) == number
    assert cache.number_of(selector) is None


@given(_selectors, _labels, st.sampled_from(["a", "b"]))
def test_no_subject_selector_leaves_its_namespace(
    selector: LabelSelector, labels: LabelSet, namespace: str
) -> None:
    """RC-SCOPE (CVE-2023-41333): also with negations and reserved keys, the scope is an AND."""
    if scope_subject(selector, namespace).matches(labels):
        label = labels.get("io.kubernetes.pod.namespace")
        assert label is not None
        assert label.value == namespace


@given(_selectors, _labels, st.sampled_from(["a", "b"]))
def test_a_peer_selector_that_names_no_namespace_stays_in_it(
    selector: LabelSelector, labels: LabelSet, namespace: str
) -> None:
    """Unless the user widens it, or asks for a reserved label."""
    if mentions_namespace(selector) or mentions_reserved(selector):
        assert scope_peer(selector, namespace) == selector
    elif scope_peer(selector, namespace).matches(labels):
        label = labels.get("io.kubernetes.pod.namespace")
        assert label is not None
        assert label.value == namespace


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


def test_a_key_under_two_sources_counts_under_both() -> None:
    """A node may have a label that is called like its reserved one."""
    labels = LabelSet((Label("node", "host", "db"), Label("reserved", "host", "")))
    by_node = LabelSelector.of(Requirement("node", "host", Operator.IN, ("db",)))
    reserved = LabelSelector.of(Requirement("reserved", "host", Operator.EXISTS))
    neither = LabelSelector.of(Requirement("any", "host", Operator.NOT_IN, ("db",)))
    cache: SelectorCache[str] = SelectorCache()
    kept = [cache.keep(selector) for selector in (by_node, reserved, neither)]
    cache.put("n1", labels)
    assert [bool(cache.members(one)) for one in kept] == [True, True, False]
    assert [one.matches(labels) for one in (by_node, reserved, neither)] == [True, True, False]
