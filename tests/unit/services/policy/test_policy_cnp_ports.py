"""toPorts and icmps: numbers, ranges, names and protocols, and what is refused."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axoneme.lib.policy.model import NamedPort, PortBlock, one_port
from services.policy.reading.icmpfields import MAX_FIELDS
from services.policy.reading.ports import MAX_PORTS
from services.policy.rules import PortRule
from tests.unit.services.policy.readings import entry_of, port_rule_of, refuses

TCP, UDP, SCTP = 6, 17, 132


@pytest.mark.parametrize(
    ("port", "blocks"),
    [
        ({"port": "80", "protocol": "TCP"}, {one_port(TCP, 80)}),
        ({"port": "80", "protocol": "tcp"}, {one_port(TCP, 80)}),
        ({"port": "80"}, {one_port(TCP, 80), one_port(UDP, 80), one_port(SCTP, 80)}),
        ({"port": "80", "protocol": ""}, {one_port(TCP, 80), one_port(UDP, 80), one_port(SCTP, 80)}),
        ({"port": "80", "protocol": "ANY"}, {one_port(TCP, 80), one_port(UDP, 80), one_port(SCTP, 80)}),
        ({"port": "0", "protocol": "UDP"}, {PortBlock(UDP, 0, 0)}),
        ({"port": "0"}, {PortBlock(TCP, 0, 0), PortBlock(UDP, 0, 0), PortBlock(SCTP, 0, 0)}),
        ({"port": "00", "protocol": "TCP"}, {PortBlock(TCP, 0, 0)}),
        ({"port": "0", "protocol": "UDP", "endPort": 99}, {PortBlock(UDP, 0, 0)}),
        ({"port": "80", "endPort": 79, "protocol": "TCP"}, {one_port(TCP, 80)}),
        ({"port": "80", "endPort": 80, "protocol": "TCP"}, {one_port(TCP, 80)}),
        ({"port": "80", "endPort": 0, "protocol": "TCP"}, {one_port(TCP, 80)}),
        ({"port": "80", "endPort": 83, "protocol": "TCP"}, {PortBlock(TCP, 80, 14)}),
        ({"port": "010", "protocol": "TCP"}, {one_port(TCP, 8)}),
        ({"port": "7", "endPort": 9, "protocol": "TCP"}, {one_port(TCP, 7), PortBlock(TCP, 8, 15)}),
        ({"port": "65535", "protocol": "SCTP"}, {one_port(SCTP, 65535)}),
        ({"port": "Web", "protocol": "TCP"}, {NamedPort(TCP, "web")}),
        ({"port": "0x10", "protocol": "TCP"}, {NamedPort(TCP, "0x10")}),
        ({"port": "dns"}, {NamedPort(TCP, "dns"), NamedPort(UDP, "dns"), NamedPort(SCTP, "dns")}),
        ({"port": "a" * 15, "protocol": "UDP"}, {NamedPort(UDP, "a" * 15)}),
        ({"protocol": "VRRP"}, {PortBlock(112, 0, 0)}),
        ({"protocol": "IGMP", "port": "0"}, {PortBlock(2, 0, 0)}),
        ({"protocol": "ICMP"}, {PortBlock(1, 0, 0)}),
        ({"protocol": "ICMPv6"}, {PortBlock(58, 0, 0)}),
    ],
)
@pytest.mark.parametrize("section", ["ingress", "egress", "egressDeny"])
def test_ports(port: dict[str, Any], blocks: set[PortBlock | NamedPort], section: str) -> None:
    """R-34, R-35: ranges as aligned blocks, 0 for every port, no protocol for TCP, UDP and SCTP."""
    rule = port_rule_of({"ports": [port, port]}, section)
    assert set(rule.ports) == blocks
    assert len(rule.ports) == len(blocks)
    assert rule.l7 is None


@given(st.integers(1, 65535), st.integers(0, 65535))
def test_a_range_covers_exactly_its_ports(first: int, last: int) -> None:
    """Brute force over the borders."""
    rule = port_rule_of({"ports": [{"port": str(first), "endPort": last, "protocol": "UDP"}]})
    blocks = [block for block in rule.ports if isinstance(block, PortBlock)]
    for port in {first - 1, first, last, (first + last) // 2, min(max(first, last) + 1, 65535)}:
        inside = port == first or first <= port <= last
        assert any(block.covers(one_port(UDP, port)) for block in blocks) == inside


@pytest.mark.parametrize(
    ("port", "path", "words"),
    [
        ({}, "", "no port"),
        ({"protocol": "TCP"}, "", "no port"),
        ({"port": 80}, ".port", "expected a text"),
        ({"port": ""}, ".port", "is not a port"),
        ({"port": "65536"}, ".port", "is not a port"),
        ({"port": "99999999999999999999"}, ".port", "is not a port"),
        ({"port": "-1"}, ".port", "is not a port"),
        ({"port": "08"}, ".port", "is not a port"),
        ({"port": "1-2"}, ".port", "is not a port"),
        ({"port": "80 "}, ".port", "is not a port"),
        ({"port": "a--b"}, ".port", "is not a port"),
        ({"port": "-a"}, ".port", "is not a port"),
        ({"port": "a" * 16}, ".port", "is not a port"),
        ({"port": "wéb"}, ".port", "is not a port"),
        ({"port": "80", "protocol": "TPC"}, ".protocol", "unknown protocol"),
        ({"port": "80", "protocol": 6}, ".protocol", "expected a text"),
        ({"port": "80", "endPort": "90"}, ".endPort", "expected a number"),
        ({"port": "80", "endPort": 65536}, ".endPort", "expected a number"),
        ({"port": "80", "endPort": -1}, ".endPort", "expected a number"),
        ({"port": "web", "endPort": 90}, ".endPort", "endPort after the name"),
        ({"port": "8", "protocol": "ICMP"}, ".port", "ICMP has no ports"),
        ({"port": "web", "protocol": "VRRP"}, ".port", "VRRP has no ports"),
        ({"port": "80", "protocols": "TCP"}, ".protocols", "unknown key"),
    ],
)
def test_ports_that_are_refused(port: dict[str, Any], path: str, words: str) -> None:
    """One fault each."""
    spec = {"ingress": [{"toPorts": [{"ports": [port]}]}]}
    refuses(spec, f"spec.ingress[0].toPorts[0].ports[0]{path}", words)


def test_as_many_ports_as_are_accepted() -> None:
    """R-6: at most 40 of an element, and as many elements as one likes."""
    ports = [{"port": str(number), "protocol": "TCP"} for number in range(1, MAX_PORTS + 2)]
    element = {"ports": ports[:MAX_PORTS]}
    assert len(entry_of("egress", {"toPorts": [element] * 3}).ports) == 3
    refuses({"egress": [{"toPorts": [{"ports": ports}]}]}, "spec.egress[0].toPorts[0].ports", "at most 40")


def test_elements_stay_apart() -> None:
    """Each element may have L7 rules of its own."""
    entry = entry_of(
        "egress",
        {
            "toPorts": [
                {"ports": [{"port": "1", "protocol": "TCP"}]},
                {"ports": [{"port": "2", "protocol": "UDP"}]},
            ]
        },
    )
    assert entry.ports == (PortRule(ports=(one_port(TCP, 1),)), PortRule(ports=(one_port(UDP, 2),)))


@pytest.mark.parametrize(
    ("field", "block"),
    [
        ({"type": 0}, one_port(1, 0)),
        ({"type": 8}, one_port(1, 8)),
        ({"type": "8"}, one_port(1, 8)),
        ({"type": 255, "family": "IPv4"}, one_port(1, 255)),
        ({"type": "EchoReply"}, one_port(1, 0)),
        ({"type": "EchoRequest", "family": "IPv4"}, one_port(1, 8)),
        ({"type": "Echo"}, one_port(1, 8)),
        ({"type": "ExtendedEchoReply"}, one_port(1, 43)),
        ({"type": 0, "family": "IPv6"}, one_port(58, 0)),
        ({"type": 128, "family": "IPv6"}, one_port(58, 128)),
        ({"type": "EchoRequest", "family": "IPv6"}, one_port(58, 128)),
        ({"type": "NeighborSolicitation", "family": "IPv6"}, one_port(58, 135)),
    ],
)
@pytest.mark.parametrize("section", ["ingress", "egressDeny"])
def test_icmp_types(field: dict[str, Any], block: PortBlock, section: str) -> None:
    """R-37: by number or name, of IPv4 unless said; type 0 is exact, not every type (R-90)."""
    (rule,) = entry_of(section, {"icmps": [{"fields": [field, field]}]}).ports
    assert rule == PortRule(ports=(block,))


@pytest.mark.parametrize(
    ("field", "path", "words"),
    [
        ({}, "", "no type"),
        ({"family": "IPv6"}, "", "no type"),
        ({"type": 256}, ".type", "not an ICMP type of IPv4"),
        ({"type": -1}, ".type", "not an ICMP type"),
        ({"type": True}, ".type", "not an ICMP type"),
        ({"type": 1.5}, ".type", "not an ICMP type"),
        ({"type": "256"}, ".type", "not an ICMP type"),
        ({"type": "Ping"}, ".type", "'Ping' is not an ICMP type of IPv4"),
        ({"type": "PacketTooBig"}, ".type", "not an ICMP type of IPv4"),
        ({"type": "Timestamp", "family": "IPv6"}, ".type", "not an ICMP type of IPv6"),
        ({"type": 8, "family": "ipv4"}, ".family", "unknown family"),
        ({"type": [8]}, ".type", "a list is not an ICMP type"),
        ({"type": 8, "code": 0}, ".code", "unknown key"),
    ],
)
def test_icmp_types_that_are_refused(field: dict[str, Any], path: str, words: str) -> None:
    """One fault each."""
    refuses({"egress": [{"icmps": [{"fields": [field]}]}]}, f"spec.egress[0].icmps[0].fields[0]{path}", words)


def test_as_many_icmp_types_as_are_accepted() -> None:
    """R-6: at most 40 of an element."""
    fields = [{"type": number} for number in range(MAX_FIELDS + 1)]
    (rule,) = entry_of("egress", {"icmps": [{"fields": fields[:MAX_FIELDS]}]}).ports
    assert len(rule.ports) == MAX_FIELDS
    refuses({"egress": [{"icmps": [{"fields": fields}]}]}, "spec.egress[0].icmps[0].fields", "at most 40")


@given(st.integers(0, 32), st.integers(0, 2**32 - 1))
def test_any_ipv4_prefix_reads_as_its_network(length: int, address: int) -> None:
    """Against the standard library."""
    text = f"{ipaddress.IPv4Address(address)}/{length}"
    (peer,) = entry_of("ingress", {"fromCIDR": [text]}).peers.cidrs
    assert peer.cidr == str(ipaddress.ip_network(text, strict=False))


@given(st.integers(0, 128), st.integers(0, 2**128 - 1).filter(lambda number: number >> 32 != 0xFFFF))
def test_any_ipv6_prefix_reads_as_its_network(length: int, address: int) -> None:
    """The twin for IPv6."""
    text = f"{ipaddress.IPv6Address(address)}/{length}"
    (peer,) = entry_of("ingress", {"fromCIDR": [text]}).peers.cidrs
    assert peer.cidr == str(ipaddress.ip_network(text, strict=False))
