"""CiliumNetworkPolicy: what is understood, and how each thing that is not is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from axoneme.lib.policy.model import ANY_PORT, Direction, PortBlock, one_port
from services.policy.cnp import parse_object, parse_policies
from services.policy.faults import InvalidPolicy
from services.policy.rules import EntityName, Peers, Rule
from services.policy.selectors import LabelSelector, Operator, Requirement, in_namespace

EXAMPLES = Path(__file__).parents[4] / "examples" / "policies"
HEAD = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: p, namespace: shop}\n"


def rule_of(spec: dict[str, Any]) -> Rule:
    """The rule of a spec with an empty endpointSelector."""
    text = HEAD + yaml.safe_dump({"spec": {"endpointSelector": {}, **spec}})
    (policy,) = parse_policies(text)
    return policy.rules[0]


def faults_of(text: str) -> list[tuple[int, str, str]]:
    """Line, path and reason of each fault."""
    with pytest.raises(InvalidPolicy) as caught:
        parse_policies(text)
    return [(fault.line, fault.path, fault.reason) for fault in caught.value.faults]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_examples_are_accepted(path: Path) -> None:
    """Each example is a policy named like its file, and reads the same from its stored form."""
    (policy,) = parse_policies(path.read_text())
    assert policy.key.name == path.stem
    assert parse_object(policy.document) == policy


def test_allow_frontend_means_what_it_says() -> None:
    """The example's one entry: from frontend pods of the namespace, TCP 8080."""
    (policy,) = parse_policies((EXAMPLES / "allow-frontend.yaml").read_text())
    (entry,) = policy.rules[0].entries
    frontend = LabelSelector.of(
        Requirement("any", "app", Operator.IN, ("frontend",)), in_namespace("default")
    )
    assert (entry.path, entry.direction, entry.deny) == ("spec.ingress[0]", Direction.INGRESS, False)
    assert entry.peers == Peers(selectors=(frontend,))
    assert entry.ports == (one_port(6, 8080),)


TCP80 = [{"ports": [{"port": "80", "protocol": "TCP"}]}]


@pytest.mark.parametrize(
    ("entry", "peers", "ports"),
    [
        ({}, Peers(), (ANY_PORT,)),
        ({"toPorts": TCP80}, Peers(anyone=True), (one_port(6, 80),)),
        ({"toPorts": []}, Peers(), (ANY_PORT,)),
        ({"toPorts": [{}]}, Peers(anyone=True), ()),
        ({"fromEndpoints": []}, Peers(), (ANY_PORT,)),
        ({"fromEndpoints": [], "toPorts": TCP80}, Peers(), (one_port(6, 80),)),
        ({"fromEntities": []}, Peers(), (ANY_PORT,)),
        ({"fromEntities": ["all"]}, Peers(entities=(EntityName.ALL,)), (ANY_PORT,)),
        ({"fromEndpoints": None, "toPorts": TCP80}, Peers(anyone=True), (one_port(6, 80),)),
        (
            {"fromEndpoints": [{}]},
            Peers(selectors=(LabelSelector.of(in_namespace("shop")),)),
            (ANY_PORT,),
        ),
        ({"fromEndpoints": [{}], "toPorts": [{"ports": []}]}, None, ()),
        ({"fromEntities": ["all"], "toPorts": []}, None, (ANY_PORT,)),
    ],
)
def test_absent_empty_and_wildcard(
    entry: dict[str, Any], peers: Peers | None, ports: tuple[PortBlock, ...]
) -> None:
    """Absent, null, [] and [{}] each mean what they mean for this kind of policy."""
    (read,) = rule_of({"ingress": [entry]}).entries
    assert peers is None or read.peers == peers
    assert read.ports == ports


@pytest.mark.parametrize(
    ("port", "blocks"),
    [
        ({"port": "80", "protocol": "TCP"}, {one_port(6, 80)}),
        ({"port": "80"}, {one_port(6, 80), one_port(17, 80), one_port(132, 80)}),
        ({"port": "0", "protocol": "UDP"}, {PortBlock(17, 0, 0)}),
        ({"port": "0", "protocol": "UDP", "endPort": 99}, {PortBlock(17, 0, 0)}),
        ({"port": "80", "endPort": 79, "protocol": "TCP"}, {one_port(6, 80)}),
        ({"port": "80", "endPort": 83, "protocol": "TCP"}, {PortBlock(6, 80, 14)}),
        ({"port": "010", "protocol": "TCP"}, {one_port(6, 8)}),
        ({"port": "7", "endPort": 9, "protocol": "TCP"}, {one_port(6, 7), PortBlock(6, 8, 15)}),
    ],
)
def test_ports(port: dict[str, Any], blocks: set[PortBlock]) -> None:
    """Numbers, ranges as aligned blocks, 0 for every port, a missing protocol for TCP, UDP and SCTP."""
    (entry,) = rule_of({"egress": [{"toPorts": [{"ports": [port]}]}]}).entries
    assert set(entry.ports) == blocks


