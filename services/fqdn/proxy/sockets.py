"""The kinds of sockets of the proxy. All carry its mark, none blocks, and none needs more than CAP_NET_ADMIN
(IP_TRANSPARENT, SO_MARK, SO_RCVBUFFORCE), CAP_NET_RAW (raw sockets) and CAP_NET_BIND_SERVICE (client ports
below 1,024).

`socket.SocketType` is the class of the C module: without the layers of `socket.socket` a socket opens in half
the time, and one is opened for most lookups of a libc resolver.
"""

from __future__ import annotations

import resource
import socket
import struct
from contextlib import closing, suppress
from typing import Final

# linux/in.h, linux/in6.h, asm-generic/socket.h; not in the socket module of 3.11.
IP_TRANSPARENT: Final = 19
IP_RECVORIGDSTADDR: Final = 20
IPV6_TRANSPARENT: Final = 75
IPV6_RECVORIGDSTADDR: Final = 74
SO_RCVBUFFORCE: Final = 33
SO_MEMINFO: Final = 55
_DROPS: Final = 8 * 4  # SK_MEMINFO_DROPS, offset in bytes
# Room for the sender of a datagram and for the control message with its original destination.
INBOX_HEAD: Final = {
    socket.AF_INET: (16, socket.CMSG_SPACE(16)),
    socket.AF_INET6: (32, socket.CMSG_SPACE(28)),
}
_inet = struct.Struct(">2xH4s")
_inet6 = struct.Struct(">2xH4x16s")

LISTENER_BUFFER: Final = 4 << 20
BACKLOG: Final = 1_024
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
_NONBLOCK: Final = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
_TRANSPARENT: Final = {
    socket.AF_INET: (socket.IPPROTO_IP, IP_TRANSPARENT),
    socket.AF_INET6: (socket.IPPROTO_IPV6, IPV6_TRANSPARENT),
}
_ORIGINAL: Final = {
    socket.AF_INET: (socket.IPPROTO_IP, IP_RECVORIGDSTADDR),
    socket.AF_INET6: (socket.IPPROTO_IPV6, IPV6_RECVORIGDSTADDR),
}

Socket = socket.SocketType
Address = tuple[str, int]


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def udp_listener(address: Address, mark: int) -> Socket:
    """Takes queries to any address. Raises OSError, EADDRINUSE while another process has the port."""
    one = _transparent(family_of(address[0]), socket.SOCK_DGRAM, mark)
    try:
        one.setsockopt(*_ORIGINAL[family_of(address[0])], 1)
        one.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, LISTENER_BUFFER)
        one.bind(address)
    except BaseException:
        one.close()
        raise
    return one


def tcp_listener(address: Address, mark: int) -> socket.socket:
    """Accepts connections to any address. Raises OSError.

    SO_REUSEADDR: connections of the process before us may be in TIME_WAIT.
    """
    family = family_of(address[0])
    one = socket.socket(family, socket.SOCK_STREAM | _NONBLOCK)
    try:
        _prepare(one, family, mark)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # inherited by what is accepted
        one.bind(address)
        one.listen(BACKLOG)
    except BaseException:
        one.close()
        raise
    return one


def udp_upstream(client: Address, server: Address, mark: int) -> Socket:
    """A socket with the client's address and port, for one server. Raises OSError.

    Connected: the kernel passes only what comes from this server and port, keeps the route, and tells of
    ICMP errors. SO_REUSEADDR: the same client socket may ask a second server; connected sockets keep apart.
    No system call more than that: one is opened for most lookups of a libc resolver.
    """
    family = family_of(client[0])
    one = Socket(family, socket.SOCK_DGRAM | _NONBLOCK)
    try:
        _mark(one, family, mark)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind(client)
        one.connect(server)
    except BaseException:
        one.close()
        raise
    return one


def tcp_upstream(client: Address, server: Address, mark: int) -> Socket:
    """A connection from the client's address and port that is being made. Raises OSError.

    It is closed by a reset: a TIME_WAIT of it would keep the client's next connection from the same port. To
    a server of this machine it comes from the machine's own address: with the client's, its far end would be
    the very connection that the proxy took from the client.
    """
    family = family_of(client[0])
    one = _transparent(family, socket.SOCK_STREAM, mark)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reset_on_close(one)
        if not is_own(server[0]):
            one.bind(client)
        with suppress(BlockingIOError):
            one.connect(server)
    except BaseException:
        one.close()
        raise
    return one


def is_own(address: str) -> bool:
    """Whether this machine has the address: a plain socket can be bound to no other."""
    with closing(Socket(family_of(address), socket.SOCK_DGRAM)) as one:
        try:
            one.bind((address, 0))
        except OSError:
            return False
    return True


def raw_sender(family: socket.AddressFamily, mark: int) -> Socket:
    """Sends packets with their IP header (IPPROTO_RAW implies IP_HDRINCL, both families); receives none."""
    one = Socket(family, socket.SOCK_RAW | _NONBLOCK, socket.IPPROTO_RAW)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, struct.pack("I", mark))
    return one


def reset_on_close(one: Socket) -> None:
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)


def drops(one: Socket) -> int:
    """Datagrams that did not fit the socket's buffer since it was opened."""
    info = one.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 64)
    return int.from_bytes(info[_DROPS : _DROPS + 4], "little")


def ends_of(head: bytes) -> tuple[bytes, int, bytes, int]:
    """Sender and original destination, addresses and ports, of a datagram that a listener's inbox took.

    `head` is a `sockaddr_in` or `sockaddr_in6` (that padded to 32 bytes) and a control message with another.
    """
    if len(head) == sum(INBOX_HEAD[socket.AF_INET]):
        return (*_inet.unpack_from(head, 0)[::-1], *_inet.unpack_from(head, 32)[::-1])
    return (*_inet6.unpack_from(head, 0)[::-1], *_inet6.unpack_from(head, 48)[::-1])


def text_of(address: bytes) -> str:
    """An address of 4 or 16 bytes as text."""
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)


def raise_file_limit() -> int:
    """As many descriptors as this process may have; that number."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def _transparent(family: socket.AddressFamily, kind: int, mark: int) -> Socket:
    one = Socket(family, kind | _NONBLOCK)
    try:
        _prepare(one, family, mark)
    except BaseException:
        one.close()
        raise
    return one


def _prepare(one: Socket, family: socket.AddressFamily, mark: int) -> None:
    _mark(one, family, mark)
    if family == socket.AF_INET6:
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)


def _mark(one: Socket, family: socket.AddressFamily, mark: int) -> None:
    one.setsockopt(*_TRANSPARENT[family], 1)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, struct.pack("I", mark))
