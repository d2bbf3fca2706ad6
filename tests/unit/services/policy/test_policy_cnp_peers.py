"""Peers of CiliumNetworkPolicy: what each field reads as, and what it refuses. IPv4 and IPv6 alike."""

from __future__ import annotations

from typing import Any

import pytest

from axoneme.lib.selectors import LabelSelector, Operator, Requirement
from services.policy.reading.fqdnfields import canonical_pattern
from services.policy.reading.groupfields import canonical_group
from services.policy.rules import CidrGroupPeer, CidrPeer, EntityName, FqdnPeer, Peers, ServicePeer
from tests.unit.services.policy.readings import CCNP, TCP80, entry_of, faults_of, refuses


@pytest.mark.parametrize("name", list(EntityName))
@pytest.mark.parametrize("section", ["ingress", "egressDeny"])
def test_every_entity(name: EntityName, section: str) -> None:
    """All that rules may name, spelled exactly."""
    side = "from" if section == "ingress" else "to"
    assert entry_of(section, {f"{side}Entities": [name.value, name.value]}).peers == Peers(entities=(name,))
    faults = faults_of({section: [{f"{side}Entities": [name.value.upper()]}]})
    assert faults == [(f"spec.{section}[0].{side}Entities[0]", f"unknown entity {name.value.upper()!r}")]


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.1.2.3/8", "10.0.0.0/8"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("192.0.2.1/32", "192.0.2.1/32"),
        ("2001:DB8:0:0::1/64", "2001:db8::/64"),
        ("::/0", "::/0"),
        ("fd00::1/128", "fd00::1/128"),
    ],
)
@pytest.mark.parametrize(("section", "side"), [("ingress", "from"), ("egressDeny", "to")])
def test_prefixes_are_canonical(written: str, canonical: str, section: str, side: str) -> None:
    """R-26: host bits are masked, texts are those of the standard, in lists and sets."""
    expected = Peers(cidrs=(CidrPeer(cidr=canonical),))
    assert entry_of(section, {f"{side}CIDR": [written, canonical]}).peers == expected
    assert entry_of(section, {f"{side}CIDRSet": [{"cidr": written}]}).peers == expected
    assert entry_of(section, {f"{side}CIDRSet": [{"cidr": written, "except": []}]}).peers == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10.0.0.1",
        "2001:db8::1",
        "10.0.0.0/33",
        "fd00::/129",
        "10.0.0.0/08",
        "10.0.0.0/255.0.0.0",
        "10.0.0/8",
        "010.0.0.0/8",
        "10.0.0.0/",
        "/8",
        "10.0.0.0/-1",
        "10.0.0.0/8 ",
        "fe80::%eth0/64",
        "::ffff:10.0.0.0/104",
        "::ffff:a00:0/104",
        "٣.0.0.0/8",
        "x",
    ],
)
def test_what_is_no_prefix(text: str) -> None:
    """Addresses without a mask among them."""
    path = "spec.ingress[0].fromCIDR[0]"
    refuses({"ingress": [{"fromCIDR": [text]}]}, path, "is not a prefix")
    refuses({"egress": [{"toCIDRSet": [{"cidr": text}]}]}, "spec.egress[0].toCIDRSet[0].cidr", "not a prefix")


def test_exceptions_lie_inside() -> None:
    """Of the same family and no wider; sorted, each once."""
    element = {"cidr": "10.0.0.0/8", "except": ["10.2.0.0/16", "10.1.9.9/16", "10.2.0.0/16", "10.0.0.0/8"]}
    (peer,) = entry_of("egress", {"toCIDRSet": [element]}).peers.cidrs
    assert peer == CidrPeer(cidr="10.0.0.0/8", excepts=("10.0.0.0/8", "10.1.0.0/16", "10.2.0.0/16"))
    wide = {"cidr": "fd00::/16", "except": ["fd00:1::/32"]}
    (peer,) = entry_of("egressDeny", {"toCIDRSet": [wide]}).peers.cidrs
    assert peer.excepts == ("fd00:1::/32",)


@pytest.mark.parametrize(
    ("cidr", "excluded"),
    [
        ("10.0.0.0/8", "11.0.0.0/16"),
        ("10.0.0.0/8", "10.0.0.0/7"),
        ("10.0.0.0/8", "fd00::/64"),
        ("fd00::/16", "fe00::/32"),
        ("fd00::/16", "fd00::/15"),
        ("::/0", "10.0.0.0/8"),
    ],
)
def test_exceptions_outside_are_refused(cidr: str, excluded: str) -> None:
    """R-26."""
    spec = {"egress": [{"toCIDRSet": [{"cidr": cidr, "except": [excluded]}]}]}
    refuses(spec, "spec.egress[0].toCIDRSet[0].except[0]", "does not lie inside")


