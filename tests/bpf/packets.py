"""Packets for test runs, built by hand so that they can be wrong in any way. Addresses are text."""

from __future__ import annotations

import ipaddress
import struct

TCP, UDP, SCTP, ICMP, ICMP6 = 6, 17, 132, 1, 58
FIN, SYN, RST, ACK = 1, 2, 4, 16
ECHO = {4: 8, 6: 128}
ECHO_REPLY = {4: 0, 6: 129}
UNREACHABLE = {4: 3, 6: 1}
POD_MAC, HOST_MAC = bytes.fromhex("0200000000aa"), bytes.fromhex("0200000000bb")


def ethernet(payload: bytes, *, ethertype: int) -> bytes:
    return HOST_MAC + POD_MAC + struct.pack(">H", ethertype) + payload


def tcp(source: int, destination: int, flags: int = SYN, payload: bytes = b"") -> bytes:
    return struct.pack(">HHIIBBHHH", source, destination, 1, 1, 5 << 4, flags, 1024, 0, 0) + payload


def udp(source: int, destination: int, payload: bytes = b"data") -> bytes:
    return struct.pack(">HHHH", source, destination, 8 + len(payload), 0) + payload


def sctp(source: int, destination: int) -> bytes:
    return struct.pack(">HHII", source, destination, 1, 0)


def icmp(kind: int, identifier: int = 0, payload: bytes = b"ping", code: int = 0) -> bytes:
    return struct.pack(">BBHHH", kind, code, 0, identifier, 1) + payload


def ip(
    source: str,
    destination: str,
    protocol: int,
    payload: bytes,
    *,
    options: bytes = b"",
    fragment: int = 0,
    more: bool = False,
    fragment_id: int = 7,
    hop_limit: int = 64,
) -> bytes:
    """An IP packet without Ethernet; `fragment` is an offset in bytes, `options` also extension headers."""
    a, b = ipaddress.ip_address(source), ipaddress.ip_address(destination)
    if a.version == 4:
        word = fragment // 8 | (0x2000 if more else 0)
        total = 20 + len(options) + len(payload)
        first = 0x40 | (5 + len(options) // 4)
        head = struct.pack(">BBHHHBBH", first, 0, total, fragment_id, word, hop_limit, protocol, 0)
        return head + a.packed + b.packed + options + payload
    following = protocol
    if options:
        following, options = options[0], bytes([protocol]) + options[1:]
    if fragment or more:
        header = struct.pack(">BBHI", following, 0, fragment | int(more), fragment_id)
        following, options = 44, header + options
    body = options + payload
    return struct.pack(">IHBB", 6 << 28, len(body), following, hop_limit) + a.packed + b.packed + body


def packet(source: str, destination: str, protocol: int, payload: bytes, **extra: object) -> bytes:
    """A whole frame."""
    inner = ip(source, destination, protocol, payload, **extra)  # type: ignore[arg-type]
    return ethernet(inner, ethertype=0x0800 if ipaddress.ip_address(source).version == 4 else 0x86DD)


def extension(kind: int, *, body: bytes = bytes(6)) -> bytes:
    """One IPv6 extension header for `options`; `ip` writes the next header over its own number."""
    return bytes([kind, (len(body) + 2) // 8 - 1]) + body
