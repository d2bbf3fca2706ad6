"""Decisions about numbers, nodes and addresses."""

from __future__ import annotations

import ipaddress
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axoneme.lib.errors import InvalidArgument, PoolExhausted
from axoneme.lib.labels import InvalidLabels
from services.identity import domain, podcidrs
from services.identity.config import IdentityConfig
from services.identity.domain import Address, AddressOutsideNode, NamedPort, Node
from services.identity.podcidrs import PodCidrOverlap, Pool
from services.identity.records import (
    MalformedValueError,
    decode_address,
    decode_node,
    encode_address,
    encode_node,
)

NODE = Node(
    name="node1",
    cluster="east",
    cluster_id=1,
    internal_ips=("172.16.0.1", "fd00::1"),
    pod_cidrs=("10.1.0.0/24", "fd00:10:1::/64"),
    router_ips=("10.1.0.1",),
    labels=(("zone", "a"),),
    observer_address="172.16.0.1:4244",
)
POOLS = (Pool.parse("10.1.0.0/22/24"), Pool.parse("fd00:10:1::/62/64"))


def test_the_cluster_is_part_of_every_label_set() -> None:
    assert domain.canonical_labels(["k8s:app=web"], "east").texts() == (
        "k8s:app=web",
        "k8s:io.cilium.k8s.policy.cluster=east",
    )
    assert domain.canonical_labels(["reserved:health"], "east").texts() == ("reserved:health",)


@pytest.mark.parametrize(
    "texts",
    [[], ["k8s:io.cilium.k8s.policy.cluster=west"], ["reserved:host", "k8s:a=b"], ["cidr:10.0.0.0/8"]],
)
def test_label_sets_without_a_number_in_the_cluster(texts: list[str]) -> None:
    with pytest.raises(InvalidLabels):
        domain.canonical_labels(texts, "east")


@given(st.sets(st.integers(0, 19)), st.sets(st.integers(0, 19)), st.integers())
def test_a_chosen_number_is_free(taken: set[int], buried: set[int], seed: int) -> None:
    block = range(20)
    free = set(block) - taken - buried
    if not free:
        with pytest.raises(PoolExhausted):
            domain.choose_number(block, taken, buried, random.Random(seed).randrange)
    else:
        assert domain.choose_number(block, taken, buried, random.Random(seed).randrange) in free


def test_the_last_free_number_is_found() -> None:
    block = range(65_536, 131_072)
    taken = set(block) - {99_999}
    assert domain.choose_number(block, taken, (), random.Random(1).randrange) == 99_999


def test_nodes_get_the_first_free_block_of_each_family() -> None:
    given_cidrs: dict[str, tuple[str, ...]] = {}
    for number in range(4):
        given_cidrs[f"n{number}"] = podcidrs.choose_pod_cidrs(f"n{number}", (), POOLS, given_cidrs)
    assert given_cidrs["n2"] == ("10.1.2.0/24", "fd00:10:1:2::/64")
    assert podcidrs.choose_pod_cidrs("n2", (), POOLS, given_cidrs) == given_cidrs["n2"]
    with pytest.raises(PoolExhausted):
        podcidrs.choose_pod_cidrs("n9", (), POOLS, given_cidrs)


@given(
    st.dictionaries(
        st.sampled_from("abc"), st.lists(st.tuples(st.integers(0, 255), st.integers(24, 32)), max_size=3)
    ),
    st.tuples(st.integers(0, 255), st.integers(20, 32)),
)
def test_overlap_is_found_as_by_comparing_all(
    others: dict[str, list[tuple[int, int]]], wanted: tuple[int, int]
) -> None:
    def network(pair: tuple[int, int]) -> ipaddress.IPv4Network:
        return ipaddress.IPv4Network((f"10.0.0.{pair[0]}", pair[1]), strict=False)

    cidrs = {name: [str(network(pair)) for pair in pairs] for name, pairs in others.items()}
    addresses = set(network(wanted))
    clash = any(addresses & set(network(pair)) for pairs in others.values() for pair in pairs)
    try:
        podcidrs.choose_pod_cidrs("x", [str(network(wanted))], (), cidrs)
    except PodCidrOverlap:
        assert clash
    else:
        assert not clash


def test_overlap_names_the_other_node() -> None:
    with pytest.raises(PodCidrOverlap, match="node7"):
        podcidrs.choose_pod_cidrs("x", ["fd00:10::/48"], (), {"node7": ["fd00:10:0:1::/64"]})


def test_router_ips_are_inside() -> None:
    assert podcidrs.choose_router_ips((), NODE.pod_cidrs) == ("10.1.0.1", "fd00:10:1::1")
    with pytest.raises(InvalidArgument):
        podcidrs.choose_router_ips(["10.2.0.1"], NODE.pod_cidrs)


