"""A reader of one gRPC stream that does nothing: plain sockets, so that it costs less than any server.

    python -m tests.perf.nullreader ADDRESS PATH REQUEST_HEX CA CERT KEY NAME

Says hello, opens large windows, sends one request, throws away what comes until the stream ends, prints the
number of bytes of data. Without certificate arguments it speaks plaintext.
"""

from __future__ import annotations

import socket
import ssl
import struct
import sys

from hpack.hpack import Encoder

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
WINDOW = 2**30
REFRESH_BYTES = 2**24
READ_BYTES = 1 << 18


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One HTTP/2 frame."""
    return struct.pack(">HBBBL", len(payload) >> 8, len(payload) & 255, kind, flags, stream) + payload


def opening(path: str, request: bytes) -> bytes:
    """All that a client has to say."""
    fields = [
        (":method", "POST"), (":scheme", "https"), (":path", path), (":authority", "relay"),
        ("te", "trailers"), ("content-type", "application/grpc"),
    ]  # fmt: skip
    window = struct.pack(">L", WINDOW)
    return b"".join(
        (
            PREFACE,
            frame(4, 0, 0, struct.pack(">HL", 4, WINDOW)),
            frame(8, 0, 0, window),
            frame(1, 4, 1, Encoder().encode(fields)),
            frame(0, 1, 1, struct.pack(">BL", 0, len(request)) + request),
        )
    )


def read(opened: socket.socket) -> int:
    """Bytes of data until the stream ends."""
    buffer, total, since = bytearray(), 0, 0
    while chunk := opened.recv(READ_BYTES):
        buffer += chunk
        position = 0
        while len(buffer) - position >= 9:
            high, low, kind, flags, stream = struct.unpack_from(">HBBBL", buffer, position)
            size = high << 8 | low
            if len(buffer) - position < 9 + size:
                break
            if kind == 0:
                total += size
                since += size
            elif kind == 4 and not flags & 1:
                opened.sendall(frame(4, 1, 0, b""))
            elif kind == 6 and not flags & 1:
                opened.sendall(frame(6, 1, 0, bytes(buffer[position + 9 : position + 17])))
            if stream == 1 and flags & 1 and kind in (0, 1):
                return total
            position += 9 + size
        del buffer[:position]
        if since > REFRESH_BYTES:
            grown = struct.pack(">L", since)
            opened.sendall(frame(8, 0, 0, grown) + frame(8, 0, 1, grown))
            since = 0
    raise SystemExit("the connection ended before the stream")


def connected(address: str, files: list[str]) -> socket.socket:
    """A connection, by TLS when files (CA, certificate, key) and a server name are given."""
    host, _, port = address.rpartition(":")
    opened = socket.create_connection((host, int(port)))
    if not files:
        return opened
    authority, certificate, key, name = files
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority)
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["h2"])
    return context.wrap_socket(opened, server_hostname=name)


def main(address: str, path: str, request: str, *files: str) -> None:
    with connected(address, list(files)) as opened:
        opened.sendall(opening(path, bytes.fromhex(request)))
        print(read(opened))


if __name__ == "__main__":
    main(*sys.argv[1:])
