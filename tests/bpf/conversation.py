"""Real conversations between sockets of two machines: what was said, heard, and by whom."""

from __future__ import annotations

import hashlib
import socket
import threading
from types import TracebackType
from typing import Self

from tests.bpf.nodenetwork import FAMILY, Network

SECONDS = 5.0
MEGABYTE = bytes(range(256)) * 4096


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _receive(connection: socket.socket, size: int) -> bytes:
    found = bytearray()
    while len(found) < size:
        part = connection.recv(size - len(found))
        if not part:
            break
        found += part
    return bytes(found)


class EchoServer:
    """Answers TCP connections or datagrams of one port with what it got, and remembers who asked."""

    def __init__(self, network: Network, machine: str, family: int, port: int, *, datagrams: bool) -> None:
        self.peers: list[tuple[str, int]] = []
        self._datagrams = datagrams
        kind = socket.SOCK_DGRAM if datagrams else socket.SOCK_STREAM

        def make() -> socket.socket:
            one = socket.socket(FAMILY[family], kind)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == 6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.bind(("", port))
            return one

        self._socket = network.inside(machine, make)
        self._socket.settimeout(SECONDS)
        if not datagrams:
            self._socket.listen()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.shutdown(socket.SHUT_RDWR) if not self._datagrams else None
        self._socket.close()
        self._thread.join(SECONDS)

    def _serve(self) -> None:
        try:
            if self._datagrams:
                data, peer = self._socket.recvfrom(65_535)
                self.peers.append(peer[:2])
                self._socket.sendto(data, peer)
                return
            connection, peer = self._socket.accept()
            self.peers.append(peer[:2])
            with connection:
                connection.settimeout(SECONDS)
                connection.sendall(_receive(connection, len(MEGABYTE)))
        except OSError:
            return


def exchange(
    network: Network, machine: str, family: int, address: str, port: int, *, datagrams: bool = False
) -> tuple[tuple[str, int], bytes]:
    """Sends a megabyte (datagrams: 1200 bytes) and returns the peer's name and what came back."""
    kind = socket.SOCK_DGRAM if datagrams else socket.SOCK_STREAM
    with network.inside(machine, lambda: socket.socket(FAMILY[family], kind)) as one:
        one.settimeout(SECONDS)
        one.connect((address, port))
        if datagrams:
            one.send(MEGABYTE[:1200])
            return one.getpeername()[:2], one.recv(65_535)
        sender = threading.Thread(target=one.sendall, args=(MEGABYTE,))
        sender.start()
        found = _receive(one, len(MEGABYTE))
        sender.join(SECONDS)
        return one.getpeername()[:2], found
