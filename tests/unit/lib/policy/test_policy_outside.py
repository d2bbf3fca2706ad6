"""Names of addresses outside the cluster against a search through every prefix."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axoneme.lib.labels import Label
from axoneme.lib.policy.cidrlabels import cidr_label
from axoneme.lib.policy.model import CidrDefinition, FqdnDefinition
from axoneme.lib.policy.outside import OutsideNames, named_prefixes, outside_labels, world_label
from axoneme.lib.policy.selection import selects

_v4 = st.builds(
    lambda number, bits: str(ipaddress.ip_network((number, bits), strict=False)),
    st.integers(0x0A000000, 0x0A0000FF),
    st.integers(0, 32),
)
_v6 = st.builds(
    lambda number, bits: str(ipaddress.ip_network(((0x20010DB8 << 96) + number, bits), strict=False)),
    st.integers(0, 255),
    st.integers(0, 128),
)
_prefixes = st.lists(st.one_of(_v4, _v6), max_size=6)
_address = st.one_of(
    st.integers(0x0A000000, 0x0A0000FF).map(lambda number: str(ipaddress.IPv4Address(number))),
    st.integers(0, 255).map(lambda number: str(ipaddress.IPv6Address((0x20010DB8 << 96) + number))),
)


@given(include=_prefixes, exclude=_prefixes, address=_address)
def test_the_longest_named_prefix(include: list[str], exclude: list[str], address: str) -> None:
    """Includes and exceptions count alike; /0 is no name; the other family does not count."""
    definition = CidrDefinition(include=tuple(include), exclude=tuple(exclude))
    asked = ipaddress.ip_address(address)
    networks = [ipaddress.ip_network(one) for one in (*include, *exclude)]
    holding = [one for one in networks if one.version == asked.version and asked in one and one.prefixlen]
    longest = max(holding, key=lambda one: one.prefixlen, default=None)
    labels = OutsideNames([definition]).labels(address)
    wanted = {world_label(asked.version)} | ({cidr_label(str(longest))} if longest else set())
    assert set(labels) == wanted
    assert outside_labels(address, [definition]) == labels
    assert named_prefixes([definition]) == {*include, *exclude}


@given(include=_prefixes, exclude=_prefixes, others=_prefixes, address=_address)
def test_a_prefix_that_another_policy_names_changes_no_verdict(
    include: list[str], exclude: list[str], others: list[str], address: str
) -> None:
    """The name of an address changes, whether a definition selects it never does (R-28)."""
    definition = CidrDefinition(include=tuple(include), exclude=tuple(exclude))
    other = CidrDefinition(include=tuple(others))
    alone, together = outside_labels(address, [definition]), outside_labels(address, [definition, other])
    assert selects(definition, alone) == selects(definition, together)


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
def test_names_families_and_api_servers(address: str) -> None:
    """Learned names that a selector wants, the world of one family, the API server."""
    definitions = [FqdnDefinition("*.example.com", pattern=True), FqdnDefinition("a.org")]
    labels = outside_labels(address, definitions, dns_names=["WWW.example.com.", "b.org"])
    assert [label for label in labels if label.source == "fqdn"] == [Label("fqdn", "*.example.com", "")]
    single = outside_labels(address, (), families=frozenset({"ipv4"}), kube_apiserver=True)
    assert set(single) == {Label("reserved", "world", ""), Label("reserved", "kube-apiserver", "")}
    with pytest.raises(ValueError, match="not-an-address"):
        outside_labels("not-an-address", ())
