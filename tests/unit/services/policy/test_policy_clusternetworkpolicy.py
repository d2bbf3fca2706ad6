"""Tiered objects: tiers, order, actions, peers, ports, and each refusal with its place."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from axoneme.lib.labels import LabelSet, workload_labels
from axoneme.lib.policy.model import ANY_PORT, Action, NamedPort, PortBlock, one_port
from axoneme.lib.policy.precedence import Tier
from axoneme.lib.selectors import LabelSelector, Operator, Requirement
from services.policy.reading.clusternetworkpolicy import KINDS, RULES_OF_A_PRIORITY
from services.policy.reading.faults import InvalidPolicy
from services.policy.reading.objects import parse_object, parse_objects
from services.policy.rules import CidrPeer, EntityName, FqdnPeer, ParsedPolicy, Peers, PolicyKey, RuleEntry
from services.policy.scope import in_any_namespace

CLUSTER, ADMIN, BASELINE = "ClusterNetworkPolicy", "AdminNetworkPolicy", "BaselineAdminNetworkPolicy"
NAMESPACE_LABEL = "io.cilium.k8s.namespace.labels."
SPEC_OF_KIND: dict[str, dict[str, Any]] = {
    CLUSTER: {"tier": "Admin", "priority": 7, "subject": {"namespaces": {}}},
    ADMIN: {"priority": 7, "subject": {"namespaces": {}}},
    BASELINE: {"subject": {"namespaces": {}}},
}
ALLOW = {CLUSTER: "Accept", ADMIN: "Allow", BASELINE: "Allow"}
EVERYONE: list[dict[str, Any]] = [{"namespaces": {}}]
PODS = LabelSelector.of(in_any_namespace())


def written(kind: str, **spec: Any) -> dict[str, Any]:
    """An object of a kind, with parts of its spec replaced."""
    return {
        "apiVersion": KINDS[kind],
        "kind": kind,
        "metadata": {"name": "default"},
        "spec": SPEC_OF_KIND[kind] | spec,
    }


def parsed(kind: str, **spec: Any) -> ParsedPolicy:
    """The policy of an object; it reads the same from its stored form."""
    policy = parse_object(written(kind, **spec))
    assert isinstance(policy, ParsedPolicy)
    assert parse_object(policy.document) == policy
    return policy


def entry_of(kind: str, section: str = "egress", **entry: Any) -> RuleEntry:
    """The only entry of an object that allows everyone, with parts of it replaced."""
    side = "from" if section == "ingress" else "to"
    item = {"action": ALLOW[kind], side: EVERYONE} | entry
    (one,) = parsed(kind, **{section: [item]}).rules[0].entries
    return one


@pytest.mark.parametrize(
    ("kind", "spec", "tier", "level"),
    [
        (CLUSTER, {"tier": "Admin", "priority": 0}, Tier.ADMIN, 0),
        (CLUSTER, {"tier": "Admin", "priority": 1000}, Tier.ADMIN, 1000),
        (CLUSTER, {"tier": "Baseline", "priority": 3}, Tier.BASELINE, 3),
        (ADMIN, {"priority": 12}, Tier.ADMIN, 12),
        (BASELINE, {}, Tier.BASELINE, 0),
    ],
)
def test_tier_and_order(kind: str, spec: dict[str, Any], tier: Tier, level: int) -> None:
    """R-55, R-56: the object's priority, then the place of the rule in its section; nothing is locked."""
    rules = [{"action": "Deny"}, {"action": ALLOW[kind]}]
    policy = parsed(
        kind,
        **spec,
        ingress=[rule | {"from": EVERYONE} for rule in rules],
        egress=[rule | {"to": EVERYONE} for rule in rules],
    )
    assert policy.key == PolicyKey(kind, "", "default")
    (rule,) = policy.rules
    assert not rule.locks
    base = level * RULES_OF_A_PRIORITY
    assert [(entry.path, entry.tier, entry.priority, entry.action) for entry in rule.entries] == [
        ("spec.ingress[0]", tier, base, Action.DENY),
        ("spec.ingress[1]", tier, base + 1, Action.ALLOW),
        ("spec.egress[0]", tier, base, Action.DENY),
        ("spec.egress[1]", tier, base + 1, Action.ALLOW),
    ]


