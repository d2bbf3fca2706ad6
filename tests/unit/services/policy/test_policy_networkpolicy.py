"""NetworkPolicy: the nil and empty table, selectors, ports, refusals, and 203 sets with truth tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from axoneme.lib.labels import LabelSet, workload_labels
from axoneme.lib.policy.model import ANY_PORT, Action, Direction, NamedPort, PortBlock, one_port
from axoneme.lib.selectors import LabelSelector, Operator, Requirement
from services.policy.reading.faults import InvalidPolicy
from services.policy.reading.objects import parse_object, parse_objects
from services.policy.rules import CidrPeer, ParsedPolicy, Peers, Rule, RuleEntry
from services.policy.scope import in_any_namespace, in_namespace

HEAD = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: shop}\n"
NAMESPACE_LABEL = "io.cilium.k8s.namespace.labels."
DATA = Path(__file__).parents[3] / "data" / "conformance" / "k8s_networkpolicy.json"
CASES = json.loads(DATA.read_text())["cases"]


def parsed(text: str) -> ParsedPolicy:
    """The only policy of a text; it reads the same from its stored form."""
    (policy,) = parse_objects(text)
    assert isinstance(policy, ParsedPolicy)
    assert parse_object(policy.document) == policy
    return policy


def rule_of(spec: dict[str, Any]) -> Rule:
    """The rule of a spec."""
    (rule,) = parsed(HEAD + yaml.safe_dump({"spec": spec})).rules
    return rule


def ingress_of(entry: dict[str, Any]) -> RuleEntry:
    """One ingress entry."""
    (one,) = rule_of({"podSelector": {}, "ingress": [entry]}).entries
    return one


def in_k8s(key: str, *values: str) -> Requirement:
    """A pod label, In."""
    return Requirement("k8s", key, Operator.IN, values)


BOTH = frozenset(Direction)
INGRESS, EGRESS = frozenset({Direction.INGRESS}), frozenset({Direction.EGRESS})


@pytest.mark.parametrize(
    ("spec", "locks", "entries"),
    [
        ({}, INGRESS, 0),
        ({"ingress": []}, INGRESS, 0),
        ({"ingress": [{}]}, INGRESS, 1),
        ({"egress": []}, INGRESS, 0),
        ({"egress": [{}]}, BOTH, 1),
        ({"ingress": [{}], "egress": [{}]}, BOTH, 2),
        ({"policyTypes": []}, INGRESS, 0),
        ({"policyTypes": ["Ingress"]}, INGRESS, 0),
        ({"policyTypes": ["Egress"]}, EGRESS, 0),
        ({"policyTypes": ["Ingress", "Egress"]}, BOTH, 0),
        # What is not listed is inert, by the API text.
        ({"policyTypes": ["Egress"], "ingress": [{}]}, EGRESS, 0),
        ({"policyTypes": ["Ingress"], "ingress": [{}], "egress": [{}]}, INGRESS, 1),
    ],
)
def test_types_and_their_defaults(spec: dict[str, Any], locks: frozenset[Direction], entries: int) -> None:
    """R-60: Ingress always, Egress with an egress rule, unless policyTypes says otherwise."""
    rule = rule_of({"podSelector": {}, **spec})
    assert (rule.locks, len(rule.entries)) == (locks, entries)


def test_a_listed_type_is_checked_even_where_it_is_inert() -> None:
    """A section that has no effect may still not hold nonsense."""
    with pytest.raises(InvalidPolicy, match="unknown key 'form'"):
        rule_of({"podSelector": {}, "policyTypes": ["Egress"], "ingress": [{"form": []}]})


@pytest.mark.parametrize(
    ("written", "requirements"),
    [
        ({}, ()),
        ({"matchLabels": {"app": "web"}}, (in_k8s("app", "web"),)),
        (
            {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]},
            (Requirement("k8s", "app", Operator.NOT_IN, ("web",)),),
        ),
        # It cannot look into another namespace (CVE-2023-41333): both requirements hold.
        (
            {"matchLabels": {"io.kubernetes.pod.namespace": "kube-system"}},
            (in_k8s("io.kubernetes.pod.namespace", "kube-system"),),
        ),
    ],
)
def test_subject_is_of_the_namespace(written: dict[str, Any], requirements: tuple[Requirement, ...]) -> None:
    """The labels of pods (source k8s) and the namespace; an absent selector is an empty one."""
    expected = LabelSelector.of(in_namespace("shop"), *requirements)
    assert rule_of({"podSelector": written}).subject == expected
    if not written:
        assert rule_of({}).subject == expected


@pytest.mark.parametrize("entry", [{}, {"from": []}, {"from": None}], ids=["absent", "empty", "null"])
def test_no_peers_are_anyone(entry: dict[str, Any]) -> None:
    """The opposite of a CiliumNetworkPolicy: nothing said about the peer is everyone, every port."""
    one = ingress_of(entry)
    assert (one.peers, one.ports[0].ports) == (Peers(anyone=True), (ANY_PORT,))
    assert one.action is Action.ALLOW


@pytest.mark.parametrize(
    ("peer", "requirements"),
    [
        ({"podSelector": {}}, (in_namespace("shop"),)),
        ({"podSelector": {"matchLabels": {"app": "web"}}}, (in_namespace("shop"), in_k8s("app", "web"))),
        ({"namespaceSelector": {}}, (in_any_namespace(),)),
        ({"namespaceSelector": {}, "podSelector": {}}, (in_any_namespace(),)),
        (
            {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "web"}}},
            (in_any_namespace(), in_k8s("app", "web")),
        ),
        ({"namespaceSelector": {"matchLabels": {"team": "red"}}}, (in_k8s(f"{NAMESPACE_LABEL}team", "red"),)),
        (
            {"namespaceSelector": {"matchLabels": {"t": "r"}}, "podSelector": {"matchLabels": {"a": "b"}}},
            (in_k8s(f"{NAMESPACE_LABEL}t", "r"), in_k8s("a", "b")),
        ),
        (
            {"namespaceSelector": {"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]}},
            (
                Requirement("k8s", f"{NAMESPACE_LABEL}team", Operator.DOES_NOT_EXIST),
                in_any_namespace(),
            ),
        ),
    ],
)
def test_peer_selectors(peer: dict[str, Any], requirements: tuple[Requirement, ...]) -> None:
    """R-61: own namespace, namespaces by label, both; and pods alone, whatever the expression."""
    assert ingress_of({"from": [peer]}).peers == Peers(selectors=(LabelSelector.of(*requirements),))


@pytest.mark.parametrize(
    "labels", ["reserved:host=", "reserved:world=", "reserved:world-ipv6=", "reserved:health="]
)
def test_a_negative_namespace_selector_selects_pods_only(labels: str) -> None:
    """R-90: neither nodes nor addresses outside the cluster lack a namespace label in this sense."""
    negative = {"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["red"]}]}
    (selector,) = ingress_of({"from": [{"namespaceSelector": negative}]}).peers.selectors
    assert not selector.matches(LabelSet.parse([labels]))
    assert selector.matches(workload_labels([], namespace="a", cluster="c"))
    red = workload_labels([], namespace="a", cluster="c", namespace_labels={"team": "red"})
    assert not selector.matches(red)


@pytest.mark.parametrize(
    ("block", "peer"),
    [
        ({"cidr": "10.0.0.0/8"}, CidrPeer(cidr="10.0.0.0/8")),
        ({"cidr": "10.1.2.3/8"}, CidrPeer(cidr="10.0.0.0/8")),
        ({"cidr": "0.0.0.0/0", "except": []}, CidrPeer(cidr="0.0.0.0/0")),
        (
            {"cidr": "10.0.0.0/8", "except": ["10.2.0.0/16", "10.1.0.0/16"]},
            CidrPeer(cidr="10.0.0.0/8", excepts=("10.1.0.0/16", "10.2.0.0/16")),
        ),
        ({"cidr": "2001:DB8::/32"}, CidrPeer(cidr="2001:db8::/32")),
        ({"cidr": "2001:db8::1/32"}, CidrPeer(cidr="2001:db8::/32")),
        ({"cidr": "::/0", "except": []}, CidrPeer(cidr="::/0")),
        (
            {"cidr": "2001:db8::/32", "except": ["2001:db8:2::/48", "2001:db8:1::/48"]},
            CidrPeer(cidr="2001:db8::/32", excepts=("2001:db8:1::/48", "2001:db8:2::/48")),
        ),
    ],
)
def test_ip_blocks(block: dict[str, Any], peer: CidrPeer) -> None:
    """Prefixes in canonical form; they are addresses outside the cluster, never pods (R-63)."""
    assert ingress_of({"from": [{"ipBlock": block}]}).peers == Peers(cidrs=(peer,))


TCP, UDP, SCTP = 6, 17, 132


@pytest.mark.parametrize(
    ("ports", "blocks"),
    [
        (None, {ANY_PORT}),
        ([], {ANY_PORT}),
        ([{}], {PortBlock(TCP, 0, 0)}),
        ([{"protocol": "UDP"}], {PortBlock(UDP, 0, 0)}),
        ([{"port": 80}], {one_port(TCP, 80)}),
        ([{"port": 53, "protocol": "SCTP"}], {one_port(SCTP, 53)}),
        ([{"port": 80}, {"port": 53, "protocol": "UDP"}], {one_port(TCP, 80), one_port(UDP, 53)}),
        ([{"port": 80, "endPort": 80}], {one_port(TCP, 80)}),
        ([{"port": 80, "endPort": 83}], {PortBlock(TCP, 80, 14)}),
        ([{"port": 79, "endPort": 81}], {one_port(TCP, 79), PortBlock(TCP, 80, 15)}),
        ([{"port": "web"}], {NamedPort(TCP, "web")}),
        ([{"port": "dns", "protocol": "UDP"}, {"port": 1}], {NamedPort(UDP, "dns"), one_port(TCP, 1)}),
    ],
)
def test_ports(ports: list[dict[str, Any]] | None, blocks: set[PortBlock | NamedPort]) -> None:
    """R-62: TCP unless said otherwise, every port of it when none is named; no ports are all protocols."""
    entry = ingress_of({} if ports is None else {"ports": ports})
    assert {port for rule in entry.ports for port in rule.ports} == blocks


def test_paths_name_the_object_not_the_list() -> None:
    """An origin of a policy out of a list is the same as that of the policy alone."""
    alone = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "p"}}
    alone["spec"] = {"podSelector": {}, "ingress": [{}, {}]}
    (listed,) = parse_objects(yaml.safe_dump({"apiVersion": "v1", "kind": "List", "items": [alone]}))
    assert isinstance(listed, ParsedPolicy)
    assert listed == parse_object(alone)
    assert [entry.path for entry in listed.rules[0].entries] == ["spec.ingress[0]", "spec.ingress[1]"]


SPEC = "spec:\n  podSelector: {}\n  ingress:\n"


@pytest.mark.parametrize(
    ("body", "line", "path", "reason", "fix"),
    [
        ("", 1, "", "the object has no spec", "spec: {podSelector: {}}"),
        ("spec: {podSelectr: {}}\n", 4, "spec.podSelectr", "unknown key 'podSelectr'", "podSelector?"),
        ("spec: {policyTypes: [ingress]}\n", 4, "spec.policyTypes[0]", "unknown policy type", "Ingress?"),
        ("spec: {podSelector: {matchLabels: {'k8s:a': b}}}\n", 4,
         "spec.podSelector.matchLabels.k8s:a", "label key", "source"),
        ("spec: {podSelector: {matchExpressions: [{key: $a, operator: Exists}]}}\n", 4,
         "spec.podSelector.matchExpressions[0].key", "label key", "source"),
        (SPEC + "  - from: [{}]\n", 7,
         "spec.ingress[0].from[0]", "peer without content", "leave the list out"),
        (SPEC + "  - from:\n    - podSelector: null\n", 8,
         "spec.ingress[0].from[0]", "peer without content", "ipBlock"),
        (SPEC + "  - from: [null]\n", 7, "spec.ingress[0].from[0]", "null", ""),
        (SPEC + "  - to: []\n", 7, "spec.ingress[0].to", "unknown key 'to'", "from"),
        (SPEC + "  - from: [{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}]\n", 7,
         "spec.ingress[0].from[0]", "ipBlock and a selector", "two elements"),
        (SPEC + "  - from: [{ipBlock: {}}]\n", 7,
         "spec.ingress[0].from[0].ipBlock", "no cidr", "192.0.2.0/24"),
        (SPEC + "  - from: [{ipBlock: {cidr: 10.0.0.1}}]\n", 7,
         "spec.ingress[0].from[0].ipBlock.cidr", "not a prefix", "10.0.0.1/32"),
        (SPEC + "  - from: [{ipBlock: {cidr: '2001:db8::1'}}]\n", 7,
         "spec.ingress[0].from[0].ipBlock.cidr", "not a prefix", "2001:db8::1/128"),
        (SPEC + "  - from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}]\n", 7,
         "spec.ingress[0].from[0].ipBlock.except[0]", "does not lie inside 10.0.0.0/8", "narrows"),
        (SPEC + "  - from: [{ipBlock: {cidr: '2001:db8::/32', except: ['10.0.0.0/8']}}]\n", 7,
         "spec.ingress[0].from[0].ipBlock.except[0]", "does not lie inside 2001:db8::/32", "narrows"),
        (SPEC + "  - ports: [{port: '80'}]\n", 7, "spec.ingress[0].ports[0].port", "'80'", "without quotes"),
        (SPEC + "  - ports: [{port: 0}]\n", 7, "spec.ingress[0].ports[0].port", "from 1 to 65535", ""),
        (SPEC + "  - ports: [{port: 65536}]\n", 7, "spec.ingress[0].ports[0].port", "from 1 to 65535", ""),
        (SPEC + "  - ports: [{port: Web}]\n", 7, "spec.ingress[0].ports[0].port", "port name", "lower-case"),
        (SPEC + "  - ports: [{port: a--b}]\n", 7,
         "spec.ingress[0].ports[0].port", "port name", "lower-case"),
        (SPEC + "  - ports: [{endPort: 9}]\n", 7,
         "spec.ingress[0].ports[0].endPort", "without a port", "`port`"),
        (SPEC + "  - ports: [{port: web, endPort: 9}]\n", 7,
         "spec.ingress[0].ports[0].endPort", "named port", "number"),
        (SPEC + "  - ports: [{port: 80, endPort: 79}]\n", 7,
         "spec.ingress[0].ports[0].endPort", "from 80 to 65535", ""),
        (SPEC + "  - ports: [{port: 80, protocol: tcp}]\n", 7,
         "spec.ingress[0].ports[0].protocol", "unknown protocol 'tcp'", "TCP?"),
    ],
)  # fmt: skip
def test_refusals(body: str, line: int, path: str, reason: str, fix: str) -> None:
    """Each names line and path, what is wrong and what to write instead."""
    with pytest.raises(InvalidPolicy) as caught:
        parse_objects(HEAD + body)
    (fault,) = caught.value.faults
    assert (fault.line, fault.path) == (line, path)
    assert reason in fault.reason
    assert fix in fault.fix


class World:
    """The pods of a case, and what parsed policies say about them, by the definition and nothing else."""

    def __init__(self, case: dict[str, Any]) -> None:
        self.rules = [rule for policy in map(parse_object, case["policies"]) for rule in _rules(policy)]
        # The tables sort pods by `namespace/name` as one text, which the list of pods does not always.
        pods = sorted(case["pods"], key=lambda pod: f"{pod['namespace']}/{pod['name']}")
        self.pods = [
            workload_labels(
                [f"{key}={value}" for key, value in pod["labels"].items()],
                namespace=pod["namespace"],
                cluster="default",
                namespace_labels=case["namespaces"][pod["namespace"]],
            )
            for pod in pods
        ]

    def rows(self, direction: Direction, protocol: int, port: int, name: str) -> list[str]:
        """One text for each source pod, one digit for each destination."""
        marks = [
            [self._allowed(direction, source, destination, protocol, port, name) for destination in self.pods]
            for source in self.pods
        ]
        return ["".join(map(str, map(int, row))) for row in marks]

    def _allowed(
        self,
        direction: Direction,
        source: LabelSet,
        destination: LabelSet,
        protocol: int,
        port: int,
        name: str,
    ) -> bool:
        ingress = direction is Direction.INGRESS
        subject, peer = (destination, source) if ingress else (source, destination)
        rules = [rule for rule in self.rules if rule.subject.matches(subject) and rule.enforces(direction)]
        entries = [entry for rule in rules for entry in rule.entries if entry.direction is direction]
        return not rules or any(
            (entry.peers.anyone or any(one.matches(peer) for one in entry.peers.selectors))
            and any(_covers(one, protocol, port, name) for rule in entry.ports for one in rule.ports)
            for entry in entries
        )


def _rules(policy: object) -> tuple[Rule, ...]:
    assert isinstance(policy, ParsedPolicy)
    return policy.rules


def _covers(one: PortBlock | NamedPort, protocol: int, port: int, name: str) -> bool:
    if isinstance(one, NamedPort):
        return (one.protocol, one.name) == (protocol, name)
    return one.covers(one_port(protocol, port))


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_truth_tables(case: dict[str, Any]) -> None:
    """Each of the 203 sets means what Kubernetes says; an ipBlock selects no pods, as Cilium has it."""
    world = World(case)
    expected = case["expected_cilium" if "ipBlock" in case.get("difference", "") else "expected"]
    for flow, tables in expected.items():
        word, _, port = flow.partition("/")
        protocol = {"TCP": TCP, "UDP": UDP, "SCTP": SCTP}[word]
        name = f"serve-{port}-{word.lower()}"
        for direction in Direction:
            rows = world.rows(direction, protocol, int(port), name)
            assert rows == tables[direction.name.lower()], (flow, direction)
