"""Looks names up one after the other and connects at once to each answer; prints how many did not connect.

    firstpackets.py RESOLVER COUNT FIRST FAMILY

Each name is new and has an address of its own, so each connection is the first that ever uses what was
learned. A handshake gets 0.9 s, in which nothing is sent twice: a dropped first packet is a failure.
"""

from __future__ import annotations

import random
import socket
import struct
import sys

PORT = 80
PATIENCE_SECONDS = 0.9


def question(name: str, kind: int, number: int) -> bytes:
    wire = b"".join(bytes([len(one)]) + one.encode() for one in name.split(".")) + b"\0"
    return struct.pack("!HHHHHH", number, 0x0100, 1, 0, 0, 0) + wire + struct.pack("!HH", kind, 1)


def address_in(message: bytes, family: socket.AddressFamily) -> str:
    """The last address of an answer, or nothing."""
    size = 4 if family == socket.AF_INET else 16
    return socket.inet_ntop(family, message[-size:]) if message[6:8] != b"\0\0" else ""


def main() -> int:
    resolver, count, first, version = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    transport = socket.AF_INET6 if ":" in resolver else socket.AF_INET
    family, kind = (socket.AF_INET6, 28) if version == 6 else (socket.AF_INET, 1)
    unanswered = unconnected = 0
    asking = socket.socket(transport, socket.SOCK_DGRAM)
    asking.connect((resolver, 53))
    asking.settimeout(2.0)
    for number in range(first, first + count):
        asking.send(question(f"h{number}.many.test", kind, random.randrange(65536)))
        try:
            ip = address_in(asking.recv(4096), family)
        except TimeoutError:
            ip = ""
        if not ip:
            unanswered += 1
            continue
        with socket.socket(family, socket.SOCK_STREAM) as connecting:
            connecting.settimeout(PATIENCE_SECONDS)
            try:
                connecting.connect((ip, PORT))
            except OSError:
                unconnected += 1
    print(unanswered, unconnected)
    return 0


if __name__ == "__main__":
    sys.exit(main())