def test_a_node_needs_a_name_and_an_address() -> None:
    with pytest.raises(InvalidArgument) as caught:
        domain.checked_node(Node(name="Node_1", cluster="east", pod_cidrs=("10.0.0.1/24",)))
    assert {violation.field for violation in caught.value.violations} == {
        "node.name",
        "node.internal_ips",
        "node.pod_cidrs",
    }


def test_addresses_are_made_canonical_and_get_their_host() -> None:
    wanted = [Address(ip="fd00:10:1:0::0007", identity=70_000), Address(ip="10.1.0.9", identity=5)]
    checked = domain.checked_addresses(wanted, NODE, {70_000}.__contains__)
    assert [(a.ip, a.host_ip) for a in checked] == [("fd00:10:1::7", "fd00::1"), ("10.1.0.9", "172.16.0.1")]


@pytest.mark.parametrize(
    "address",
    [
        Address(ip="10.1.0.300", identity=70_000),
        Address(ip="10.1.0.3", identity=70_001),
        Address(ip="10.1.0.3", identity=1),
        Address(ip="10.1.0.3", identity=70_000, host_ip="172.16.0.2"),
        Address(ip="10.1.0.3", identity=70_000, named_ports=(NamedPort("http", 0, "TCP"),)),
    ],
)
def test_wrong_addresses_are_named(address: Address) -> None:
    with pytest.raises(InvalidArgument, match=r"addresses\[0\]"):
        domain.checked_addresses([address], NODE, {70_000}.__contains__)


def test_addresses_of_other_nodes_are_refused() -> None:
    with pytest.raises(AddressOutsideNode, match=r"10\.2\.0\.3"):
        domain.checked_addresses([Address(ip="10.2.0.3", identity=5)], NODE, {70_000}.__contains__)


def test_nodes_and_addresses_survive_etcd() -> None:
    assert decode_node(encode_node(NODE)) == NODE
    two = replace(NODE, pod_cidrs=("10.1.0.0/24", "10.9.0.0/16", "fd00:10:1::/64", "fd00:10:2::/64"))
    assert decode_node(encode_node(two)) == two
    ports = (NamedPort("http", 80, "TCP"),)
    for ip in ("10.1.0.7", "fd00::7", "10.5.0.0/16"):
        address = Address(ip=ip, identity=70_000, host_ip="172.16.0.1", pod_name="p", named_ports=ports)
        assert decode_address(ip, encode_address(address)) == address


def test_cidrs_are_read_as_objects_and_as_text() -> None:
    value = b'{"Name":"n","Cluster":"c","IPv4AllocCIDR":"10.0.1.0/24","New":1,"IPAddresses":null}'
    assert decode_node(value).pod_cidrs == ("10.0.1.0/24",)
    value = b'{"Name":"n","Cluster":"c","IPv4AllocCIDR":{"IP":"10.0.1.0","Mask":"////AA=="}}'
    assert decode_node(value).pod_cidrs == ("10.0.1.0/24",)


@pytest.mark.parametrize(
    "value", [b"", b"{}", b'{"IP":"x"}', b'{"IP":"10.0.0.1","Mask":"AA"}', b'{"IP":"fd00:0::1"}']
)
def test_unreadable_addresses_are_said_to_be(value: bytes) -> None:
    with pytest.raises(MalformedValueError):
        decode_address("fd00:0::1", value)


def test_quotas_of_a_node_name_node_limit_and_option() -> None:
    domain.check_identity_quota("n1", {"a", "b"}, "b", 2)
    domain.check_identity_quota("n1", {"a"}, "b", 2)
    with pytest.raises(domain.NodeQuotaExceeded, match=r"n1 .*max_identities_per_node allows 2"):
        domain.check_identity_quota("n1", {"a", "b"}, "c", 2)
    domain.check_address_quota("n1", 2, 2)
    with pytest.raises(domain.NodeQuotaExceeded, match=r"n1 .* 3 addresses.*max_addresses_per_node allows 2"):
        domain.check_address_quota("n1", 3, 2)


@pytest.mark.parametrize(
    "limits",
    [{"max_identities_per_node": 0}, {"max_addresses_per_node": 0}, {"max_addresses_per_node": 4097}],
)
def test_limits_that_cannot_hold_are_refused(limits: dict[str, int]) -> None:
    with pytest.raises(InvalidArgument, match=next(iter(limits))):
        IdentityConfig(listen_address="unix:///x", **limits).check()  # type: ignore[arg-type]
