"""The compact look-up of test files against the kernel's, words for verdicts, and whole small cases."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from axoneme.lib.policy.lookup import lookup
from axoneme.lib.policy.model import (
    Action,
    AnyPeer,
    AuthMode,
    Contribution,
    Direction,
    Enforcement,
    IdentityPeer,
    MapEntry,
    Origin,
    Redirect,
    SubjectPolicy,
)
from axoneme.lib.policy.ports import ANY_PORT, NamedPort, PortBlock, blocks_of_range, one_port
from axoneme.lib.policy.precedence import precedence
from services.policy.cases.testfile import read_cases
from services.policy.cases.testrun import CaseResult, run_case
from services.policy.cases.verdicts import View, covers, names_policy, origin_text, text_of, word_of

_PORTS = (1, 79, 80, 81, 443, 65535)
_blocks = st.one_of(
    st.just(ANY_PORT),
    st.builds(PortBlock, st.sampled_from([6, 17, 1]), st.just(0), st.just(0)),
    st.builds(one_port, st.sampled_from([6, 17, 58]), st.sampled_from(_PORTS)),
    st.sampled_from(blocks_of_range(6, 70, 90)),
)
_actions = st.sampled_from([Action.ALLOW, Action.DENY, Action.REDIRECT, Action.PASS])


@st.composite
def contributions(draw: st.DrawFn) -> Contribution:
    """A contribution of some tier, for some peer."""
    action = draw(_actions)
    redirect = Redirect("http", priority=101) if action is Action.REDIRECT else None
    word = precedence(
        tier=draw(st.integers(0, 2)),
        priority=draw(st.integers(0, 1)),
        action=action,
        redirect_priority=101 if redirect else 126,
    )
    return Contribution(
        direction=draw(st.sampled_from(list(Direction))),
        peer=draw(st.sampled_from([AnyPeer(), IdentityPeer(1000), IdentityPeer(1001)])),
        ports=draw(_blocks),
        action=action,
        redirect=redirect,
        precedence=word,
        origins=frozenset({draw(st.integers(1, 4))}),
        audit=draw(st.booleans()) if draw(st.integers(0, 4)) == 0 else False,
        auth=draw(st.sampled_from([None, None, *AuthMode])) if action is Action.ALLOW else None,
    )


@given(
    st.lists(contributions(), max_size=8),
    st.sampled_from(list(Enforcement)),
    st.sampled_from(list(Enforcement)),
)
def test_the_compact_look_up_is_the_kernels(
    some: list[Contribution], ingress: Enforcement, egress: Enforcement
) -> None:
    """Twin: the same key and entry for every packet, and the word of the brute-force judgement."""
    policy = SubjectPolicy(ingress=ingress, egress=egress, contributions=frozenset(some))
    view = View(policy, {}, {})
    for direction in Direction:
        for identity in (1000, 1001, 1002):
            for protocol in (0, 1, 6, 17, 58):
                for port in _PORTS:
                    found = lookup(view.entries, direction, identity, protocol, port)
                    verdict = view.verdict(direction, identity, protocol, port)
                    assert (verdict.key, verdict.entry) == (found.key, found.entry)
                    judged = view.judgement(direction, identity, protocol, port)
                    assert verdict.text == word_of(judged)


def test_words() -> None:
    """What a decision is called."""

    def entry(action: Action, **more: Any) -> MapEntry:
        return MapEntry(action=action, precedence=1, **more)

    assert text_of(None) == "deny"
    assert text_of(entry(Action.ALLOW)) == "allow"
    assert text_of(entry(Action.DENY)) == "deny"
    assert text_of(entry(Action.DENY, audit=True)) == "audit"
    assert text_of(entry(Action.REDIRECT, redirect=Redirect("crd"))) == "redirect:crd"


def test_named_ports_of_a_packet() -> None:
    """A name counts for its own protocol only, and protocol 0 has no ports."""
    web = NamedPort(6, "web")
    assert covers(web, 6, 80, {(6, "web"): 80})
    assert not covers(web, 6, 80, {})
    assert not covers(web, 17, 80, {(17, "web"): 80})
    assert covers(ANY_PORT, 0, 0, {})
    assert not covers(one_port(6, 0), 0, 0, {})


def test_names_of_rules() -> None:
    """A policy may be named with its namespace and kind, or without."""
    spaced = Origin.of(kind="CiliumNetworkPolicy", namespace="shop", name="web", rule="spec.ingress[0]")
    wide = Origin.of(kind="ClusterNetworkPolicy", namespace="", name="adm", rule="spec.ingress[0]")
    assert origin_text(spaced) == "CiliumNetworkPolicy/shop/web spec.ingress[0]"
    assert all(names_policy(name, spaced) for name in ("web", "shop/web", "CiliumNetworkPolicy/shop/web"))
    assert not any(names_policy(name, spaced) for name in ("we", "other/web", "shop"))
    assert names_policy("ClusterNetworkPolicy/adm", wide)
    assert not names_policy("shop/adm", wide)


def run(text: str) -> CaseResult:
    """The result of the only case of a text."""
    (case,) = read_cases(text)
    return run_case(case)


def policy(spec: str, name: str = "p", kind: str = "CiliumNetworkPolicy") -> Any:
    """A policy object."""
    meta = {"name": name} | ({"namespace": "default"} if kind == "CiliumNetworkPolicy" else {})
    return {"apiVersion": "cilium.io/v2", "kind": kind, "metadata": meta, "spec": yaml.safe_load(spec)}


def case(flows: str, *policies: Any, **more: Any) -> CaseResult:
    """The result of a case with pods a and b, an address of each family, and a host."""
    endpoints = {
        "a": {"labels": {"app": "a"}},
        "b": {"labels": {"app": "b"}, "namedPorts": {"web": {"port": 8080}}},
        "four": {"kind": "world", "ip": "192.0.2.1"},
        "six": {"kind": "world", "ip": "2001:db8::1"},
        "host": {"kind": "host"},
    }
    whole = {"endpoints": endpoints, "policies": list(policies), "flows": yaml.safe_load(flows), **more}
    return run(yaml.safe_dump(whole))


def test_a_failure_names_the_rule() -> None:
    """Expected, actual, and who decided."""
    deny = policy("{endpointSelector: {}, ingressDeny: [{fromEndpoints: [{}]}]}")
    failed = case("[{from: a, to: b, port: 80, expect: {ingress: allow}}]", deny)
    (failure,) = failed.failures
    assert failure[:4] == ("a -> b TCP/80", "ingress", "allow", "deny")
    assert failure.because == "by CiliumNetworkPolicy/default/p spec.ingressDeny[0]"
    locked = policy("{endpointSelector: {}, ingress: [{}]}")
    (failure,) = case("[{from: six, to: b, port: 80, expect: {ingress: allow}}]", locked).failures
    assert failure.because == "default deny, switched on by CiliumNetworkPolicy/default/p spec.ingress[0]"
    (failure,) = case("[{from: a, to: four, port: 80, expect: {egress: deny, ingress: allow}}]").failures[:1]
    assert failure.because == "no policy locks egress of a"


def test_rejected_policies() -> None:
    """An object that is refused is a failure unless announced; the others stay in force."""
    bad = policy("{endpointSelector: {}, ingres: []}", "bad")
    lock = policy("{endpointSelector: {}, ingress: [{}]}", "lock")
    flows = "[{from: a, to: b, port: 80, expect: {ingress: deny}}]"
    (failure,) = case(flows, bad, lock).failures
    assert failure[:4] == ("", "policy bad", "accepted", "rejected")
    assert "ingres" in failure.because
    assert case(flows, bad, lock, expectLoadError=["bad"]).passed
    assert case(flows, bad, lock, expectLoadError=True).passed
    (failure,) = case(flows, lock, expectLoadError=["lock"]).failures
    assert failure[:4] == ("", "policy lock", "rejected", "accepted")
    assert not case(flows, lock, expectLoadError=True).passed


def test_r48_conflict_is_an_error_of_the_endpoint() -> None:
    """A policy that cannot be computed is said so; other endpoints are not affected."""
    rules = ("rules: {http: [{}]}", "rules: {kafka: [{topic: t}]}")
    both = [
        policy(
            "{endpointSelector: {matchLabels: {app: b}}, ingress: [{toPorts: "
            f"[{{ports: [{{port: '80', protocol: TCP}}], {one}}}]}}]}}",
            f"p{number}",
        )
        for number, one in enumerate(rules)
    ]
    flows = "[{from: a, to: b, port: 80, expect: {egress: allow, ingress: error}}]"
    assert case(flows, *both).passed
    (failure,) = case(flows.replace("error", "allow"), *both).failures
    assert "p0" in failure.because
    assert "p1" in failure.because


L7 = """{endpointSelector: {matchLabels: {app: b}}, ingress: [
  {fromEndpoints: [{}], toPorts: [{ports: [{port: web, protocol: TCP}], rules: {http: [{method: GET}]}}]},
  {fromEntities: [world], toPorts: [{ports: [{port: '8000', endPort: 9000, protocol: TCP}]}]}]}"""


@pytest.mark.parametrize(
    ("source", "verdict", "outcome"),
    [("a", "redirect:http", "deny"), ("four", "allow", "allow"), ("six", "allow", "allow")],
)
def test_requests(source: str, verdict: str, outcome: str) -> None:
    """CVE-2023-30851: HTTP rules of one peer say nothing for another; a range without rules accepts all."""
    flows = (
        f"[{{from: {source}, to: b, port: 8080, expect: {{ingress: '{verdict}'}}, "
        f"l7: [{{method: POST, expect: {outcome}}}, {{method: GET, expect: allow}}]}}]"
    )
    assert case(flows, policy(L7)).failures == ()


def test_requests_of_both_sides() -> None:
    """The first side that stops a request decides; one side can be asked alone."""
    outward = policy(
        "{endpointSelector: {matchLabels: {app: a}}, egress: [{toPorts: "
        "[{ports: [{port: '8080', protocol: TCP}], rules: {http: [{path: /x}]}}]}]}",
        "q",
    )
    flows = """
