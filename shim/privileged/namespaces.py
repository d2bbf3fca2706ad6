"""Network namespaces of workloads: opened by path, proven to be one, entered for a netlink socket only."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from pyroute2 import IPRoute

from axoneme.lib.errors import InvalidArgument, NotFound

CLONE_NEWNET = 0x4000_0000
_SO_NETNS_COOKIE = 71  # Linux 5.14
_NS_GET_NSTYPE = 0xB703


@contextlib.contextmanager
def opened(path: str) -> Iterator[int]:
    """A descriptor of the namespace at a path.

    Raises NotFound when nothing is there and InvalidArgument for anything but another network namespace.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ESRCH):
            raise NotFound(f"network namespace {path} does not exist", reason="NETNS_NOT_FOUND") from error
        raise
    try:
        _check(descriptor, path)
        yield descriptor
    finally:
        os.close(descriptor)


def _check(descriptor: int, path: str) -> None:
    try:
        kind = fcntl.ioctl(descriptor, _NS_GET_NSTYPE)
    except OSError:
        kind = 0
    if kind != CLONE_NEWNET:
        raise InvalidArgument.of_field("netns", f"{path} is not a network namespace")
    own, other = Path("/proc/self/ns/net").stat(), os.fstat(descriptor)
    if (own.st_dev, own.st_ino) == (other.st_dev, other.st_ino):
        raise InvalidArgument.of_field(
            "netns", f"{path} is the node's own network namespace, not a workload's"
        )


@contextlib.contextmanager
def entered(descriptor: int) -> Iterator[None]:
    """The block runs inside that namespace: for making sockets, which stay where they were made."""
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _setns(descriptor)
        try:
            yield
        finally:
            _setns(home)
    finally:
        os.close(home)


@contextlib.contextmanager
def netlink_of(descriptor: int) -> Iterator[IPRoute]:
    """A netlink socket of that namespace; the process itself is back home before the block begins."""
    with entered(descriptor):
        netlink = IPRoute()
    with netlink:
        yield netlink


def own_cookie() -> int:
    """The kernel's number of this network namespace, never another's; 0 where the kernel does not tell."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            raw = probe.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
        except OSError:
            return 0
    return int.from_bytes(raw, sys.byteorder)


def cookie_of(descriptor: int) -> int:
    """As `own_cookie`, of that namespace."""
    with entered(descriptor):
        return own_cookie()


def _setns(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")