@pytest.mark.parametrize(
    ("spec", "path", "words"),
    [
        (
            {"egress": [{"toFQDNs": [{"matchName": "a.b"}]}]},
            "spec.egress[0].toFQDNs",
            "not supported yet: spec.egress[0].toFQDNs",
        ),
        ({"egress": [{"toFQDNs": []}]}, "spec.egress[0].toFQDNs", "not supported yet"),
        ({"ingress": [{"fromCIDR": ["10.0.0.0/8"]}]}, "spec.ingress[0].fromCIDR", "not supported yet"),
        ({"ingress": [{"icmps": [{}]}]}, "spec.ingress[0].icmps", "not supported yet"),
        ({"ingress": [{"fromEndpoint": []}]}, "spec.ingress[0].fromEndpoint", "unknown key"),
        ({"ingress": [{"toEndpoints": []}]}, "spec.ingress[0].toEndpoints", "unknown key"),
        ({"ingress": [{"fromEntities": ["wrld"]}]}, "spec.ingress[0].fromEntities[0]", "unknown entity"),
        ({"ingress": [{"fromEntities": ["health"]}]}, "spec.ingress[0].fromEntities[0]", "not supported yet"),
        (
            {"ingress": [{"toPorts": [{"ports": [{"port": 80}]}]}]},
            "spec.ingress[0].toPorts[0].ports[0].port",
            "expected a text",
        ),
        (
            {"ingress": [{"toPorts": [{"ports": [{"port": "http"}]}]}]},
            "spec.ingress[0].toPorts[0].ports[0].port",
            "not supported yet",
        ),
        (
            {"ingress": [{"toPorts": [{"ports": [{"port": "0x10"}]}]}]},
            "spec.ingress[0].toPorts[0].ports[0].port",
            "port name '0x10'",
        ),
        (
            {"ingress": [{"toPorts": [{"ports": [{"port": "65536"}]}]}]},
            "spec.ingress[0].toPorts[0].ports[0].port",
            "not a port",
        ),
        (
            {"ingress": [{"toPorts": [{"ports": [{"protocol": "TCP"}]}]}]},
            "spec.ingress[0].toPorts[0].ports[0]",
            "no port",
        ),
        (
            {"ingress": [{"toPorts": [{"ports": [{"port": "1", "protocol": "ICMP"}]}]}]},
            "spec.ingress[0].toPorts[0].ports[0].protocol",
            "not supported yet",
        ),
        (
            {"ingress": [{"toPorts": [{"ports": [{"port": str(n)} for n in range(41)]}]}]},
            "spec.ingress[0].toPorts[0].ports",
            "at most 40",
        ),
        (
            {"ingress": [{"toPorts": [{"ports": [{"port": "80"}], "rules": {"http": [{}]}}]}]},
            "spec.ingress[0].toPorts[0].rules",
            "not supported yet",
        ),
        ({"ingressDeny": [{"toPorts": [{}]}]}, "spec.ingressDeny[0].toPorts[0]", "denies nothing"),
        (
            {"egressDeny": [{"toEntities": ["all"], "toPorts": [{"ports": []}]}]},
            "spec.egressDeny[0].toPorts[0]",
            "denies nothing",
        ),
        ({"ingress": []}, "spec", "no rules"),
        ({}, "spec", "no rules"),
        (
            {"ingress": [{}], "enableDefaultDeny": {"ingress": False}},
            "spec.enableDefaultDeny",
            "not supported yet",
        ),
        ({"ingress": [None]}, "spec.ingress[0]", "null"),
        (
            {"ingress": [{"fromEndpoints": [{}], "fromEntities": ["all"]}]},
            "spec.ingress[0].fromEntities",
            "two ways",
        ),
        (
            {
                "ingress": [
                    {
                        "fromEndpoints": [
                            {
                                "matchExpressions": [
                                    {
                                        "key": "io.kubernetes.pod.namespace",
                                        "operator": "NotIn",
                                        "values": ["a"],
                                    }
                                ]
                            }
                        ]
                    }
                ]
            },
            "spec.ingress[0].fromEndpoints[0]",
            "outside the cluster",
        ),
        (
            {"ingress": [{"fromEndpoints": [{"matchLabels": {"reserved:world": ""}}]}]},
            "spec.ingress[0].fromEndpoints[0]",
            "outside the cluster",
        ),
        (
            {"ingress": [{"fromEndpoints": [{"matchExpressions": [{"key": "a", "operator": "Is"}]}]}]},
            "spec.ingress[0].fromEndpoints[0].matchExpressions[0].operator",
            "unknown operator",
        ),
        (
            {"ingress": [{"fromEndpoints": [{"matchExpressions": [{"key": "a", "operator": "In"}]}]}]},
            "spec.ingress[0].fromEndpoints[0].matchExpressions[0]",
            "without values",
        ),
    ],
)
def test_refused_with_the_exact_position(spec: dict[str, Any], path: str, words: str) -> None:
    """One fault each, at the path that is at fault."""
    text = HEAD + yaml.safe_dump({"spec": {"endpointSelector": {}, **spec}})
    faults = faults_of(text)
    assert [(path_, words in reason) for _, path_, reason in faults] == [(path, True)], faults