def test_groups_of_prefixes() -> None:
    """By name or by labels, with exceptions of both families that may lie anywhere."""
    kind = LabelSelector.of(Requirement("any", "kind", Operator.EXISTS))
    elements: list[dict[str, Any]] = [
        {"cidrGroupRef": "partners", "except": ["fd00::/64", "10.0.0.0/16"]},
        {"cidrGroupSelector": {"matchExpressions": [{"key": "kind", "operator": "Exists"}]}},
        {"cidrGroupSelector": {}},
        {"cidr": "192.0.2.0/24"},
    ]
    peers = entry_of("ingress", {"fromCIDRSet": elements}).peers
    assert peers.cidrs == (CidrPeer(cidr="192.0.2.0/24"),)
    assert set(peers.cidr_groups) == {
        CidrGroupPeer(name="partners", excepts=("10.0.0.0/16", "fd00::/64")),
        CidrGroupPeer(selector=kind),
        CidrGroupPeer(selector=LabelSelector()),
    }
    turned = entry_of("ingress", {"fromCIDRSet": elements[::-1]}).peers
    assert turned == peers


@pytest.mark.parametrize(
    ("element", "path", "words"),
    [
        ({}, "", "says nothing"),
        ({"except": ["10.0.0.0/8"]}, "", "says nothing"),
        ({"cidr": None}, "", "says nothing"),
        ({"cidr": "10.0.0.0/8", "cidrGroupRef": "a"}, ".cidrGroupRef", "exclude each other"),
        ({"cidrGroupRef": "a", "cidrGroupSelector": {}}, ".cidrGroupSelector", "exclude each other"),
        ({"cidrGroupRef": ""}, ".cidrGroupRef", "not a valid name"),
        ({"cidrgroupRef": "a"}, ".cidrgroupRef", "unknown key"),
        ({"cidrGroupRef": "a", "except": ["x"]}, ".except[0]", "not a prefix"),
        ({"cidr": "10.0.0.0/8", "except": "10.1.0.0/16"}, ".except", "expected a list"),
    ],
)
def test_elements_of_a_prefix_set_that_are_refused(element: dict[str, Any], path: str, words: str) -> None:
    """Exactly one of the three kinds."""
    refuses({"ingress": [{"fromCIDRSet": [element]}]}, f"spec.ingress[0].fromCIDRSet[0]{path}", words)


def test_nodes() -> None:
    """Selectors over node labels, whatever spelling of the key."""
    items = [{"matchLabels": {"role": "a"}}, {"matchLabels": {"node:role": "a"}}]
    peers = entry_of("egress", {"toNodes": items}).peers
    assert peers == Peers(nodes=(LabelSelector.of(Requirement("node", "role", Operator.IN, ("a",))),))
    spec = {"egress": [{"toNodes": [{"matchLabels": {"any:zone": "b", "k8s:role": "a"}}]}]}
    refuses(spec, "spec.egress[0].toNodes[0]", "k8s:role is not a label of nodes")


def test_services() -> None:
    """By name in a namespace, which is the policy's own if none is given; by labels anywhere or in one."""
    items = [
        {"k8sService": {"serviceName": "mail"}},
        {"k8sService": {"serviceName": "mail", "namespace": "office"}},
        {"k8sServiceSelector": {"selector": {}}},
        {"k8sServiceSelector": {"selector": {"matchLabels": {"a": "b"}}, "namespace": "office"}},
    ]
    services = entry_of("egress", {"toServices": items, "toPorts": TCP80}).peers.services
    assert set(services) == {
        ServicePeer(namespace="shop", name="mail"),
        ServicePeer(namespace="office", name="mail"),
        ServicePeer(selector=LabelSelector()),
        ServicePeer(
            namespace="office", selector=LabelSelector.of(Requirement("any", "a", Operator.IN, ("b",)))
        ),
    }
    assert entry_of("egressDeny", {"toServices": items[:1]}).peers.services == (
        ServicePeer(namespace="shop", name="mail"),
    )


@pytest.mark.parametrize(
    ("element", "path", "words"),
    [
        ({}, "", "says nothing"),
        ({"k8sService": {}}, ".k8sService", "no name"),
        ({"k8sService": {"serviceName": "A"}}, ".k8sService.serviceName", "not a valid name"),
        ({"k8sService": {"serviceName": "a", "namespace": "B"}}, ".k8sService.namespace", "not a valid"),
        ({"k8sServiceSelector": {}}, ".k8sServiceSelector", "no selector"),
        (
            {"k8sServiceSelector": {"selector": [], "namespace": "a"}},
            ".k8sServiceSelector.selector",
            "mapping",
        ),
        (
            {"k8sService": {"serviceName": "a"}, "k8sServiceSelector": {"selector": {}}},
            ".k8sServiceSelector",
            "exclude each other",
        ),
        ({"k8sservice": {}}, ".k8sservice", "unknown key"),
    ],
)
def test_services_that_are_refused(element: dict[str, Any], path: str, words: str) -> None:
    """An element without content would be every service for the engine."""
    refuses({"egress": [{"toServices": [element]}]}, f"spec.egress[0].toServices[0]{path}", words)


