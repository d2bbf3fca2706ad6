"""An authoritative server for `test` whose answers follow from the question, so there is no end of names.

    h<N>.many.test    one address of its own, TTL 5     t<S>.ttl.test     one address, TTL S
    rotate.test       the next 8 of 5,000 addresses     chain.test        CNAMEs over two other names
    big.test          200 addresses: truncated over UDP silent.test       no answer at all
    bogus.test        addresses of somebody else's name fail.test         SERVFAIL
    client.test       the address of who asks, its port as the TTL

Run in the laboratory's internet; prints READY, ends with its standard input. Standard library only.
"""

from __future__ import annotations

import ipaddress
import itertools
import socket
import struct
import sys
import threading

A, CNAME, AAAA = 1, 5, 28
BASES = {A: ipaddress.ip_address("198.19.0.0"), AAAA: ipaddress.ip_address("2001:db8:119::")}
ROTATING = 5_000
_next_block = itertools.count()


def labels_of(message: bytes) -> tuple[list[str], int]:
    """Labels of the first question in lower case, and the offset after its name."""
    labels, at = [], 12
    while message[at]:
        labels.append(message[at + 1 : at + 1 + message[at]].decode("latin-1").lower())
        at += 1 + message[at]
    return labels, at + 1


def wire(name: str) -> bytes:
    return b"".join(bytes([len(one)]) + one.encode() for one in name.split(".")) + b"\0"


def address(kind: int, number: int) -> bytes:
    return (BASES[kind] + number).packed


def record(owner: bytes, kind: int, ttl: int, data: bytes) -> bytes:
    return owner + struct.pack("!HHIH", kind, 1, ttl, len(data)) + data


def records_of(name: str, kind: int) -> list[bytes]:
    """The answer section; owners point to the question's name where they are that name."""
    if kind not in BASES:
        return []
    own, first = b"\xc0\x0c", name.split(".")[0]
    if name.endswith(".many.test"):
        return [record(own, kind, 5, address(kind, int(first[1:])))]
    if name.endswith(".ttl.test"):
        return [record(own, kind, int(first[1:]), address(kind, 60_000 + int(first[1:])))]
    if name == "rotate.test":
        start = next(_next_block) * 8
        return [record(own, kind, 5, address(kind, 40_000 + (start + i) % ROTATING)) for i in range(8)]
    if name == "chain.test":
        return [
            record(own, CNAME, 300, wire("middle.chain.test")),
            record(wire("middle.chain.test"), CNAME, 2, wire("end.chain.test")),
            record(wire("end.chain.test"), kind, 300, address(kind, 61_000)),
        ]
    if name == "big.test":
        return [record(own, kind, 60, address(kind, 62_000 + i)) for i in range(200)]
    if name == "bogus.test":
        return [record(wire("other.test"), kind, 60, address(kind, 63_000))]
    return []


def answer(message: bytes, client: tuple[object, ...], *, limit: int) -> bytes:
    """The answer of at most `limit` bytes; empty: none is given."""
    labels, end = labels_of(message)
    name, kind = ".".join(labels), struct.unpack_from("!H", message, end)[0]
    if name == "silent.test":
        return b""
    rcode = 2 if name == "fail.test" else 0
    found = records_of(name, kind)
    if name == "client.test":
        found = [record(b"\xc0\x0c", A, int(str(client[1])), socket.inet_aton(str(client[0])))]
    header = struct.pack("!2sHHHHH", message[:2], 0x8580 | rcode, 1, len(found), 0, 0)
    whole = header + message[12 : end + 4] + b"".join(found)
    if len(whole) <= limit:
        return whole
    return struct.pack("!2sHHHHH", message[:2], 0x8780, 1, 0, 0, 0) + message[12 : end + 4]


def serve_udp(listening: socket.socket) -> None:
    while True:
        message, client = listening.recvfrom(4096)
        if found := answer(message, client, limit=512):
            listening.sendto(found, client)


def serve_tcp(listening: socket.socket) -> None:
    while True:
        connection, client = listening.accept()
        threading.Thread(target=_serve_connection, args=(connection, client), daemon=True).start()


def _serve_connection(connection: socket.socket, client: tuple[object, ...]) -> None:
    with connection, connection.makefile("rb") as stream:
        while len(size := stream.read(2)) == 2:
            found = answer(stream.read(int.from_bytes(size, "big")), client, limit=65_535)
            if found:
                connection.sendall(len(found).to_bytes(2, "big") + found)


def main() -> int:
    host, port = sys.argv[1], int(sys.argv[2])
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind((host, port))
    tcp = socket.create_server((host, port))
    for serve, one in ((serve_udp, udp), (serve_tcp, tcp)):
        threading.Thread(target=serve, args=(one,), daemon=True).start()
    print("READY", flush=True)
    sys.stdin.read()
    return 0


if __name__ == "__main__":
    sys.exit(main())