def test_all_faults_of_a_text_at_once() -> None:
    """Several documents, several faults, each with its line."""
    text = f"""{HEAD}spec:
  endpointSelector: {{}}
  egress:
    - toFQDNs:
        - matchName: example.com
    - toEndpoint: []
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: q}}
spec: {{}}
"""
    assert [(line, path) for line, path, _ in faults_of(text)] == [
        (7, "spec.egress[0].toFQDNs"),
        (9, "spec.egress[1].toEndpoint"),
        (12, "kind"),
    ]


def test_violations_carry_document_line_path_reason_and_fix() -> None:
    """The wire form of a fault."""
    with pytest.raises(InvalidPolicy) as caught:
        parse_policies(HEAD + "spec:\n  endpointSelector: {}\n  ingres:\n    - {}\n  egress: [{}]\n")
    (violation,) = caught.value.violations
    assert violation == ("documents[0].spec.ingres", "line 6: unknown key 'ingres'; did you mean ingress?")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "---\n",
        "a: 1",
        "[1]",
        "kind: CiliumNetworkPolicy\napiVersion: cilium.io/v1\n",
        HEAD,
        HEAD + "specs: []\n",
        HEAD + "spec: {ingress: [{}]}\n",
        HEAD.replace("name: p", "name: P_") + "spec: {endpointSelector: {}, ingress: [{}]}\n",
        HEAD.replace("shop", "Sh/op") + "spec: {endpointSelector: {}, ingress: [{}]}\n",
        HEAD + "spec: {endpointSelector: {}, nodeSelector: {}, ingress: [{}]}\n",
        (HEAD + "spec: {endpointSelector: {}, ingress: [{}]}\n---\n") * 2,
    ],
)
def test_objects_that_are_no_policy(text: str) -> None:
    """Each is refused, none crashes."""
    assert faults_of(text)


def test_lists_and_server_metadata() -> None:
    """What `kubectl get -o yaml` prints is accepted; status and server fields are not stored."""
    item = {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": "p", "uid": "1", "resourceVersion": "2", "annotations": {"a": "b"}},
        "spec": {"endpointSelector": {}, "ingress": [{}], "description": "x"},
        "status": {"conditions": []},
    }
    (policy,) = parse_policies(yaml.safe_dump({"apiVersion": "v1", "kind": "List", "items": [item]}), "shop")
    assert policy.key == ("CiliumNetworkPolicy", "shop", "p")
    assert policy.document["metadata"] == {"name": "p", "namespace": "shop"}
    assert "status" not in policy.document


def test_a_namespace_written_in_the_subject_is_replaced() -> None:
    """A policy never reaches the pods of another namespace."""
    subject = {"matchLabels": {"k8s:io.kubernetes.pod.namespace": "other", "app": "x"}}
    (policy,) = parse_policies(
        HEAD + yaml.safe_dump({"spec": {"endpointSelector": subject, "ingress": [{}]}})
    )
    expected = LabelSelector.of(Requirement("any", "app", Operator.IN, ("x",)), in_namespace("shop"))
    assert policy.rules[0].subject == expected