def test_a_cluster_wide_policy_names_the_namespace_of_a_service() -> None:
    """It has none of its own."""
    spec = {"egress": [{"toServices": [{"k8sService": {"serviceName": "a"}}]}]}
    refuses(spec, "spec.egress[0].toServices[0].k8sService", "no namespace", CCNP)


def test_groups_of_a_cloud() -> None:
    """The canonical text of the reference, on both sides."""
    group = {"aws": {"securityGroupsIds": ["sg-2", "sg-1"], "region": "eu", "labels": {"b": "c", "a": "b"}}}
    text = '{"aws":{"labels":{"a":"b","b":"c"},"region":"eu","securityGroupsIds":["sg-1","sg-2"]}}'
    assert entry_of("egress", {"toGroups": [group]}).peers == Peers(cloud_groups=(text,))
    assert entry_of("ingressDeny", {"fromGroups": [group]}).peers == Peers(cloud_groups=(text,))
    assert canonical_group(group) == text
    assert canonical_group({"aws": {**group["aws"], "securityGroupsNames": None}}) == text


@pytest.mark.parametrize(
    ("group", "path", "words"),
    [
        ({}, "", "says nothing"),
        ({"gcp": {}}, ".gcp", "unknown key"),
        ({"aws": {}}, ".aws", "names nothing"),
        ({"aws": {"region": 5}}, ".aws.region", "expected a text"),
        ({"aws": {"securityGroupsIds": "a"}}, ".aws.securityGroupsIds", "expected a list"),
        ({"aws": {"securityGroupsNames": [1]}}, ".aws.securityGroupsNames[0]", "expected a text"),
        ({"aws": {"labels": []}}, ".aws.labels", "expected a mapping"),
        ({"aws": {"labels": {"a": 1}}}, ".aws.labels.a", "expected a text"),
    ],
)
def test_groups_that_are_refused(group: dict[str, Any], path: str, words: str) -> None:
    """Also those that name nothing."""
    refuses({"egress": [{"toGroups": [group]}]}, f"spec.egress[0].toGroups[0]{path}", words)


@pytest.mark.parametrize(
    ("element", "text", "pattern"),
    [
        ({"matchName": "Example.COM."}, "example.com", False),
        ({"matchName": "_srv.a-b"}, "_srv.a-b", False),
        ({"matchName": "intranet"}, "intranet", False),
        ({"matchPattern": "*.Example.com"}, "*.example.com", True),
        ({"matchPattern": "*"}, "*", True),
        ({"matchPattern": "**"}, "*", True),
        ({"matchPattern": "*."}, "*", True),
        ({"matchPattern": "**.a"}, "**.a", True),
        ({"matchPattern": "****.a.**.b"}, "**.a.*.b", True),
        ({"matchPattern": "a**b.c"}, "a*b.c", True),
        ({"matchPattern": "*.*.a"}, "*.*.a", True),
        ({"matchPattern": "a.b."}, "a.b", False),
    ],
)
def test_names(element: dict[str, str], text: str, pattern: bool) -> None:
    """R-30: lower case, no dot at the end, one spelling for one meaning."""
    assert entry_of("egress", {"toFQDNs": [element]}).peers == Peers(
        fqdns=(FqdnPeer(text=text, pattern=pattern),)
    )
    assert canonical_pattern(text) == text


