"""The directory of addresses, pods, identities and nodes against plain searches."""

from __future__ import annotations

import ipaddress
import random

import pytest

from axoneme.lib import identities
from axoneme.lib.errors import InvalidArgument
from axoneme.lib.labels import Label, LabelSet
from axoneme.lib.policy.cidrlabels import cidr_label
from axoneme.lib.policy.outside import OutsideNames
from services.policy.inputs import PolicySettings
from services.policy.questions.parties import FIRST_IMAGINED, OUTSIDE, Parties, PartySpec
from services.policy.records.addressbook import AddressBook
from services.policy.records.addresses import AddressRecord
from tests.conftest import scaled

KEYS = (
    *(f"10.0.0.{index}" for index in range(6)),
    *(f"2001:db8::{index}" for index in range(1, 6)),
    "10.0.0.0/24",
    "10.0.0.4/30",
    "2001:db8::/64",
    "2001:db8::4/126",
    "0.0.0.0/0",
)
ASKED = (*KEYS[:11], "10.0.0.200", "10.9.9.9", "2001:db8::ffff", "2001:db9::1", "10.0.0.5")


def random_record(rng: random.Random, key: str) -> AddressRecord:
    """A record of one of few pods and identities."""
    pod = rng.choice(["", "a", "b"])
    names = {(6, name): rng.choice((80, 8080)) for name in rng.sample(["web", "db", "x"], rng.randint(0, 3))}
    return AddressRecord(
        address=key, identity=rng.randint(300, 303), namespace="ns" if pod else "", pod=pod, named_ports=names
    )


def by_ip(records: dict[str, AddressRecord], ip: str) -> AddressRecord | None:
    """The narrowest record that holds an address."""
    asked = ipaddress.ip_address(ip)
    networks = {key: ipaddress.ip_network(key) for key in records}
    holding = [key for key, one in networks.items() if one.version == asked.version and asked in one]
    return records[max(holding, key=lambda key: networks[key].prefixlen)] if holding else None


@pytest.mark.parametrize("seed", range(scaled(20, 500)))
def test_the_book_against_plain_searches(seed: int) -> None:
    """Records that come, change and go in random order."""
    rng, book, plain = random.Random(seed), AddressBook(), dict[str, AddressRecord]()
    for _ in range(40):
        key = rng.choice(KEYS)
        if rng.random() < 0.4:
            assert book.remove(key) == plain.pop(key, None)
        else:
            record = random_record(rng, key)
            assert book.put(record) == plain.get(key)
            plain[key] = record
        for ip in rng.sample(ASKED, 4):
            assert book.by_ip(ip) == by_ip(plain, ip)
        for pod in ("a", "b"):
            keys = [key for key, one in plain.items() if one.pod == pod]
            assert book.by_pod("ns", pod) == (plain[min(keys)] if keys else None)
        for number in range(300, 304):
            each = [one.named_ports for one in plain.values() if one.identity == number]
            assert sorted(map(str, book.each_ports_of(number))) == sorted(
                {str(dict(sorted(ports.items()))) for ports in each}
            )
            names = {name for ports in each for name in ports}
            meanings = {name: {ports[name] for ports in each if name in ports} for name in names}
            agreed = {name: min(found) for name, found in meanings.items() if len(found) == 1}
            assert book.ports_of(number) == agreed
    assert {one.address: one for one in book.records()} == plain


def test_numbers_of_label_sets() -> None:
    """The lowest of two for a moment; gone with the last."""
    book, labels = AddressBook(), LabelSet.parse(["k8s:app=a"])
    for number in (302, 301):
        book.put_identity(number, labels)
    assert book.number_of(labels) == 301
    book.put_identity(301, LabelSet.parse(["k8s:app=b"]))
    assert book.number_of(labels) == 302
    book.remove_identity(302)
    book.remove_identity(302)
    assert book.number_of(labels) is None


@pytest.mark.parametrize("address", ["172.18.0.9", "fd01::9"])
def test_nodes_as_peers(address: str) -> None:
    """The reserved number, or labels of their own where settings give nodes numbers; a node before a pod."""
    book = AddressBook()
    book.put_node("n", frozenset({address}))
    host_network = AddressRecord(address=address, identity=300, namespace="a", pod="p", named_ports={})
    book.put(host_network)
    labels = {"n": LabelSet.parse(["reserved:host", "node:role=edge"])}
    plain = Parties(book, {}, PolicySettings(), labels).resolve(PartySpec(ip=address), name="x")
    assert (plain.identity, plain.node) == (identities.REMOTE_NODE, "n")
    settings = PolicySettings(node_labels=True, cidr_match_nodes=True)
    parties = Parties(book, {}, settings, labels)
    own = parties.resolve(PartySpec(ip=address), name="x")
    wanted = {Label("reserved", "remote-node", ""), Label("node", "role", "edge"), cidr_label(address)}
    assert (own.identity, set(own.labels)) == (OUTSIDE, wanted)
    assert own.seen_by(OutsideNames(()), frozenset()) == (OUTSIDE, own.labels)
    assert parties.nodes_with_numbers() == [own]
    book.remove_node("n")
    assert book.node_at(address) is None


def test_labels_that_only_a_node_has_are_no_cluster_identity() -> None:
    """Of addresses outside and of nodes, as recorded flows carry them."""
    parties = Parties(AddressBook(), {}, PolicySettings(), {})
    for texts in (
        ("reserved:world-ipv6", "cidr:2001-db8--0/32"),
        ("reserved:world", "reserved:kube-apiserver"),
        ("reserved:remote-node", "node:role=edge"),
    ):
        found = parties.resolve(PartySpec(labels=texts), name="x")
        assert (found.identity, found.outside) == (OUTSIDE, False)
    assert not parties.imagined
    reserved = parties.resolve(PartySpec(labels=("reserved:kube-apiserver",)), name="x")
    assert reserved.identity == identities.KUBE_APISERVER


def test_labels_that_are_not_whole_are_looked_for() -> None:
    """One identity has them: that one; several: refused; none, or whole sets: imagined."""
    namespace = "k8s:io.kubernetes.pod.namespace=a"
    book, known = AddressBook(), {}
    for number, app in ((300, "x"), (301, "y"), (302, "y")):
        known[number] = LabelSet.parse([f"k8s:app={app}", f"k8s:n={number}", namespace])
        book.put_identity(number, known[number])
    parties = Parties(book, known, PolicySettings(), {})
    assert parties.resolve(PartySpec(labels=("k8s:app=x",)), name="s").identity == 300
    with pytest.raises(InvalidArgument, match="s: 2 identities have these labels"):
        parties.resolve(PartySpec(labels=("k8s:app=y",)), name="s")
    whole = parties.resolve(PartySpec(labels=("k8s:app=x", namespace)), name="s")
    assert whole.identity == FIRST_IMAGINED
    none = parties.resolve(PartySpec(labels=("k8s:app=z",), named_ports={(6, "web"): 1}), name="s")
    assert none.identity == FIRST_IMAGINED - 1
    again = parties.resolve(PartySpec(labels=("k8s:app=z",), dns_names=("a",)), name="s")
    assert (again.identity, again.dns_names, again.named_ports) == (none.identity, ("a",), {(6, "web"): 1})
