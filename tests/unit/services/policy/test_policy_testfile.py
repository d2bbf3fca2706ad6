"""Test files: both formats, their defaults, and what is refused with which path."""

from __future__ import annotations

import json
from typing import Any

import pytest

from axoneme.lib.policy.model import AuthMode, Direction
from services.policy.cases.l7 import DnsRequest, GenericRequest, HttpRequest, Outcome, TlsRequest
from services.policy.cases.testcase import Flow, Kind
from services.policy.cases.testfile import read_cases
from services.policy.inputs import EnforcementMode, PolicySettings
from services.policy.reading.faults import InvalidPolicy

FLOWS = """
endpoints:
  a: {labels: {app: a}}
  w: {kind: world, ip: "2001:DB8::1"}
policies: []
flows:
  - {from: a, to: w, port: 80, expect: {egress: allow, ingress: none}}
"""


def faults_of(text: str) -> list[tuple[int, str, str]]:
    """Line, path and reason of every fault."""
    with pytest.raises(InvalidPolicy) as caught:
        read_cases(text)
    return [(one.line, one.path, one.reason) for one in caught.value.faults]


def test_defaults_of_a_case_with_flows() -> None:
    """What is absent has the default of a cluster."""
    (case,) = read_cases(FLOWS)
    assert (case.name, case.settings) == ("case 1", PolicySettings())
    pod, world = case.endpoints["a"], case.endpoints["w"]
    assert (pod.kind, pod.namespace, pod.service_account, pod.cluster) == (Kind.POD, "default", "default", "")
    assert (world.kind, world.address) == (Kind.WORLD, "2001:db8::1")
    (flow,) = case.flows
    assert flow == Flow("a", "w", 6, 80, {Direction.EGRESS: "allow", Direction.INGRESS: "none"}, line=7)
    assert str(flow) == "a -> w TCP/80"


def test_every_setting() -> None:
    """Names of the file format, values of the engine's."""
    config = {
        "clusterName": "east",
        "policyEnforcement": "always",
        "allowLocalhost": "policy",
        "ipv6": False,
        "policyCIDRMatchMode": ["nodes"],
        "policyDefaultLocalCluster": True,
        "nodeSelectorLabels": True,
        "hostFirewall": True,
    }
    (case,) = read_cases(json.dumps({"config": config, "endpoints": {}, "flows": []}))
    assert case.settings == PolicySettings(
        cluster_name="east",
        mode=EnforcementMode.ALWAYS,
        allow_localhost=False,
        families=frozenset({"ipv4"}),
        cidr_match_nodes=True,
        default_local_cluster=True,
        node_labels=True,
        host_firewall=True,
    )


def test_inputs_of_a_case() -> None:
    """Services, groups and learned names, and the named ports of a pod."""
    case_text = """
endpoints:
  a: {namedPorts: {Web: {proto: UDP, port: 53}}}
services:
  - {name: s, labels: {x: y}, selector: {app: b}}
  - {name: t, namespace: n, backends: [192.0.2.1, "2001:db8::1"]}
cidrGroups: [{name: g, externalCIDRs: [192.0.2.1/24, "2001:db8::/32"], labels: {k: v}}]
extGroups: {'{"aws": {"region": "eu"}}': [198.51.100.0/24]}
fqdnCache: {"API.example.com.": [192.0.2.9]}
flows: []
"""
    (case,) = read_cases(case_text)
    assert case.endpoints["a"].named_ports == {(17, "web"): 53}
    with_selector, with_backends = case.services
    assert (with_selector.namespace, with_selector.selector) == ("default", {"app": "b"})
    assert (with_backends.selector, with_backends.backends) == (None, ("192.0.2.1", "2001:db8::1"))
    assert case.cidr_groups[0].cidrs == ("192.0.2.0/24", "2001:db8::/32")
    assert case.cloud_groups[0].reference == '{"aws":{"region":"eu"}}'
    assert case.dns_names == {"api.example.com": ("192.0.2.9",)}


