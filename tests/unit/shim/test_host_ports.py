"""Host ports and wanted addresses: read, refused, told apart."""

from __future__ import annotations

import pytest

from axoneme.lib.errors import AlreadyExists, InvalidArgument, PoolExhausted
from shim.endpoints import HostPort
from shim.hostports import decode_host_ports, host_ports_from_mappings, host_ports_message, parse_host_ports
from shim.ipam import Ipam, decode_ips

CIDRS = ("10.1.0.0/29", "fd00:10:1::/125")
ROUTERS = ("10.1.0.1", "fd00:10:1::1")


def test_the_three_ways_to_write_host_ports_agree() -> None:
    texts = ("8080:80", "192.0.2.1:53:53/udp", "[2001:db8::1]:53:53/UDP", "8080:80/tcp")
    ports = parse_host_ports(texts)
    assert ports == (
        HostPort(53, 53, 17, "192.0.2.1"),
        HostPort(53, 53, 17, "2001:db8::1"),
        HostPort(8080, 80, 6, ""),
    )
    assert decode_host_ports(host_ports_message(ports)) == ports
    mappings = [
        {"hostPort": 8080, "containerPort": 80, "hostIP": "0.0.0.0"},
        {"hostPort": 53, "containerPort": 53, "protocol": "udp", "hostIP": "192.0.2.1"},
        {"hostPort": 53, "containerPort": 53, "protocol": "udp", "hostIP": "2001:db8:0::1"},
        {"hostPort": 0, "containerPort": 81},
    ]
    assert host_ports_from_mappings(mappings) == ports


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["8080"], "write 8080:80/tcp"),
        (["x:80"], "write 8080:80/tcp"),
        (["0:80"], "host port '0' is not within"),
        (["80:65536"], "container port '65536' is not within"),
        (["80:80/icmp"], "'icmp' is none of"),
        (["nowhere:80:80"], "no address of the node"),
        (["80:80", "80:81"], "80 leads to two ports"),
        (["80:80", "192.0.2.1:80:80"], "80 leads to two ports"),
        (["80:80", "[2001:db8::1]:80:80"], "80 leads to two ports"),
        ([f"{port}:80" for port in range(1, 200)], "at most 128"),
    ],
)
def test_bad_host_ports(texts: list[str], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        parse_host_ports(texts)


@pytest.mark.parametrize("mappings", [{}, [1], [{"hostPort": 80}], [{"hostPort": True, "containerPort": 1}]])
def test_bad_mappings(mappings: object) -> None:
    with pytest.raises(InvalidArgument):
        host_ports_from_mappings(mappings)


def test_wanted_addresses_are_canonical_and_ordered() -> None:
    assert decode_ips(["FD00:10:1:0::5", "10.1.0.5"]) == ("10.1.0.5", "fd00:10:1::5")
    for texts in (
        ["x"],
        ["10.1.0.5", "10.1.0.6"],
        ["fd00::5", "fd00::6"],
        ["127.0.0.1"],
        ["::1"],
        ["fe80::1"],
    ):
        with pytest.raises(InvalidArgument, match="ips"):
            decode_ips(texts)


@pytest.mark.parametrize(("address", "other"), [("10.1.0.5", "fd00:10:1::1"), ("fd00:10:1::5", "10.1.0.1")])
def test_a_wanted_address_is_given_or_refused(address: str, other: str) -> None:
    ipam = Ipam(CIDRS, ROUTERS)
    ips = ipam.allocate(1, [address])
    assert address in ips
    assert len(ips) == 2
    with pytest.raises(AlreadyExists, match=f"{address} is the address of endpoint 1") as refused:
        ipam.allocate(2, [address])
    assert refused.value.reason == "ADDRESS_NOT_USABLE"
    for useless in (other, "10.1.0.0", "fd00:10:1::", "10.1.0.7", "10.2.0.1", "fd00:10:2::1"):
        with pytest.raises(InvalidArgument) as outside:
            ipam.allocate(2, [useless])
        assert outside.value.reason == "ADDRESS_NOT_USABLE"
    # What was refused holds nothing: every other address can still be given out, none of them twice.
    given = [ip for owner in range(2, 6) for ip in ipam.allocate(owner)]
    assert len({*given, *ips}) == 10
    with pytest.raises(PoolExhausted):
        ipam.allocate(9)
    ipam.release(1)
    assert ipam.allocate(9, [address]) == tuple(sorted(ips, key=lambda ip: ":" in ip))
