"""Many datagrams by one call, with real sockets."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator

import pytest

from services.fqdn.proxy import sockets
from services.fqdn.proxy.inbox import TRUNCATED, Inbox

LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
FAMILIES = pytest.mark.parametrize("family", list(LOOPBACK), ids=["ipv4", "ipv6"])
# IP_RECVORIGDSTADDR, IPV6_RECVORIGDSTADDR
ORIGINAL = {socket.AF_INET: (socket.IPPROTO_IP, 20), socket.AF_INET6: (socket.IPPROTO_IPV6, 74)}


@pytest.fixture
def pair(family: socket.AddressFamily) -> Iterator[tuple[socket.socket, socket.socket]]:
    with (
        socket.socket(family, socket.SOCK_DGRAM) as taker,
        socket.socket(family, socket.SOCK_DGRAM) as sender,
    ):
        taker.setblocking(False)
        taker.bind((LOOPBACK[family], 0))
        sender.connect(taker.getsockname())
        yield taker, sender


def inbox(family: socket.AddressFamily, slots: int = 4, size: int = 100) -> Inbox:
    name, control = sockets.INBOX_HEAD[family]
    return Inbox(slots, size, name=name, control=control)


@FAMILIES
def test_datagrams_come_in_order_with_both_ends(
    family: socket.AddressFamily, pair: tuple[socket.socket, socket.socket]
) -> None:
    taker, sender = pair
    taker.setsockopt(*ORIGINAL[family], 1)
    box = inbox(family)
    assert box.receive(taker.fileno(), 4) == []
    sent = [bytes((n,)) * (n + 1) for n in range(6)] + [b"", b"x" * 100, b"y" * 200]
    for one in sent:
        sender.send(one)
    found = [datagram for limit in (1, 3, 9, 9) for datagram in box.receive(taker.fileno(), limit)]
    assert [data for _, data, _ in found] == [*sent[:8], b"y" * 100]
    assert [bool(flags & TRUNCATED) for _, _, flags in found] == [False] * 8 + [True]
    address = socket.inet_pton(family, LOOPBACK[family])
    for head, _, _ in found:
        source, destination = sender.getsockname()[1], taker.getsockname()[1]
        assert sockets.ends_of(head) == (address, source, address, destination)
    assert len({head for head, _, _ in found}) == 1, "the same ends are the same bytes"
    assert sockets.text_of(address) == LOOPBACK[family]


@FAMILIES
def test_what_lacks_its_destination_is_left_out(
    family: socket.AddressFamily, pair: tuple[socket.socket, socket.socket]
) -> None:
    taker, sender = pair
    box = inbox(family)
    for limit in (1, 4):
        for _ in range(limit):
            sender.send(b"without")
        assert box.receive(taker.fileno(), 4) == []
    taker.setsockopt(*ORIGINAL[family], 1)
    for count in (1, 4):
        for _ in range(count):
            sender.send(b"with")
        assert len(box.receive(taker.fileno(), 4)) == count, "the slots are as before"


def test_errors_are_raised() -> None:
    box = Inbox(2, 100)
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        box.receive(-1, 2)
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nobody,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one,
    ):
        nobody.bind(("127.0.0.1", 0))
        one.connect(nobody.getsockname())
        nobody.close()
        one.send(b"to a closed port")
        with pytest.raises(ConnectionRefusedError):
            box.receive(one.fileno(), 2)
        assert box.receive(one.fileno(), 2) == []
