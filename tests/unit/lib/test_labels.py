"""Labels, label sets and reserved numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axoneme.lib import identities
from axoneme.lib.labels import InvalidLabels, Label, LabelSet, security_relevant, workload_labels

TEXT = st.text(alphabet="abcXYZ019./-_:= ", min_size=1, max_size=12)
LABELS = st.builds(
    Label,
    st.sampled_from(["k8s", "reserved", "unspec", "cidr", "container"]),
    TEXT.filter(lambda key: "=" not in key),
    st.text(alphabet="abc019./-_:= ", max_size=12),
)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("k8s:app=web", Label("k8s", "app", "web")),
        ("app=web", Label("unspec", "app", "web")),
        ("reserved:host", Label("reserved", "host", "")),
        ("k8s:a=b=c:d", Label("k8s", "a", "b=c:d")),
        ("a=b:c", Label("unspec", "a", "b:c")),
        ("k8s:a/b:c=d", Label("k8s", "a/b:c", "d")),
    ],
)
def test_parse(text: str, label: Label) -> None:
    assert Label.parse(text) == label


@pytest.mark.parametrize("text", ["", "=x", ":x=y", "k8s:", "K8S:a=b", "k8s:a=b;c", "k8s:a=\n"])
def test_labels_that_etcd_cannot_keep_are_refused(text: str) -> None:
    with pytest.raises(InvalidLabels) as caught:
        Label.parse(text)
    assert caught.value.violations[0].field == "labels"


def test_sets_are_sorted_by_key_alone() -> None:
    made = LabelSet.parse(["k8s:b=1", "cni:a.z=2", "k8s:a=3", "k8s:a=3"])
    assert made.key == "k8s:a=3;cni:a.z=2;k8s:b=1;"
    assert LabelSet.parse(["reserved:host"]).key == "reserved:host=;"
    assert LabelSet.from_key("k8s:b=1;k8s:a=3;").texts() == ("k8s:a=3", "k8s:b=1")


@pytest.mark.parametrize(
    "texts",
    [
        ["k8s:a=1", "container:a=1"],
        ["k8s:a=1", "k8s:a=2"],
        [f"k8s:{n}=" for n in range(65)],
        ["k8s:a=" + 9000 * "x"],
    ],
)
def test_ambiguous_or_large_sets_are_refused(texts: list[str]) -> None:
    with pytest.raises(InvalidLabels):
        LabelSet.parse(texts)


def test_a_stored_set_must_be_closed() -> None:
    with pytest.raises(InvalidLabels):
        LabelSet.from_key("k8s:a=1;k8s:b=2")


@given(st.lists(LABELS, unique_by=lambda label: label.key, max_size=8))
def test_key_and_texts_lead_back(labels: list[Label]) -> None:
    made = LabelSet.of(labels)
    assert LabelSet.from_key(made.key) == made
    assert LabelSet.parse(made.texts()) == made
    assert LabelSet.of(reversed(labels)) == made
    assert hash(LabelSet.of(reversed(labels))) == hash(made)


def test_workload_labels_say_where_it_runs() -> None:
    made = workload_labels(["app=web"], namespace="shop", cluster="east", namespace_labels={"team": "a"})
    assert made.texts() == (
        "k8s:app=web",
        "k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=shop",
        "k8s:io.cilium.k8s.namespace.labels.team=a",
        "k8s:io.cilium.k8s.policy.cluster=east",
        "k8s:io.cilium.k8s.policy.serviceaccount=default",
        "k8s:io.kubernetes.pod.namespace=shop",
    )


@pytest.mark.parametrize(
    "own",
    [
        "reserved:host",
        "cidr:10.0.0.0/8",
        "io.kubernetes.pod.namespace=kube-system",
        "io.cilium.k8s.policy.cluster=x",
    ],
)
def test_workloads_cannot_name_what_the_system_gives(own: str) -> None:
    with pytest.raises(InvalidLabels):
        workload_labels([own], namespace="a", cluster="east")


@pytest.mark.parametrize(
    ("key", "kept"),
    [
        ("app", True),
        ("app.kubernetes.io/name", True),
        ("io.kubernetes.pod.namespace", True),
        ("io.kubernetes.container.name", False),
        ("k8s.io/x", False),
        ("my.k8s.io/x", True),
        ("pod-template-hash", False),
        ("failure-domain.beta.kubernetes.io/zone", False),
        ("annotation.x", False),
    ],
)
def test_ciliums_default_filter(key: str, kept: bool) -> None:
    assert security_relevant(key) is kept


def test_reserved_numbers_and_blocks() -> None:
    assert identities.name_of(identities.WORLD_IPV6) == "world-ipv6"
    assert identities.name_of(70_000) == "70000"
    assert identities.RESERVED[identities.KUBE_APISERVER][1].texts() == (
        "reserved:kube-apiserver",
        "reserved:remote-node",
    )
    assert identities.cluster_range(0) == range(256, 65_536)
    assert identities.cluster_range(1) == range(65_536, 131_072)
    assert identities.cluster_range(255)[-1] == 16_777_215
    assert identities.cluster_id_of(65_536) == 1
    assert identities.is_local(identities.LOCAL_SCOPE + 1)
    assert not identities.is_local(16_777_215)
    assert identities.cluster_id_of(identities.LOCAL_SCOPE + 70_000) == 0
    with pytest.raises(ValueError, match="256"):
        identities.cluster_range(256)
