"""Endpoints of test files as identities: who shares a number, and what a node calls addresses and nodes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from axoneme.lib import identities
from axoneme.lib.labels import InvalidLabels, LabelSet
from axoneme.lib.policy.model import CidrDefinition, FqdnDefinition
from services.policy.cases.testfile import read_cases
from services.policy.cases.testworld import World, named_ports_of


def world(endpoints: dict[str, Any], config: dict[str, Any] | None = None, **case: Any) -> World:
    """The world of a case with these endpoints."""
    text = json.dumps({"endpoints": endpoints, "config": config or {}, "flows": [], **case})
    return World.of(read_cases(text)[0])


def texts(one: World, name: str, *definitions: Any) -> tuple[str, ...]:
    """The labels of an endpoint on a node where definitions are in force."""
    seen = one.neighbourhood(definitions)
    number = seen.numbers[name]
    labels = seen.local.get(number) or one.labels.get(number) or identities.RESERVED[number][1]
    return labels.texts()


def test_pods_with_equal_labels_share_a_number() -> None:
    """What the user wrote and where the pod runs is the identity; its address and ports are not."""
    one = world(
        {
            "a": {"labels": {"app": "x"}, "namedPorts": {"web": {"port": 80}}},
            "b": {"labels": {"app": "x", "pod-template-hash": "1"}, "ip": "192.0.2.1"},
            "c": {"labels": {"app": "x"}, "serviceAccount": "other"},
            "d": {"labels": {"app": "x"}, "cluster": "west"},
            "e": {"labels": {"app": "x"}, "namespaceLabels": {"team": "red"}},
        },
        {"clusterName": "east"},
    )
    assert one.numbers == {"a": 1000, "b": 1000, "c": 1001, "d": 1002, "e": 1003}
    assert one.labels[1003].texts() == (
        "k8s:app=x",
        "k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=default",
        "k8s:io.cilium.k8s.namespace.labels.team=red",
        "k8s:io.cilium.k8s.policy.cluster=east",
        "k8s:io.cilium.k8s.policy.serviceaccount=default",
        "k8s:io.kubernetes.pod.namespace=default",
    )


@pytest.mark.parametrize(
    "key",
    [
        "io.cilium.k8s.namespace.labels.team",
        "io.cilium.k8s.policy.cluster",
        "io.kubernetes.pod.namespace",
        "k8s:io.kubernetes.pod.namespace",
        "reserved:host",
    ],
)
def test_ghsa_gj2r_phwg_6rww_imitated_labels_are_dropped(key: str) -> None:
    """R-13: a pod cannot give itself labels of the system (GHSA-pfhr-pccp-hwmh, GHSA-gj2r-phwg-6rww)."""
    one = world({"a": {"labels": {"app": "x"}}, "b": {"labels": {"app": "x", key: "red"}}})
    assert one.numbers == {"a": 1000, "b": 1000}


def test_labels_that_nothing_can_carry() -> None:
    """Such a case is refused as a whole, not guessed at."""
    with pytest.raises(InvalidLabels):
        world({"a": {"labels": {"app": "x;y"}}})


@pytest.mark.parametrize(
    ("address", "prefixes", "expected"),
    [
        ("192.0.2.1", (), ("reserved:world-ipv4",)),
        ("192.0.2.1", ("0.0.0.0/0",), ("reserved:world-ipv4",)),
        ("192.0.2.1", ("192.0.0.0/16", "192.0.2.0/24"), ("cidr:192.0.2.0/24", "reserved:world-ipv4")),
        ("192.0.2.1", ("192.0.3.0/24",), ("reserved:world-ipv4",)),
        ("2001:db8::1", ("192.0.2.0/24",), ("reserved:world-ipv6",)),
        ("2001:db8::1", ("2001:db8::/32", "2001::/16"), ("cidr:2001-db8--0/32", "reserved:world-ipv6")),
    ],
)
def test_an_address_has_the_longest_prefix(
    address: str, prefixes: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    """R-28, for both families."""
    one = world({"w": {"kind": "world", "ip": address}})
    definitions = [CidrDefinition(include=(prefix,)) for prefix in prefixes]
    assert texts(one, "w", *definitions) == expected


def test_a_bare_world_has_its_reserved_number() -> None:
    """Addresses that no definition names are 9 and 10, in a cluster of one family 2."""
    endpoints = {"four": {"kind": "world", "ip": "192.0.2.1"}, "six": {"kind": "world", "ip": "2001:db8::1"}}
    assert world(endpoints).neighbourhood(()).numbers == {"four": 9, "six": 10}
    single = world({"four": endpoints["four"]}, {"ipv6": False}).neighbourhood(())
    assert single.numbers == {"four": identities.WORLD}
    assert single.local == {identities.WORLD: LabelSet.parse(["reserved:world"])}
    only_six = world({"six": endpoints["six"]}, {"ipv4": False}).neighbourhood(())
    assert only_six.numbers == {"six": identities.WORLD}


def test_learned_names_and_external_api_servers() -> None:
    """R-24 and R-31, on one address each."""
    one = world(
        {
            "w": {"kind": "world", "ip": "192.0.2.1"},
            "v": {"kind": "world", "ip": "192.0.2.2"},
            "api": {"kind": "kube-apiserver-external", "ip": "2001:db8::6"},
        },
        fqdnCache={"a.example.com": ["192.0.2.1"], "b.example.org": ["192.0.2.1", "192.0.2.2"]},
    )
    definitions = (FqdnDefinition("*.example.com", pattern=True), FqdnDefinition("b.example.org"))
    assert texts(one, "w", *definitions) == (
        "fqdn:*.example.com",
        "fqdn:b.example.org",
        "reserved:world-ipv4",
    )
    assert texts(one, "v", *definitions) == ("fqdn:b.example.org", "reserved:world-ipv4")
    assert texts(one, "api") == ("reserved:kube-apiserver", "reserved:world-ipv6")


def test_nodes_have_own_numbers_only_when_settings_say_so() -> None:
    """Reserved numbers otherwise; node labels and addresses each come with their setting."""
    endpoints = {
        "n": {"kind": "remote-node", "labels": {"role": "worker"}, "ip": "10.0.0.1"},
        "k": {"kind": "kube-apiserver", "labels": {"role": "cp"}, "ip": "2001:db8::2"},
    }
    assert world(endpoints).neighbourhood(()).numbers == {"n": 6, "k": 7}
    by_label = world(endpoints, {"nodeSelectorLabels": True})
    assert texts(by_label, "n") == ("reserved:remote-node", "node:role=worker")
    by_cidr = world(endpoints, {"policyCIDRMatchMode": ["nodes"]})
    assert texts(by_cidr, "n") == ("cidr:10.0.0.1/32", "reserved:remote-node")
    assert texts(by_cidr, "k") == (
        "cidr:2001-db8--2/128",
        "reserved:kube-apiserver",
        "reserved:remote-node",
    )


def test_who_is_enforced() -> None:
    """Pods of this cluster, health, ingress and init endpoints, and hosts behind a host firewall."""
    kinds = ("host", "remote-node", "kube-apiserver", "health", "init", "ingress", "unmanaged")
    endpoints: dict[str, Any] = {kind: {"kind": kind} for kind in kinds}
    endpoints |= {"pod": {}, "far": {"cluster": "west"}, "w": {"kind": "world", "ip": "192.0.2.1"}}
    one = world(endpoints)
    found = {name for name, endpoint in one.case.endpoints.items() if one.enforced(endpoint)}
    assert found == {"pod", "health", "init", "ingress"}
    behind = world(endpoints, {"hostFirewall": True})
    assert behind.enforced(behind.case.endpoints["host"])


def test_a_name_that_pods_disagree_about_means_nothing() -> None:
    """R-36: for the identity, not for the cluster."""
    one = world(
        {
            "a": {
                "labels": {"app": "x"},
                "namedPorts": {"web": {"port": 80}, "dns": {"proto": "UDP", "port": 53}},
            },
            "b": {"labels": {"app": "x"}, "namedPorts": {"web": {"port": 81}}},
            "c": {"labels": {"app": "y"}, "namedPorts": {"web": {"port": 81}}},
        }
    )
    assert named_ports_of(one.case, one.numbers) == {1000: {(17, "dns"): 53}, 1001: {(6, "web"): 81}}
