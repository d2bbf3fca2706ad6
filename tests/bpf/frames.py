"""Frames read again, independently of the programs: addresses, ports, and whether every checksum is right."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

from tests.bpf import packets

_ETHERNET = 14
_CHECKSUM_AT = {packets.TCP: 16, packets.UDP: 6, packets.ICMP: 2, packets.ICMP6: 2}


def ones_sum(data: bytes) -> int:
    """The internet checksum's sum (RFC 1071), not complemented."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@dataclass(frozen=True)
class Frame:
    """An IP packet in Ethernet. `quote` is the packet that an ICMP error carries, from its IP header on."""

    source: str
    destination: str
    protocol: int
    source_port: int
    destination_port: int
    hops: int
    payload: bytes
    quote: Frame | None
    checksums_right: bool

    @property
    def ends(self) -> tuple[str, int, str, int]:
        """Source, its port, destination, its port; ICMP: id and type."""
        return self.source, self.source_port, self.destination, self.destination_port


def _split(ip: bytes) -> tuple[int, bytes, bytes, int, int, bytes]:
    """Version, source, destination, protocol, hop limit, transport."""
    if ip[0] >> 4 == 4:
        size = (ip[0] & 15) * 4
        total = struct.unpack(">H", ip[2:4])[0]
        return 4, ip[12:16], ip[16:20], ip[9], ip[8], ip[size:total]
    following, offset = ip[6], 40
    while following in (0, 43, 44, 60):
        length = 8 if following == 44 else (ip[offset + 1] + 1) * 8
        following, offset = ip[offset], offset + length
    return 6, ip[8:24], ip[24:40], following, ip[7], ip[offset:]


def _is_fragment(ip: bytes) -> bool:
    if ip[0] >> 4 == 4:
        return bool(struct.unpack(">H", ip[6:8])[0] & 0x3FFF)
    return ip[6] == 44


def _transport_sum(version: int, source: bytes, destination: bytes, protocol: int, transport: bytes) -> int:
    pseudo = b""
    if protocol != packets.ICMP:
        pseudo = source + destination + struct.pack(">II", len(transport), protocol)
    return ones_sum(pseudo + transport)


def seal(frame: bytes) -> bytes:
    """The frame with right checksums; transport ones only of whole packets. SCTP's is left alone."""
    ip = bytearray(frame[_ETHERNET:])
    if ip[0] >> 4 == 4:
        size = (ip[0] & 15) * 4
        ip[10:12] = bytes(2)
        ip[10:12] = struct.pack(">H", 0xFFFF ^ ones_sum(bytes(ip[:size])))
    version, source, destination, protocol, _, transport = _split(bytes(ip))
    place = _CHECKSUM_AT.get(protocol)
    if place is not None and not _is_fragment(bytes(ip)):
        at = bytes(ip).rindex(transport) + place
        ip[at : at + 2] = bytes(2)
        emptied = _split(bytes(ip))[5]
        found = 0xFFFF ^ _transport_sum(version, source, destination, protocol, emptied)
        if protocol == packets.UDP and not found:
            found = 0xFFFF
        ip[at : at + 2] = struct.pack(">H", found)
    return frame[:_ETHERNET] + bytes(ip)


def read(frame: bytes) -> Frame:
    """A frame's IP packet."""
    return read_ip(frame[_ETHERNET:], whole=True)


def read_ip(ip: bytes, *, whole: bool) -> Frame:
    """`whole`: the transport checksum is to be right too; a quote may be cut."""
    version, source, destination, protocol, hops, transport = _split(ip)
    right = version == 6 or ones_sum(ip[: (ip[0] & 15) * 4]) == 0xFFFF
    if whole and protocol in _CHECKSUM_AT and not _is_fragment(ip):
        right &= _transport_sum(version, source, destination, protocol, transport) == 0xFFFF
    ports, quote, payload = _ports(protocol, transport)
    return Frame(
        str(ipaddress.ip_address(source)),
        str(ipaddress.ip_address(destination)),
        protocol,
        *ports,
        hops,
        payload,
        quote,
        right and (quote is None or quote.checksums_right),
    )


def _ports(protocol: int, transport: bytes) -> tuple[tuple[int, int], Frame | None, bytes]:
    if protocol not in (packets.ICMP, packets.ICMP6):
        skip = {packets.TCP: 20, packets.UDP: 8}.get(protocol, 12)
        return struct.unpack(">HH", transport[:4]), None, transport[skip:]
    kind, identifier = transport[0], struct.unpack(">H", transport[4:6])[0]
    errors = (3, 11, 12) if protocol == packets.ICMP else (1, 2, 3, 4)
    if kind in errors:
        return (0, kind), read_ip(transport[8:], whole=False), transport[8:]
    return (identifier, kind), None, transport[8:]


def sealed(source: str, destination: str, protocol: int, payload: bytes, **extra: object) -> bytes:
    """A frame with right checksums; arguments as packets.packet()."""
    return seal(packets.packet(source, destination, protocol, payload, **extra))


def error_about(source: str, quoted: bytes, *, kind: int | None = None, code: int = 1) -> bytes:
    """An ICMP error from `source` to the sender of the frame `quoted`."""
    inner = quoted[_ETHERNET:]
    version = inner[0] >> 4
    sender = str(ipaddress.ip_address(_split(inner)[1]))
    protocol = packets.ICMP if version == 4 else packets.ICMP6
    kind = packets.UNREACHABLE[version] if kind is None else kind
    body = struct.pack(">BBHI", kind, code, 0, 0) + inner[:512]
    return sealed(source, sender, protocol, body)