@pytest.mark.parametrize("kind", [CLUSTER, ADMIN])
def test_the_last_rule_of_a_priority_comes_before_the_next_priority(kind: str) -> None:
    """However many rules an object may have, they are all stronger than those of the next number."""
    most = 25 if kind == CLUSTER else 100
    rules = [{"action": "Pass", "to": EVERYONE}] * most
    last = parsed(kind, priority=4, egress=rules).rules[0].entries[-1]
    first = parsed(kind, priority=5, egress=rules).rules[0].entries[0]
    assert last.action is Action.PASS
    assert last.priority < first.priority


def test_an_object_without_rules_says_nothing() -> None:
    """It is accepted, as the API accepts it."""
    (rule,) = parsed(CLUSTER).rules
    assert (rule.entries, rule.locks) == ((), frozenset())


@pytest.mark.parametrize("kind", [CLUSTER, ADMIN, BASELINE])
@pytest.mark.parametrize(
    ("choice", "selector"),
    [
        ({"namespaces": {}}, PODS),
        (
            {"namespaces": {"matchLabels": {"team": "red"}}},
            LabelSelector.of(Requirement("k8s", f"{NAMESPACE_LABEL}team", Operator.IN, ("red",))),
        ),
        (
            {"namespaces": {"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["red"]}]}},
            PODS.also(Requirement("k8s", f"{NAMESPACE_LABEL}team", Operator.NOT_IN, ("red",))),
        ),
        ({"pods": {"namespaceSelector": {}, "podSelector": {}}}, PODS),
        ({"pods": {"podSelector": {}}}, PODS),
        (
            {
                "pods": {
                    "namespaceSelector": {"matchLabels": {"team": "red"}},
                    "podSelector": {"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]},
                }
            },
            LabelSelector.of(
                Requirement("k8s", f"{NAMESPACE_LABEL}team", Operator.IN, ("red",)),
                Requirement("k8s", "app", Operator.DOES_NOT_EXIST),
            ),
        ),
    ],
)
def test_subjects_and_pod_peers(kind: str, choice: dict[str, Any], selector: LabelSelector) -> None:
    """The same two ways to name pods, for subjects and peers of both directions."""
    assert parsed(kind, subject=choice).rules[0].subject == selector
    for section, side in (("ingress", "from"), ("egress", "to")):
        assert entry_of(kind, section, **{side: [choice]}).peers == Peers(selectors=(selector,))


@pytest.mark.parametrize("labels", ["reserved:host=", "reserved:world-ipv4=", "reserved:world-ipv6="])
def test_negative_selectors_select_pods_only(labels: str) -> None:
    """No tiered rule reaches nodes or outside addresses by what labels they lack."""
    negative = {"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]}
    both = {"namespaceSelector": negative, "podSelector": negative}
    for choice in ({"namespaces": negative}, {"pods": both}):
        subject = parsed(CLUSTER, subject=choice).rules[0].subject
        assert not subject.matches(LabelSet.parse([labels]))
        assert subject.matches(workload_labels([], namespace="a", cluster="c"))


@pytest.mark.parametrize("kind", [CLUSTER, ADMIN, BASELINE])
@pytest.mark.parametrize(
    ("networks", "cidrs"),
    [
        (["10.0.0.0/8"], ["10.0.0.0/8"]),
        (["10.1.2.3/8", "10.0.0.0/8", "0.0.0.0/0"], ["0.0.0.0/0", "10.0.0.0/8"]),
        (["2001:db8::/32"], ["2001:db8::/32"]),
        (["2001:db8::1/32", "2001:db8::/32", "::/0"], ["2001:db8::/32", "::/0"]),
    ],
)
def test_networks(kind: str, networks: list[str], cidrs: list[str]) -> None:
    """Prefixes outside the cluster, in egress; no exceptions."""
    peers = entry_of(kind, to=[{"networks": networks}]).peers
    assert peers == Peers(cidrs=tuple(CidrPeer(cidr=cidr) for cidr in cidrs))


def test_nodes_are_all_nodes() -> None:
    """The pod's own node too: a deny must not leave it out."""
    entry = entry_of(CLUSTER, action="Deny", to=[{"nodes": {}}, {"nodes": {"matchLabels": {}}}])
    assert entry.peers == Peers(entities=(EntityName.HOST, EntityName.REMOTE_NODE))


def test_domain_names() -> None:
    """A star is one or more whole labels here."""
    peers = entry_of(CLUSTER, to=[{"domainNames": ["Example.org.", "*.Example.org"]}]).peers
    assert peers == Peers(
        fqdns=(FqdnPeer(text="**.example.org", pattern=True), FqdnPeer(text="example.org", pattern=False))
    )


def test_peers_are_a_union() -> None:
    """Elements of one list are joined."""
    peers = entry_of(CLUSTER, to=[{"namespaces": {}}, {"networks": ["::/0"]}, {"nodes": {}}]).peers
    assert peers == Peers(
        selectors=(PODS,),
        cidrs=(CidrPeer(cidr="::/0"),),
        entities=(EntityName.HOST, EntityName.REMOTE_NODE),
    )


TCP, UDP, SCTP = 6, 17, 132
NAMED = {NamedPort(protocol, "http") for protocol in (TCP, UDP, SCTP)}


@pytest.mark.parametrize(
    ("protocols", "blocks"),
    [
        (None, {ANY_PORT}),
        ([{"tcp": {"destinationPort": {"number": 80}}}], {one_port(TCP, 80)}),
        ([{"udp": {"destinationPort": {"range": {"start": 80, "end": 83}}}}], {PortBlock(UDP, 80, 14)}),
        (
            [{"sctp": {"destinationPort": {"number": 1}}}, {"tcp": {"destinationPort": {"number": 2}}}],
            {one_port(SCTP, 1), one_port(TCP, 2)},
        ),
        ([{"destinationNamedPort": "http"}], NAMED),
    ],
)
def test_protocols(protocols: list[Any] | None, blocks: set[PortBlock | NamedPort]) -> None:
    """`protocols` of a ClusterNetworkPolicy; absent is every protocol, ICMP too."""
    given: dict[str, Any] = {} if protocols is None else {"protocols": protocols}
    entry = entry_of(CLUSTER, **given)
    assert {port for rule in entry.ports for port in rule.ports} == blocks


@pytest.mark.parametrize("kind", [ADMIN, BASELINE])
@pytest.mark.parametrize(
    ("ports", "blocks"),
    [
        (None, {ANY_PORT}),
        ([{"portNumber": {"protocol": "UDP", "port": 53}}], {one_port(UDP, 53)}),
        ([{"portNumber": {"port": 80}}], {one_port(TCP, 80)}),
        (
            [{"portRange": {"protocol": "SCTP", "start": 79, "end": 80}}],
            {one_port(SCTP, 79), one_port(SCTP, 80)},
        ),
        ([{"portRange": {"start": 80, "end": 81}}], {PortBlock(TCP, 80, 15)}),
        ([{"namedPort": "http"}], NAMED),
    ],
)
def test_admin_ports(kind: str, ports: list[Any] | None, blocks: set[PortBlock | NamedPort]) -> None:
    """`ports` of the older kinds; TCP unless said otherwise."""
    given: dict[str, Any] = {} if ports is None else {"ports": ports}
    entry = entry_of(kind, **given)
    assert {port for rule in entry.ports for port in rule.ports} == blocks


REFUSED_SPECS = [
    (CLUSTER, {"tier": None}, "spec", "no tier", "tier: Admin"),
    (CLUSTER, {"tier": "Normal"}, "spec.tier", "unknown tier 'Normal'", "Admin, Baseline"),
    (CLUSTER, {"priority": None}, "spec", "no priority", "from 0"),
    (CLUSTER, {"priority": 1001}, "spec.priority", "0 to 1000", ""),
    (CLUSTER, {"priority": -1}, "spec.priority", "0 to 1000", ""),
    (CLUSTER, {"priority": "7"}, "spec.priority", "0 to 1000", ""),
    (CLUSTER, {"priority": True}, "spec.priority", "0 to 1000", ""),
    (CLUSTER, {"subject": None}, "spec", "no subject", "every pod"),
    (CLUSTER, {"subject": {}}, "spec.subject", "says nothing", "namespaces, pods"),
    (CLUSTER, {"subject": {"namespaces": {}, "pods": {"podSelector": {}}}},
     "spec.subject.pods", "exclude", "one"),
    (CLUSTER, {"subject": {"pods": {}}}, "spec.subject.pods", "no podSelector", "every pod"),
    (CLUSTER, {"subject": {"nodes": {}}}, "spec.subject.nodes", "unknown key", "pods"),
    (CLUSTER, {"ingres": []}, "spec.ingres", "unknown key", "ingress?"),
    (CLUSTER, {"egress": [{"action": "Deny", "to": EVERYONE}] * 26},
     "spec.egress", "26 rules", "another object"),
    (ADMIN, {"egress": [{"action": "Deny", "to": EVERYONE}] * 101},
     "spec.egress", "101 rules", "another object"),
    (ADMIN, {"tier": "Admin"}, "spec.tier", "unknown key 'tier'", "priority"),
    (BASELINE, {"priority": 1}, "spec.priority", "unknown key 'priority'", "subject"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "spec", "path", "reason", "fix"), REFUSED_SPECS)
def test_refused_specs(kind: str, spec: dict[str, Any], path: str, reason: str, fix: str) -> None:
    """Each names the place, what is wrong and what to write instead."""
    with pytest.raises(InvalidPolicy) as caught:
        parse_object(written(kind, **spec))
    faults = caught.value.faults
    assert any(one.path == path and reason in one.reason and fix in one.fix for one in faults), faults


REFUSED_RULES = [
    (CLUSTER, "egress", {"action": None}, "", "no action", "Accept, Deny, Pass"),
    (CLUSTER, "egress", {"action": "Allow"}, ".action", "unknown action 'Allow'", "Accept"),
    (ADMIN, "egress", {"action": "Accept"}, ".action", "unknown action 'Accept'", "Allow"),
    (BASELINE, "egress", {"action": "Pass"}, ".action", "unknown action 'Pass'", "Allow"),
    (CLUSTER, "egress", {"name": "x" * 101}, ".name", "101 characters", "at most 100"),
    (CLUSTER, "egress", {"to": None}, "", "has no to", "at least one peer"),
    (CLUSTER, "ingress", {"from": None}, "", "has no from", "at least one peer"),
    (CLUSTER, "egress", {"to": []}, ".to", "without peers", "every pod"),
    (CLUSTER, "egress", {"to": EVERYONE * 26}, ".to", "26 peers", "split"),
    (CLUSTER, "egress", {"to": [{}]}, ".to[0]", "says nothing", "networks"),
    (CLUSTER, "egress", {"to": [{"namespaces": None}]}, ".to[0]", "says nothing", "networks"),
    (CLUSTER, "egress", {"to": [{"namespaces": {}, "networks": ["::/0"]}]},
     ".to[0].networks", "exclude", "one"),
    (CLUSTER, "ingress", {"from": [{"networks": ["10.0.0.0/8"]}]},
     ".from[0].networks", "not accepted", "pods"),
    (CLUSTER, "ingress", {"from": [{"networks": ["2001:db8::/32"]}]},
     ".from[0].networks", "not accepted", "pods"),
    (CLUSTER, "ingress", {"from": [{"nodes": {}}]}, ".from[0].nodes", "not accepted", "pods"),
    (CLUSTER, "ingress", {"from": [{"networks": None}]}, ".from[0]", "says nothing", "namespaces"),
    (BASELINE, "egress", {"to": [{"domainNames": ["a.b"]}]}, ".to[0].domainNames", "not accepted", "pods"),
    (CLUSTER, "egress", {"to": [{"networks": []}]}, ".to[0].networks", "is empty", "at least one"),
    (CLUSTER, "egress", {"to": [{"networks": ["10.0.0.1"]}]}, ".to[0].networks[0]", "not a prefix", "/32"),
    (CLUSTER, "egress", {"to": [{"networks": ["2001:db8::1"]}]},
     ".to[0].networks[0]", "not a prefix", "/128"),
    (CLUSTER, "egress", {"to": [{"networks": ["::/0"] * 26}]}, ".to[0].networks", "26 elements", "split"),
    (CLUSTER, "egress", {"to": [{"nodes": {"matchLabels": {"a": "b"}}}]},
     ".to[0].nodes", "by their labels", "toNodes"),
    (CLUSTER, "egress", {"to": [{"domainNames": ["*"]}]},
     ".to[0].domainNames[0]", "not a domain", "*.example.org"),
    (CLUSTER, "egress", {"to": [{"domainNames": ["a*.org"]}]},
     ".to[0].domainNames[0]", "not a domain", "example"),
    (CLUSTER, "egress", {"action": "Deny", "to": [{"domainNames": ["a.b"]}]},
     ".to[0].domainNames", "accept", "deny"),
    (CLUSTER, "egress", {"protocols": []}, ".protocols", "is empty", "leave it out"),
    (CLUSTER, "egress", {"protocols": [{}]}, ".protocols[0]", "says nothing", "tcp"),
    (CLUSTER, "egress", {"protocols": [{"tcp": {}}]},
     ".protocols[0].tcp", "no destinationPort", "end: 65535"),
    (CLUSTER, "egress", {"protocols": [{"icmp": {}}]}, ".protocols[0].icmp", "unknown key", "tcp"),
    (CLUSTER, "egress", {"protocols": [{"tcp": {"destinationPort": {"number": 0}}}]},
     ".protocols[0].tcp.destinationPort.number", "from 1 to 65535", ""),
    (CLUSTER, "egress", {"protocols": [{"tcp": {"destinationPort": {"range": {"start": 9, "end": 9}}}}]},
     ".protocols[0].tcp.destinationPort.range.end", "from 10 to 65535", ""),
    (CLUSTER, "egress", {"protocols": [{"tcp": {"destinationPort": {"range": {"start": 9}}}}]},
     ".protocols[0].tcp.destinationPort.range", "no end", "a number"),
    (CLUSTER, "egress", {"protocols": [{"destinationNamedPort": "80"}]},
     ".protocols[0].destinationNamedPort", "needs a letter", "destinationPort of tcp"),
    (CLUSTER, "egress", {"to": [{"networks": ["::/0"]}], "protocols": [{"destinationNamedPort": "http"}]},
     ".to[0]", "networks have no named ports", "numbers"),
    (ADMIN, "egress", {"to": [{"networks": ["0.0.0.0/0"]}], "ports": [{"namedPort": "http"}]},
     ".to[0]", "networks have no named ports", "numbers"),
    (ADMIN, "egress", {"protocols": []}, ".protocols", "unknown key 'protocols'", "ports"),
    (ADMIN, "egress", {"ports": [{"portNumber": {"protocol": "ANY", "port": 1}}]},
     ".ports[0].portNumber.protocol", "unknown protocol 'ANY'", "TCP"),
    (ADMIN, "egress", {"ports": [{"portNumber": {}}]}, ".ports[0].portNumber", "has no port", "a number"),
    (ADMIN, "egress", {"ports": [{"portRange": {"start": 9, "end": 8}}]},
     ".ports[0].portRange.end", "from 10 to 65535", ""),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "section", "rule", "path", "reason", "fix"), REFUSED_RULES)
def test_refused_rules(
    kind: str, section: str, rule: dict[str, Any], path: str, reason: str, fix: str
) -> None:
    """Each names the place, what is wrong and what to write instead; one fault for one mistake."""
    side = "from" if section == "ingress" else "to"
    item = {"action": ALLOW[kind], side: EVERYONE} | rule
    with pytest.raises(InvalidPolicy) as caught:
        parse_object(written(kind, **{section: [item]}))
    (fault,) = caught.value.faults
    assert fault.path == f"spec.{section}[0]{path}"
    assert reason in fault.reason
    assert fix in fault.fix


def test_the_baseline_is_one_object() -> None:
    """Only the name `default` is accepted, with the line of the name."""
    text = yaml.safe_dump(written(BASELINE)).replace("name: default", "name: other")
    with pytest.raises(InvalidPolicy) as caught:
        parse_objects(text)
    (fault,) = caught.value.faults
    assert (fault.path, fault.line) == ("metadata.name", 4)
    assert fault.fix == "name it default"


@pytest.mark.parametrize("kind", [CLUSTER, ADMIN, BASELINE])
def test_no_namespace_and_no_missing_spec(kind: str) -> None:
    """Cluster-wide objects have no namespace; an object without a spec is none."""
    document = written(kind) | {"metadata": {"name": "default", "namespace": "shop"}, "spec": None}
    with pytest.raises(InvalidPolicy) as caught:
        parse_object(document)
    assert {fault.path for fault in caught.value.faults} == {"metadata.namespace", ""}
