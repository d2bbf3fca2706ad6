"""Kinds, parties, ports and verdicts as people write and read them."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axoneme.api.policy.v1 import policy_pb2 as pb
from axoneme.lib.errors import InvalidArgument
from services.policy.commands.kinds import KINDS, NAMESPACED, kind_of, namespaced
from services.policy.commands.partytext import parse_party, parse_port, protocol_name
from services.policy.commands.policyview import (
    ACTIONS,
    AUTH_MODES,
    DIRECTIONS,
    VERDICTS,
    policy_text,
    ports_text,
    rule_text,
)
from services.policy.reading import objects


def test_kinds_are_those_that_are_read() -> None:
    """No kind can be applied that cannot be named, and the reverse."""
    assert set(KINDS) == set(objects.KINDS)
    assert {kind for kind in KINDS if not namespaced(kind)} == set(objects.CLUSTER_WIDE)
    assert set(KINDS) - set(objects.CLUSTER_WIDE) == NAMESPACED


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("cnp", "CiliumNetworkPolicy"),
        ("CNP", "CiliumNetworkPolicy"),
        ("ciliumnetworkpolicies", "CiliumNetworkPolicy"),
        ("ccnp", "CiliumClusterwideNetworkPolicy"),
        ("netpol", "NetworkPolicy"),
        ("networkpolicies", "NetworkPolicy"),
        ("anp", "AdminNetworkPolicy"),
        ("banp", "BaselineAdminNetworkPolicy"),
        ("clusternetworkpolicy", "ClusterNetworkPolicy"),
        ("ccg", "CiliumCIDRGroup"),
        ("ciliumcidrgroups", "CiliumCIDRGroup"),
        ("cloudgroup", "CloudGroup"),
        ("pod", ""),
        ("", ""),
    ],
)
def test_names_of_kinds(text: str, kind: str) -> None:
    """Full names, plurals and short names in any case."""
    assert kind_of(text) == kind


@pytest.mark.parametrize(
    ("text", "party"),
    [
        ("default/web-0", pb.FlowParty(pod=pb.PodName(namespace="default", name="web-0"))),
        ("a/b.c", pb.FlowParty(pod=pb.PodName(namespace="a", name="b.c"))),
        ("10.0.0.1", pb.FlowParty(ip="10.0.0.1")),
        ("2001:db8::1", pb.FlowParty(ip="2001:db8::1")),
        ("::", pb.FlowParty(ip="::")),
        ("300", pb.FlowParty(identity=300)),
        ("4294967295", pb.FlowParty(identity=4294967295)),
        ("app=web", pb.FlowParty(labels=pb.LabelTexts(labels=["k8s:app=web"]))),
        ("k8s:app=a:b, x=y", pb.FlowParty(labels=pb.LabelTexts(labels=["k8s:app=a:b", "k8s:x=y"]))),
        ("url=http://x", pb.FlowParty(labels=pb.LabelTexts(labels=["k8s:url=http://x"]))),
        ("reserved:host", pb.FlowParty(labels=pb.LabelTexts(labels=["reserved:host"]))),
    ],
)
def test_parties(text: str, party: pb.FlowParty) -> None:
    """Every form of a side of a flow."""
    assert parse_party(text, "--from") == party


@pytest.mark.parametrize(
    "text", ["", "web", "A/b", "default/", "/web", "a/b/c", "4294967296", "0", "9" * 5000, "-1"]
)
def test_nobody(text: str) -> None:
    """The flag is named, and what to write."""
    with pytest.raises(InvalidArgument, match=r"--to: .* is nobody; write namespace/pod"):
        parse_party(text, "--to")


@given(text=st.text(max_size=30))
def test_any_text_is_a_party_or_a_refusal(text: str) -> None:
    """Never another error."""
    with contextlib.suppress(InvalidArgument):
        assert parse_party(text, "--from").WhichOneof("kind")


@pytest.mark.parametrize(
    ("text", "port"),
    [
        ("443/tcp", (6, 443)),
        ("443", (6, 443)),
        ("53/UDP", (17, 53)),
        ("8/icmp", (1, 8)),
        ("128/icmpv6", (58, 128)),
        ("0/tcp", (6, 0)),
        ("65535/sctp", (132, 65535)),
    ],
)
def test_ports(text: str, port: tuple[int, int]) -> None:
    """Number and protocol."""
    assert parse_port(text) == port


@pytest.mark.parametrize(
    "text", ["", "x", "80/", "80/x", "65536/tcp", "-1/tcp", "٣/tcp", "1" * 5000, "http/tcp"]
)
def test_no_ports(text: str) -> None:
    """Refused with the form to write; `80/` means TCP."""
    if text == "80/":
        assert parse_port(text) == (6, 80)
        return
    with pytest.raises(InvalidArgument, match="--port"):
        parse_port(text)


@pytest.mark.parametrize(
    ("ports", "text"),
    [
        (pb.PortMatch(any=pb.AnyPort()), "any port"),
        (pb.PortMatch(ports=pb.ProtocolPorts(protocol=6, port=80, prefix_length=16)), "80/TCP"),
        (pb.PortMatch(ports=pb.ProtocolPorts(protocol=17, port=1024, prefix_length=6)), "1024-2047/UDP"),
        (pb.PortMatch(ports=pb.ProtocolPorts(protocol=17)), "any port/UDP"),
        (pb.PortMatch(ports=pb.ProtocolPorts(protocol=47, prefix_length=16)), "0/47"),
        (pb.PortMatch(named=pb.NamedProtocolPort(protocol=6, name="web")), "web/TCP"),
    ],
)
def test_ports_as_text(ports: pb.PortMatch, text: str) -> None:
    """One port, a block, a protocol, everything, a name."""
    assert ports_text(ports) == text


def test_rules_as_text() -> None:
    """Object, rule and what it says; cluster-wide objects have no namespace."""
    name = pb.PolicyName(kind="CiliumNetworkPolicy", namespace="default", name="web")
    assert policy_text(name) == "CiliumNetworkPolicy default/web"
    assert policy_text(pb.PolicyName(kind="ClusterNetworkPolicy", name="a")) == "ClusterNetworkPolicy a"
    rule = pb.RuleReference(policy=name, rule="spec.ingress[0]", action=pb.ACTION_ALLOW)
    assert rule_text(rule) == "spec.ingress[0] of CiliumNetworkPolicy default/web (allow)"
    assert protocol_name(17) == "UDP"
    assert protocol_name(200) == "200"


def test_every_value_has_a_word() -> None:
    """An enum that grows must not print a question mark."""
    for names, enum in (
        (VERDICTS, pb.Verdict),
        (ACTIONS, pb.Action),
        (AUTH_MODES, pb.AuthMode),
        (DIRECTIONS, pb.Direction),
    ):
        assert set(names) == {number for number in enum.values() if number}