- from: a
  to: b
  port: 8080
  expect: {egress: "redirect:http", ingress: "redirect:http"}
  l7:
    - {method: GET, path: /x, expect: allow}
    - {method: GET, path: /y, expect: deny}
    - {method: GET, path: /y, side: ingress, expect: allow}
    - {method: POST, path: /x, side: egress, expect: allow}
- {from: a, to: b, port: 81, expect: {egress: deny}, l7: [{method: GET, expect: deny}]}
"""
    assert case(flows, policy(L7), outward).failures == ()


def test_r41_nothing_is_dropped_without_default_deny() -> None:
    """With enableDefaultDeny off L7 rules let every request through."""
    text = L7.replace("{endpointSelector", "{enableDefaultDeny: {ingress: false}, endpointSelector", 1)
    flows = """[{from: a, to: b, port: 8080, expect: {ingress: "redirect:http"},
      l7: [{method: POST, expect: allow}]}]"""
    assert case(flows, policy(text)).failures == ()


def test_the_baseline_comes_before_default_deny() -> None:
    """Where no rule of the normal tier matches, the baseline is asked, as recorded verdicts say."""
    baseline = {
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": "base"},
        "spec": {
            "tier": "Baseline",
            "priority": 1,
            "subject": {"namespaces": {}},
            "ingress": [{"action": "Accept", "from": [{"namespaces": {}}]}],
        },
    }
    lock = policy("{endpointSelector: {matchLabels: {app: b}}, ingress: [{}]}")
    flows = """
