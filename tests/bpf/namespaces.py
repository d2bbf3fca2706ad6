"""Work inside another network namespace, in a thread of its own; interfaces of namespaces."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

_CLONE_NEWNET = 0x4000_0000
_SIOCETHTOOL = 0x8946
TX_CHECKSUMS, GRO = 0x17, 0x2C  # ETHTOOL_STXCSUM, ETHTOOL_SGRO
T = TypeVar("T")


def inside(netns: str, work: Callable[[], T]) -> T:
    """What `work` returns, run in the namespace. Its exceptions are ours."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            _enter(netns)
            results.append(work())
        except BaseException as error:  # noqa: BLE001  raised again in the caller's thread
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _enter(netns: str) -> None:
    descriptor = os.open(f"/var/run/netns/{netns}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns {netns}")
    finally:
        os.close(descriptor)


def ifindex_in(netns: str, interface: str) -> int:
    return inside(netns, lambda: socket.if_nametoindex(interface))


def mac_in(netns: str, interface: str) -> bytes:
    """The hardware address, by SIOCGIFHWADDR."""

    def ask() -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            answer = fcntl.ioctl(one, 0x8927, struct.pack("16s24x", interface.encode()))
        return answer[18:24]

    return inside(netns, ask)


def set_feature(netns: str, interface: str, command: int, value: int) -> None:
    """Switches an ethtool feature by its old command (TX_CHECKSUMS, GRO)."""

    def switch() -> None:
        wanted = ctypes.create_string_buffer(struct.pack("=II", command, value), 8)
        request = struct.pack("=16sQ16x", interface.encode(), ctypes.addressof(wanted))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            fcntl.ioctl(one, _SIOCETHTOOL, request)

    inside(netns, switch)


def set_sysctl(netns: str, name: str, value: str) -> None:
    """`name` with slashes, below /proc/sys."""
    inside(netns, lambda: Path("/proc/sys", name).write_text(value))