@pytest.mark.parametrize(
    ("element", "path", "words"),
    [
        ({}, "", "says nothing"),
        ({"matchName": "a", "matchPattern": "b"}, ".matchPattern", "exclude each other"),
        ({"matchName": ""}, ".matchName", "not a DNS name"),
        ({"matchName": "."}, ".matchName", "not a DNS name"),
        ({"matchName": "*.a"}, ".matchName", "not a DNS name"),
        ({"matchName": "a..b"}, ".matchName", "not a DNS name"),
        ({"matchName": ".a"}, ".matchName", "not a DNS name"),
        ({"matchName": "ä.de"}, ".matchName", "not a DNS name"),
        ({"matchName": "a b"}, ".matchName", "not a DNS name"),
        ({"matchName": "a\n"}, ".matchName", "not a DNS name"),
        ({"matchName": "a" * 256}, ".matchName", "not a DNS name"),
        ({"matchPattern": ""}, ".matchPattern", "not a pattern"),
        ({"matchPattern": ".a*"}, ".matchPattern", "not a pattern"),
        ({"matchPattern": " *.a"}, ".matchPattern", "not a pattern"),
        ({"matchPattern": "a?.b"}, ".matchPattern", "not a pattern"),
        ({"matchPattern": "a..*"}, ".matchPattern", "not a pattern"),
        ({"matchPattern": "*" * 256}, ".matchPattern", "not a pattern"),
        ({"matchPattern": 5}, ".matchPattern", "expected a text"),
        ({"matchname": "a"}, ".matchname", "unknown key"),
    ],
)
def test_names_that_are_refused(element: dict[str, Any], path: str, words: str) -> None:
    """R-6."""
    refuses({"egress": [{"toFQDNs": [element]}]}, f"spec.egress[0].toFQDNs[0]{path}", words)


FULL = {
    "Endpoints": [{}],
    "Entities": ["all"],
    "CIDR": ["10.0.0.0/8"],
    "CIDRSet": [{"cidr": "fd00::/8"}],
    "Nodes": [{}],
    "Groups": [{"aws": {"region": "a"}}],
    "Services": [{"k8sService": {"serviceName": "a"}}],
    "FQDNs": [{"matchName": "a"}],
}


@pytest.mark.parametrize("first", FULL)
@pytest.mark.parametrize("second", FULL)
def test_an_entry_names_its_peers_in_one_way(first: str, second: str) -> None:
    """R-3: each pair of fields is refused, an empty one beside another is not."""
    one = {f"to{first}": FULL[first]}
    if first == second:
        assert entry_of("egress", one).peers != Peers()
        return
    faults = faults_of({"egress": [{**one, f"to{second}": FULL[second]}]})
    assert [("two ways" in reason, path) for path, reason in faults] in (
        [(True, f"spec.egress[0].to{first}")],
        [(True, f"spec.egress[0].to{second}")],
    )
    assert entry_of("egress", {**one, f"to{second}": []}).peers == entry_of("egress", one).peers


@pytest.mark.parametrize(
    ("selector", "path", "words"),
    [
        ({"matchLabel": {}}, ".matchLabel", "unknown key"),
        ({"matchLabels": {"a": 1}}, ".matchLabels.a", "expected a text"),
        ({"matchLabels": {"a": "b c"}}, ".matchLabels.a", "not a valid label value"),
        ({"matchLabels": {"a": "b" * 64}}, ".matchLabels.a", "not a valid label value"),
        ({"matchLabels": {"": "b"}}, ".matchLabels.", "not a valid label key"),
        ({"matchLabels": {"a b": "c"}}, ".matchLabels.a b", "not a valid label key"),
        ({"matchExpressions": [{"key": "a"}]}, ".matchExpressions[0]", "no operator"),
        ({"matchExpressions": [{"operator": "Exists"}]}, ".matchExpressions[0]", "no key"),
        (
            {"matchExpressions": [{"key": "a", "operator": "Is"}]},
            ".matchExpressions[0].operator",
            "unknown operator",
        ),
        ({"matchExpressions": [{"key": "a", "operator": "In"}]}, ".matchExpressions[0]", "without values"),
        (
            {"matchExpressions": [{"key": "a", "operator": "NotIn", "values": []}]},
            ".matchExpressions[0]",
            "without values",
        ),
        (
            {"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]},
            ".matchExpressions[0]",
            "with values",
        ),
    ],
)
def test_selectors_that_are_refused(selector: dict[str, Any], path: str, words: str) -> None:
    """Each at its place."""
    refuses({"ingress": [{"fromEndpoints": [selector]}]}, f"spec.ingress[0].fromEndpoints[0]{path}", words)


@pytest.mark.parametrize(
    ("key", "source", "name"),
    [
        ("app", "any", "app"),
        ("any:app", "any", "app"),
        ("k8s:app.kubernetes.io/name", "k8s", "app.kubernetes.io/name"),
        ("reserved:host", "reserved", "host"),
        ("$host", "reserved", "host"),
        ("cidr:2001-db8--0/32", "cidr", "2001-db8--0/32"),
    ],
)
def test_keys_of_selectors(key: str, source: str, name: str) -> None:
    """R-11, the same in labels and in expressions."""
    for selector in (
        {"matchLabels": {key: "v"}},
        {"matchExpressions": [{"key": key, "operator": "In", "values": ["v", "v"]}]},
    ):
        (found,) = entry_of("egress", {"toEndpoints": [selector]}).peers.selectors
        assert Requirement(source, name, Operator.IN, ("v",)) in found.requirements