def test_one_case_a_list_cases_and_documents() -> None:
    """Every way to put cases into a file."""
    one: dict[str, Any] = {"id": "x", "endpoints": {}, "flows": []}
    assert [case.name for case in read_cases(json.dumps(one))] == ["x"]
    assert [case.name for case in read_cases(json.dumps([one, {**one, "id": "y"}]))] == ["x", "y"]
    assert [case.name for case in read_cases(json.dumps({"meta": {}, "cases": [one]}))] == ["x"]
    assert [case.name for case in read_cases(f"{FLOWS}---{FLOWS}")] == ["case 1", "case 2"]


def test_details_of_a_flow() -> None:
    """Authentication, rules behind the verdict, and requests of each kind."""
    text = """
endpoints: {a: {}, b: {}}
flows:
  - from: a
    to: b
    proto: icmpv6
    port: 128
    expect: {egress: "redirect:http", auth_egress: spire}
    auth_ingress: none
    matched: {ingress: [p, ns/q]}
    l7:
      - {method: POST, path: /x, headers: {X-A: "1"}, expect: allow}
      - {http: {host: h, headers: ["X-B: 2"]}, expect: deny, side: ingress}
      - {dns: example.com, expect: refuse}
      - {tls: example.com, expect: allow}
      - {kafka: {apiKey: produce}, expect: allow}
      - {l7proto: memcached, fields: {opCode: get}, expect: allow}
"""
    flow = read_cases(text)[0].flows[0]
    assert (flow.protocol, flow.port) == (58, 128)
    assert flow.auth == {Direction.EGRESS: AuthMode.REQUIRED, Direction.INGRESS: None}
    assert flow.matched == {Direction.INGRESS: ("p", "ns/q")}
    assert [check.request for check in flow.requests] == [
        HttpRequest(method="POST", path="/x", headers=(("X-A", "1"),)),
        HttpRequest(host="h", headers=(("X-B", "2"),)),
        DnsRequest(name="example.com"),
        TlsRequest(server_name="example.com"),
        GenericRequest(parser="kafka", fields=(("apiKey", "produce"),)),
        GenericRequest(parser="memcached", fields=(("opCode", "get"),)),
    ]
    assert [check.side for check in flow.requests][:2] == [None, Direction.INGRESS]
    assert flow.requests[2].expect is Outcome.REFUSE


@pytest.mark.parametrize(
    ("text", "line", "path", "reason"),
    [
        (FLOWS.replace("port: 80", "prot: 80"), 7, "flows[0].prot", "unknown key 'prot'"),
        (FLOWS.replace("egress: allow", "egres: allow"), 7, "flows[0].expect.egres", "unknown key 'egres'"),
        (FLOWS.replace("labels:", "lables:"), 3, "endpoints.a.lables", "unknown key 'lables'"),
        (FLOWS.replace("policies", "polices"), 5, "polices", "unknown key 'polices'"),
        (FLOWS.replace("to: w", "to: v"), 7, "flows[0].to", "'v' is none of the endpoints"),
        (FLOWS.replace("allow", "maybe"), 7, "flows[0].expect.egress", "'maybe' is no verdict"),
        (FLOWS.replace("port: 80", "port: 80, proto: TPC"), 7, "flows[0].proto", "'TPC' is no protocol"),
        (FLOWS.replace(', ip: "2001:DB8::1"', ""), 4, "endpoints.w", "needs an address"),
        (FLOWS.replace("2001:DB8::1", "2001:DB8"), 4, "endpoints.w.ip", "is not an address"),
        (FLOWS.replace("kind: world", "kind: wrld"), 4, "endpoints.w.kind", "'wrld' is not known here"),
        ("just text", 1, "", "expected a case, found a text"),
        ("policies: []", 1, "", "neither flows nor a matrix"),
        ("# nothing", 1, "", "the text holds no case"),
        ('{"cases": [], "cases": []}', 1, "", "the key 'cases' is repeated"),
        ('{"cases": [', 1, "", "not valid JSON"),
    ],
)
def test_faults(text: str, line: int, path: str, reason: str) -> None:
    """A fault says where and what."""
    (found,) = faults_of(text)
    assert found[:2] == (line, path)
    assert reason in found[2]


