"""Packets for raw sockets: checksums by the slow rule of RFC 1071, fragments put together again."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.fqdn.proxy import datagram

SERVER4, CLIENT4 = socket.inet_aton("10.0.0.53"), socket.inet_aton("10.0.0.7")
SERVER6, CLIENT6 = (socket.inet_pton(socket.AF_INET6, one) for one in ("fd00::53", "fd00::7"))
IPV4, IPV6 = 20, 40


def folded(words: bytes) -> int:
    """The sum of RFC 1071, word by word."""
    words += bytes(len(words) % 2)
    total = sum(int.from_bytes(words[at : at + 2], "big") for at in range(0, len(words), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@given(st.binary(min_size=2, max_size=300), st.integers(1, 65_535), st.integers(1, 65_535))
def test_the_checksum_of_ipv6_is_right(message: bytes, sport: int, dport: int) -> None:
    head, constant = datagram.head6(SERVER6, sport, CLIENT6, dport)
    packet = datagram.answer6(head, constant, b"\xbe\xefrest", message)
    udp = packet[IPV6:]
    pseudo = SERVER6 + CLIENT6 + len(udp).to_bytes(4, "big") + b"\x00\x00\x00\x11"
    assert folded(pseudo + udp) == 0xFFFF
    assert udp[6:8] != b"\x00\x00"
    assert udp[8:] == b"\xbe\xef" + message[2:]
    assert int.from_bytes(packet[4:6], "big") == len(udp)


def test_a_sum_that_would_give_the_forbidden_zero() -> None:
    head, constant = datagram.head6(SERVER6, 53, CLIENT6, 4_000)
    for number in range(0x10000):
        packet = datagram.answer6(head, constant, number.to_bytes(2, "big"), bytes(4))
        if packet[46:48] == b"\xff\xff":
            return
    raise AssertionError("no message has this checksum")


@given(st.binary(min_size=2, max_size=300))
def test_the_header_of_ipv4(message: bytes) -> None:
    head = datagram.head4(SERVER4, 53, CLIENT4, 40_000)
    packet = datagram.answer4(head, b"\x12\x34query", message)
    assert packet[:2] == b"\x45\x00"
    assert packet[9] == socket.IPPROTO_UDP
    assert packet[12:20] == SERVER4 + CLIENT4
    length = (8 + len(message)).to_bytes(2, "big")
    assert packet[20:28] == b"\x00\x35\x9c\x40" + length + b"\x00\x00"  # RFC 768: not computed
    assert packet[28:] == b"\x12\x34" + message[2:]


@pytest.mark.parametrize("size", [1_233, 2_000, 4_000, 65_000])
def test_fragments_of_ipv4_are_the_packet(size: int) -> None:
    head = datagram.head4(SERVER4, 53, CLIENT4, 40_000)
    packet = datagram.answer4(head, b"id", bytes(range(256)) * (size // 256 + 1))
    whole = bytearray(len(packet) - IPV4)
    fragments = list(datagram.fragments4(packet, 77))
    for fragment in fragments:
        assert len(fragment) <= datagram.FRAGMENT_MTU
        assert fragment[4:6] == (77).to_bytes(2, "big")
        assert fragment[12:20] == SERVER4 + CLIENT4
        field = int.from_bytes(fragment[6:8], "big")
        assert bool(field & 0x2000) == (fragment is not fragments[-1])
        at = (field & 0x1FFF) * 8
        whole[at : at + len(fragment) - IPV4] = fragment[IPV4:]
    assert bytes(whole) == packet[IPV4:]


@pytest.mark.parametrize("size", [1_233, 2_000, 4_000, 65_000])
def test_fragments_of_ipv6_are_the_packet(size: int) -> None:
    head, constant = datagram.head6(SERVER6, 53, CLIENT6, 40_000)
    packet = datagram.answer6(head, constant, b"id", bytes(range(256)) * (size // 256 + 1))
    whole = bytearray(len(packet) - IPV6)
    fragments = list(datagram.fragments6(packet, 0xABCD))
    for fragment in fragments:
        assert len(fragment) <= datagram.FRAGMENT_MTU
        assert fragment[6] == 44
        assert int.from_bytes(fragment[4:6], "big") == len(fragment) - IPV6
        assert fragment[8:40] == SERVER6 + CLIENT6
        assert fragment[40] == socket.IPPROTO_UDP
        assert fragment[44:48] == (0xABCD).to_bytes(4, "big")
        field = int.from_bytes(fragment[42:44], "big")
        assert bool(field & 1) == (fragment is not fragments[-1])
        at = field & 0xFFF8
        whole[at : at + len(fragment) - 48] = fragment[48:]
    assert bytes(whole) == packet[IPV6:]
