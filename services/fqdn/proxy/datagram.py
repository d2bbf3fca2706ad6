"""UDP answers as whole IP packets, for raw sockets that take the header from us. No I/O.

Only a raw socket can send from the resolver's address and port without binding them: a bound socket could
take the datagrams of a resolver on this node. The kernel fills in IPv4's total length, header checksum and
identification (raw(7)), nothing of IPv6.

The UDP checksum of IPv4 is zero, "not computed" (RFC 768): the datagram goes from this machine's memory into
a pod of this machine and never crosses a wire; translation leaves a zero alone. IPv6 has no such zero for us
(RFC 8200 §8.1), and the sum of 16-bit words modulo 65,535 is the packet's number modulo 65,535, which Python
has for less than half a microsecond.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

UDP_HEADER: Final = 8
MAX_PAYLOAD: Final = 65_507  # of IPv4
# Every link that carries IPv6 takes 1,280 bytes (RFC 8200 §5), and no link here less for IPv4.
FRAGMENT_MTU: Final = 1_280
_UDP: Final = 17
_HOPS: Final = 64
_MORE4: Final = 0x2000
_FRAGMENT_HEADER: Final = 44

_ip4 = struct.Struct(">BBHHHBBH4s4s").pack
_ip6 = struct.Struct(">IHBB16s16s").pack
_fragment6 = struct.Struct(">BBHI").pack
words = struct.Struct(">HH").pack
_word = struct.Struct(">H").pack


def head4(source: bytes, source_port: int, destination: bytes, destination_port: int) -> bytes:
    """What all answers of one server to one client socket begin with: 24 bytes, up to the UDP length."""
    header = _ip4(0x45, 0, 0, 0, 0, _HOPS, _UDP, 0, source, destination)
    return header + words(source_port, destination_port)


def answer4(head: bytes, query: bytes, message: bytes) -> bytes:
    """The packet of a message, with the id of the query."""
    return head + words(len(message) + UDP_HEADER, 0) + query[:2] + message[2:]


def head6(source: bytes, source_port: int, destination: bytes, destination_port: int) -> tuple[bytes, int]:
    """The 38 bytes after the payload length, and what they add to the checksum."""
    ports = words(source_port, destination_port)
    constant = int.from_bytes(source + destination + ports, "big") + _UDP
    return struct.pack(">BB", _UDP, _HOPS) + source + destination + ports, constant % 0xFFFF


def answer6(head: bytes, constant: int, query: bytes, message: bytes) -> bytes:
    """The packet of a message, with the id of the query and the checksum of RFC 8200 §8.1."""
    payload = query[:2] + message[2:]
    length = len(payload) + UDP_HEADER
    number = int.from_bytes(payload, "big") << (len(payload) & 1) * 8
    # The length counts twice: in the pseudo header and in the header. A sum of 0xFFFF would give the zero
    # that IPv6 forbids; both stand for the same number.
    checksum = 0xFFFF - (constant + 2 * length + number) % 0xFFFF
    return b"`\x00\x00\x00" + _word(length) + head + words(length, checksum) + payload


def fragments4(packet: bytes, identification: int) -> Iterator[bytes]:
    """The packet in pieces that fit every link. `identification` 1 to 65,535, not reused soon."""
    room = (FRAGMENT_MTU - 20) & ~7
    source_and_destination = packet[12:20]
    for at in range(20, len(packet), room):
        piece = packet[at : at + room]
        flags = (at - 20) >> 3 | (_MORE4 if at + room < len(packet) else 0)
        yield (
            struct.pack(">BBHHHBBH", 0x45, 0, 0, identification, flags, _HOPS, _UDP, 0)
            + source_and_destination
            + piece
        )


def fragments6(packet: bytes, identification: int) -> Iterator[bytes]:
    """The same for IPv6 (RFC 8200 §4.5); `identification` has 32 bits."""
    room = (FRAGMENT_MTU - 40 - 8) & ~7
    source, destination = packet[8:24], packet[24:40]
    for at in range(40, len(packet), room):
        piece = packet[at : at + room]
        offset = (at - 40) | (1 if at + room < len(packet) else 0)
        header = _ip6(0x6000_0000, len(piece) + 8, _FRAGMENT_HEADER, _HOPS, source, destination)
        yield header + _fragment6(_UDP, 0, offset, identification) + piece