def _matrix(**changes: Any) -> dict[str, Any]:
    policy = {
        "kind": "NetworkPolicy",
        "spec": {"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}]},
    }
    return {
        "namespaces": {"x": {"team": "red"}},
        "pods": [{"namespace": "x", "name": "a", "labels": {"pod": "a"}, "ip": "192.0.2.1"}],
        "policies": [policy],
        "expected": {"TCP/80": {"combined": ["0"], "ingress": ["0"], "egress": ["1"]}},
        "expected_cilium": {"TCP/80": {"ingress": ["1"]}},
        "difference": "a word about it",
        **changes,
    }


def test_a_matrix_is_a_flow_for_each_cell() -> None:
    """Both sides and both together; pods have the named ports of Kubernetes' own tests."""
    (case,) = read_cases(json.dumps(_matrix()))
    verdicts = {Direction.INGRESS: "deny", Direction.EGRESS: "allow"}
    assert case.flows == (Flow("x/a", "x/a", 6, 80, verdicts, False, line=1),)
    pod = case.endpoints["x/a"]
    assert (pod.namespace_labels, pod.named_ports[6, "serve-81-tcp"]) == ({"team": "red"}, 81)


def test_what_cilium_does_counts_for_ip_blocks_only() -> None:
    """R-60 and R-63: an ipBlock selects no pods; every other difference follows the text of the API."""
    theirs = [{Direction.INGRESS: "allow"}]
    ours = [{Direction.INGRESS: "deny", Direction.EGRESS: "allow"}]
    for cidr, expected in (("192.0.2.0/24", theirs), ("10.0.0.0/8", ours), ("no prefix", ours)):
        block = {"kind": "NetworkPolicy", "spec": {"egress": [{"to": [{"ipBlock": {"cidr": cidr}}]}]}}
        (case,) = read_cases(json.dumps(_matrix(policies=[block])))
        assert [flow.verdicts for flow in case.flows] == expected


@pytest.mark.parametrize(
    ("pods", "order", "first"),
    [
        (["x/a", "x/b"], {}, "x/a"),
        (["x/b", "x/a"], {}, "x/b"),
        (["x/b", "x/a"], {"order": "text"}, "x/a"),
        (["x/a", "x-2/a"], {}, "x-2/a"),
        (["x/a", "x-2/a"], {"order": "listed"}, "x/a"),
        (["x-2/a", "x/a"], {}, "x-2/a"),
    ],
)
def test_order_of_a_matrix(pods: list[str], order: dict[str, str], first: str) -> None:
    """Rows are in the order of the list; a sorted one is read as recorded matrices are."""
    listed = [dict(zip(("namespace", "name"), pod.split("/"), strict=True)) for pod in pods]
    expected = {"TCP/80": {"ingress": ["01", "11"]}}
    (case,) = read_cases(json.dumps(_matrix(pods=listed, expected=expected, policies=[], **order)))
    denied = [flow for flow in case.flows if flow.verdicts == {Direction.INGRESS: "deny"}]
    assert [(flow.source, flow.target) for flow in denied] == [(first, first)]


@pytest.mark.parametrize(
    ("changes", "path", "reason"),
    [
        (
            {"expected": {"TCP/80": {"ingress": ["01"]}}},
            "expected.TCP/80.ingress",
            "not a matrix of the pods",
        ),
        ({"expected": {"TCP/80": {"ingress": ["x"]}}}, "expected.TCP/80.ingress", "not a matrix of the pods"),
        ({"expected": {"TCP": {"ingress": ["1"]}}}, "expected.TCP", "'TCP' is no protocol and port"),
        ({"expected": {"TCP/80": {"both": ["1"]}}}, "expected.TCP/80.both", "unknown key 'both'"),
        ({"pods": [{"namespace": "x"}]}, "pods[0]", "a pod needs namespace and name"),
        ({"expectations": {}}, "expectations", "unknown key 'expectations'"),
    ],
)
def test_faults_of_matrices(changes: dict[str, Any], path: str, reason: str) -> None:
    """A matrix has the shape of the pods."""
    found = faults_of(json.dumps(_matrix(**changes)))
    assert any(one[1] == path and reason in one[2] for one in found), found
