"""Prefixes as labels, and which node-local identities a definition selects; each case in both families."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axoneme.lib.labels import Label, LabelSet
from axoneme.lib.policy.cidrlabels import Network, cidr_label, prefix_of, prefixes_of
from axoneme.lib.policy.model import (
    CidrDefinition,
    Entity,
    EntitySelector,
    FqdnDefinition,
    LabelsDefinition,
    SelectorDefinition,
)
from axoneme.lib.policy.selection import members, selects
from axoneme.lib.selectors import LabelSelector, Operator, Requirement

WORLD = EntitySelector(Entity.WORLD)


def labels(*texts: str) -> LabelSet:
    return LabelSet.of(Label.parse(text) for text in texts)


def outside(prefix: str, *more: str) -> LabelSet:
    """The identity of an address outside the cluster with a prefix label."""
    version = 6 if ":" in prefix else 4
    return LabelSet.of(
        [Label("reserved", f"world-ipv{version}", ""), cidr_label(prefix), *map(Label.parse, more)]
    )


@pytest.mark.parametrize(
    ("prefix", "key"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.1.2.3/8", "10.0.0.0/8"),
        ("10.1.2.3", "10.1.2.3/32"),
        ("2001:db8::/32", "2001-db8--0/32"),
        ("2001:DB8:0::1", "2001-db8--1/128"),
        ("::/0", "0--0/0"),
        ("::1/128", "0--1/128"),
        ("::ffff:10.0.0.1/128", "0--ffff-a00-1/128"),
    ],
)
def test_labels_of_prefixes(prefix: str, key: str) -> None:
    label = cidr_label(prefix)
    assert label == Label("cidr", key, "")
    assert prefix_of(label) == ipaddress.ip_network(prefix, strict=False)


@pytest.mark.parametrize("text", ["cidr:nonsense", "cidr:10.0.0.0/33", "k8s:10.0.0.0/8"])
def test_other_labels_name_no_prefix(text: str) -> None:
    assert prefix_of(Label.parse(text)) is None
    with pytest.raises(ValueError):
        cidr_label("10.0.0.0/33")


def test_prefixes_of_an_identity() -> None:
    """Its own prefix, or everything of its family; a pod has none."""
    every = {4: ipaddress.ip_network("0.0.0.0/0"), 6: ipaddress.ip_network("::/0")}
    assert prefixes_of(labels("reserved:world-ipv4")) == (every[4],)
    assert prefixes_of(labels("reserved:world-ipv6")) == (every[6],)
    assert prefixes_of(labels("reserved:world")) == (every[4], every[6])
    assert prefixes_of(labels("reserved:world-ipv4", "fqdn:example.com")) == (every[4],)
    assert prefixes_of(outside("10.0.0.0/8")) == (ipaddress.ip_network("10.0.0.0/8"),)
    assert prefixes_of(outside("2001:db8::/32")) == (ipaddress.ip_network("2001:db8::/32"),)
    assert prefixes_of(labels("k8s:world", "k8s:a=b")) == ()


TEN = CidrDefinition(include=("10.0.0.0/8",), exclude=("10.1.0.0/16",))
DOC = CidrDefinition(include=("2001:db8::/32",), exclude=("2001:db8:1::/48",))
EVERY = CidrDefinition(include=("0.0.0.0/0", "::/0"))
NODES = CidrDefinition(include=("10.0.0.0/8", "2001:db8::/32", "0.0.0.0/0", "::/0"), nodes=True)
NODES_OF_ALL = CidrDefinition(include=("0.0.0.0/0", "::/0"), nodes=True)


@pytest.mark.parametrize(
    ("definition", "identity", "expected"),
    [
        (TEN, outside("10.2.0.0/16"), True),
        (TEN, outside("10.0.0.0/8"), True),
        (TEN, outside("10.1.2.0/24"), False),
        (TEN, outside("10.1.0.0/16"), False),
        (TEN, outside("0.0.0.0/1"), False),
        (TEN, outside("11.0.0.0/8"), False),
        (TEN, labels("reserved:world-ipv4"), False),
        (TEN, outside("2001:db8::/32"), False),
        (TEN, labels("k8s:a=b", "cidr:10.2.0.0/16"), False),
        (TEN, labels("reserved:remote-node", "cidr:10.2.0.1/32"), False),
        (TEN, outside("10.2.0.1/32", "reserved:kube-apiserver"), True),
        (DOC, outside("2001:db8:2::/48"), True),
        (DOC, outside("2001:db8::/32"), True),
        (DOC, outside("2001:db8:1:2::/64"), False),
        (DOC, outside("2001:db8:1::/48"), False),
        (DOC, outside("2001::/16"), False),
        (DOC, outside("2001:db9::/32"), False),
        (DOC, labels("reserved:world-ipv6"), False),
        (DOC, outside("10.2.0.0/16"), False),
        (DOC, labels("reserved:remote-node", cidr := str(cidr_label("2001:db8:2::1/128"))), False),
        (EVERY, labels("reserved:world-ipv4"), True),
        (EVERY, labels("reserved:world-ipv6"), True),
        (EVERY, labels("reserved:world"), True),
        (EVERY, labels("reserved:world-ipv6", "fqdn:example.com"), True),
        (EVERY, labels("reserved:remote-node", "cidr:10.2.0.1/32"), False),
        (EVERY, labels("k8s:world"), False),
        (NODES, labels("reserved:remote-node", "cidr:10.2.0.1/32"), True),
        (NODES, labels("reserved:remote-node", cidr), True),
        (NODES, labels("reserved:host", cidr), True),
        (NODES, labels("reserved:remote-node", "cidr:192.0.2.1/32"), False),
        (NODES, labels("reserved:remote-node"), False),
        (NODES, labels("k8s:remote-node", cidr), False),
        (NODES, outside("192.0.2.0/24"), True),
        (NODES_OF_ALL, labels("reserved:remote-node", cidr), False),
        (NODES_OF_ALL, labels("reserved:remote-node", "cidr:10.2.0.1/32"), False),
        (CidrDefinition(include=()), labels("reserved:world"), False),
        (CidrDefinition(include=(), exclude=("10.0.0.0/8",)), outside("11.0.0.0/8"), False),
        (FqdnDefinition("example.com"), labels("reserved:world-ipv4", "fqdn:example.com"), True),
        (FqdnDefinition("example.com"), labels("reserved:world-ipv6", "fqdn:example.com"), True),
        (FqdnDefinition("example.com"), labels("reserved:world-ipv6", "fqdn:www.example.com"), False),
        (FqdnDefinition("*.example.com", pattern=True), labels("fqdn:*.example.com"), True),
        (FqdnDefinition("example.com"), labels("k8s:example.com"), False),
        (LabelsDefinition(()), labels("reserved:world"), False),
        (LabelsDefinition((LabelSelector(),)), labels("reserved:world"), True),
        (WORLD, labels("reserved:world"), True),
        (WORLD, outside("2001:db8::/32"), True),
        (WORLD, labels("k8s:world"), False),
        (WORLD, labels("reserved:remote-node"), False),
    ],
)
def test_who_is_selected(definition: SelectorDefinition, identity: LabelSet, expected: bool) -> None:
    assert selects(definition, identity) is expected
    assert members(definition, {5: identity}) == (frozenset({5}) if expected else frozenset())


def test_alternatives_of_labels_are_a_union() -> None:
    zones = [LabelSelector.of(Requirement("node", "zone", Operator.IN, (zone,))) for zone in "ab"]
    definition = LabelsDefinition(tuple(zones))
    for zone, expected in (("a", True), ("b", True), ("c", False)):
        assert selects(definition, labels("reserved:remote-node", f"node:zone={zone}")) is expected


def test_an_unknown_definition_is_an_error() -> None:
    """Never an empty selection that a deny would silently lose."""
    with pytest.raises(TypeError):
        selects("everything", labels("reserved:world"))  # type: ignore[arg-type]


_networks: st.SearchStrategy[Network] = st.one_of(
    st.builds(
        lambda bits, length: ipaddress.ip_network((0x0A000000 | bits, length), strict=False),
        st.integers(0, 7).map(lambda n: n << 21),
        st.integers(0, 12),
    ),
    st.builds(
        lambda bits, length: ipaddress.ip_network((0x20010DB8 << 96 | bits, length), strict=False),
        st.integers(0, 7).map(lambda n: n << 93),
        st.integers(0, 36),
    ),
)


def _by_hand(definition: CidrDefinition, prefix: Network) -> bool:
    def inside(texts: tuple[str, ...]) -> bool:
        networks = map(ipaddress.ip_network, texts)
        return any(one.version == prefix.version and prefix.subnet_of(one) for one in networks)  # type: ignore[arg-type]

    return inside(definition.include) and not inside(definition.exclude)


@given(include=st.lists(_networks, max_size=4), exclude=st.lists(_networks, max_size=3), prefix=_networks)
def test_prefixes_against_the_standard_library(
    include: list[Network], exclude: list[Network], prefix: Network
) -> None:
    """The look-up by length says what comparing every pair of prefixes says."""
    definition = CidrDefinition(include=tuple(map(str, include)), exclude=tuple(map(str, exclude)))
    assert selects(definition, outside(str(prefix))) == _by_hand(definition, prefix)
