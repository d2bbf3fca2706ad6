"""XDP programs in test runs, and checksums made from scratch to hold theirs against."""

from __future__ import annotations

import ctypes
import ipaddress
import struct
from dataclasses import dataclass

from axoneme.lib.bpf.errors import BpfError
from axoneme.lib.bpf.library import errno_of, libbpf
from axoneme.lib.bpf.program import BpfProgram, _TestRunOptions

XDP_PASS, XDP_TX, XDP_REDIRECT = 2, 3, 4
_XDP_CONTEXT = struct.Struct("=IIIIII")  # struct xdp_md
IP = 14


@dataclass(frozen=True)
class XdpRun:
    """What a program answered, and the packet afterwards."""

    action: int
    data: bytes
    duration_ns: int


def xdp_run(program: BpfProgram, packet: bytes, *, ifindex: int, repeat: int = 1) -> XdpRun:
    """Runs on `packet` as if it came in on an interface of this thread's namespace."""
    output = ctypes.create_string_buffer(len(packet) + 256)
    context = ctypes.create_string_buffer(_XDP_CONTEXT.pack(0, len(packet), 0, ifindex, 0, 0), 24)
    options = _TestRunOptions(
        sz=ctypes.sizeof(_TestRunOptions),
        data_in=packet,
        data_out=ctypes.addressof(output),
        data_size_in=len(packet),
        data_size_out=len(output),
        ctx_in=ctypes.addressof(context),
        ctx_size_in=_XDP_CONTEXT.size,
        repeat=repeat,
    )
    result = libbpf().bpf_prog_test_run_opts(program.fd, ctypes.byref(options))
    if result:
        raise BpfError(errno_of(result), "test run", program.name)
    return XdpRun(options.retval, output.raw[: options.data_size_out], options.duration)


def checksum(data: bytes) -> int:
    """RFC 1071."""
    padded = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f">{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


def parts(frame: bytes) -> tuple[bytes, bytes, int]:
    """IP header, what it carries, and the protocol, of a plain packet."""
    if frame[IP] >> 4 == 4:
        total = int.from_bytes(frame[IP + 2 : IP + 4], "big")
        return frame[IP : IP + 20], frame[IP + 20 : IP + total], frame[IP + 9]
    length = int.from_bytes(frame[IP + 4 : IP + 6], "big")
    return frame[IP : IP + 40], frame[IP + 40 : IP + 40 + length], frame[IP + 6]


def transport_sum(frame: bytes) -> int:
    """What the transport checksum should be, with that field as zeros."""
    head, body, protocol = parts(frame)
    at = 16 if protocol == 6 else 6
    addresses = head[12:20] if len(head) == 20 else head[8:40]
    pseudo = addresses + struct.pack(">II", len(body), protocol)
    return checksum(pseudo + body[:at] + bytes(2) + body[at + 2 :])


def sealed(frame: bytes) -> bytes:
    """The frame with right checksums."""
    head, _, protocol = parts(frame)
    done = bytearray(frame)
    if len(head) == 20:
        done[IP + 10 : IP + 12] = checksum(head[:10] + bytes(2) + head[12:]).to_bytes(2, "big")
    at = IP + len(head) + (16 if protocol == 6 else 6)
    value = transport_sum(frame) or (0xFFFF if protocol == 17 else 0)
    done[at : at + 2] = value.to_bytes(2, "big")
    return bytes(done)


@dataclass(frozen=True)
class Seen:
    """A plain frame, read."""

    destination_mac: bytes
    source_mac: bytes
    source: str
    destination: str
    ports: tuple[int, int]
    hops: int
    payload: bytes


def seen(frame: bytes) -> Seen:
    head, body, protocol = parts(frame)
    v4 = len(head) == 20
    first, second = (head[12:16], head[16:20]) if v4 else (head[8:24], head[24:40])
    return Seen(
        frame[:6],
        frame[6:12],
        str(ipaddress.ip_address(first)),
        str(ipaddress.ip_address(second)),
        struct.unpack(">HH", body[:4]),
        head[8] if v4 else head[7],
        body[20 if protocol == 6 else 8 :],
    )