- {from: a, to: b, port: 80, expect: {ingress: allow}, matched: {ingress: [base]}}
- {from: b, to: a, port: 80, expect: {ingress: allow}, matched: {ingress: [base]}}
- {from: six, to: b, port: 80, expect: {ingress: deny}}
- {from: four, to: b, port: 80, expect: {ingress: deny}}
"""
    assert case(flows, baseline, lock).failures == ()


def test_audited_policies_forward_and_say_so() -> None:
    """A policy that is only tried out gives the verdict `audit`."""
    tried = policy("{endpointSelector: {}, ingressDeny: [{fromEntities: [world]}]}")
    tried["metadata"]["annotations"] = {"policy.axoneme.io/audit": "true"}
    flows = """
- {from: four, to: b, port: 80, expect: {ingress: audit}}
- {from: six, to: b, port: 80, expect: {ingress: audit}}
"""
    assert case(flows, tried).failures == ()


def test_matched_policies() -> None:
    """All named policies match, and one of them is behind the verdict."""
    narrow = policy("{endpointSelector: {}, ingress: [{fromEndpoints: [{matchLabels: {app: a}}]}]}", "narrow")
    wide = policy("{endpointSelector: {}, ingress: [{fromEntities: [all]}]}", "wide")
    from_b = "[{fromEndpoints: [{matchLabels: {app: b}}]}]"
    deny = policy(f"{{endpointSelector: {{}}, ingressDeny: {from_b}}}", "denial")
    flow = "[{from: %s, to: b, port: 80, expect: {ingress: %s}, matched: {ingress: [%s]}}]"
    assert case(flow % ("a", "allow", "narrow, wide"), narrow, wide, deny).passed
    assert case(flow % ("b", "deny", "default/denial"), narrow, wide, deny).passed
    assert not case(flow % ("b", "deny", "wide"), narrow, wide, deny).passed
    assert not case(flow % ("a", "allow", "narrow, denial"), narrow, wide, deny).passed


def test_authentication() -> None:
    """The mode that a connection must prove is compared when it is stated."""
    text = "{endpointSelector: {}, ingress: [{fromEndpoints: [{}], authentication: {mode: required}}]}"
    flow = "[{from: a, to: b, port: 80, expect: {ingress: allow, auth_ingress: %s}}]"
    assert case(flow % "spire", policy(text)).passed
    (failure,) = case(flow % "none", policy(text)).failures
    assert failure[1:4] == ("auth_ingress", "none", "spire")


def test_a_pod_with_impossible_labels() -> None:
    """The case fails with the reason, it does not end the run."""
    result = run("endpoints: {a: {labels: {app: 'x;y'}}}\nflows: [{from: a, to: a, expect: {egress: allow}}]")
    (failure,) = result.failures
    assert failure.what == "endpoints"
