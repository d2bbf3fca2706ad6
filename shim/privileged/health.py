"""The network namespace of the node's health endpoint, and the sockets that listen in it.

Nobody lives there: the namespace exists by a mount below /run/netns, so that it is an endpoint's namespace as
any other. Sockets are made inside and given away; this process keeps none.
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import logging
import os
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from axoneme.lib import log
from axoneme.lib.errors import AxonemeError, FailedPrecondition
from shim.privileged import namespaces

logger = logging.getLogger(__name__)

FOLDER: Final = Path("/run/netns")
BACKLOG: Final = 128
_MS_BIND, _MS_REC, _MS_SHARED, _MNT_DETACH = 4096, 16384, 1 << 20, 2
_IP_FREEBIND, _IPV6_FREEBIND = 15, 78


def make(name: str) -> str:
    """Makes the namespace unless it is there; returns its path. Raises OSError."""
    path = FOLDER / name
    if _is_namespace(path):
        return str(path)
    _share(FOLDER)
    path.touch(mode=0o444)
    _in_new_namespace(path)
    logger.info("health namespace made", extra={log.PATH: str(path)})
    return str(path)


def remove(name: str) -> bool:
    """Removes the namespace with all that is in it; whether it was there."""
    path = FOLDER / name
    if not path.exists():
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    libc.umount2(os.fsencode(path), _MNT_DETACH)
    path.unlink(missing_ok=True)
    return True


def listen(name: str, ips: Sequence[str], port: int) -> list[int]:
    """Descriptors of sockets that listen on each address. The addresses may come later than the sockets.

    Raises FailedPrecondition without the namespace, and OSError for a port that is taken.
    """
    path = FOLDER / name
    if not _is_namespace(path):
        raise FailedPrecondition("the health namespace is not set up", reason="NETNS_NOT_FOUND")
    with contextlib.ExitStack() as undo, namespaces.opened(str(path)) as descriptor:
        with namespaces.entered(descriptor):
            made = [undo.enter_context(_listener(text, port)) for text in ips]
        return [one.detach() for one in made]


def _listener(text: str, port: int) -> socket.socket:
    address = ipaddress.ip_address(text)
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if address.version == 4:
            made.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        else:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            made.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        made.bind((text, port))
        made.listen(BACKLOG)
    except OSError:
        made.close()
        raise
    return made


def _in_new_namespace(path: Path) -> None:
    """A thread of its own leaves for a new namespace, mounts it at the path, and ends."""
    faults: list[OSError] = []

    def work() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        source = f"/proc/self/task/{threading.get_native_id()}/ns/net"
        if libc.unshare(namespaces.CLONE_NEWNET) or libc.mount(
            source.encode(), os.fsencode(path), b"none", _MS_BIND, None
        ):
            number = ctypes.get_errno()
            faults.append(OSError(number, f"make namespace {path}: {os.strerror(number)}"))

    thread = threading.Thread(target=work, name="health-namespace")
    thread.start()
    thread.join()
    if faults:
        path.unlink(missing_ok=True)
        raise faults[0]


def _share(folder: Path) -> None:
    """As `ip netns` does: the folder is a mount of its own, and what is mounted below it is seen by all."""
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    libc = ctypes.CDLL(None, use_errno=True)
    where = os.fsencode(folder)
    if libc.mount(b"", where, b"none", _MS_SHARED | _MS_REC, None) == 0:
        return
    libc.mount(where, where, b"none", _MS_BIND | _MS_REC, None)
    if libc.mount(b"", where, b"none", _MS_SHARED | _MS_REC, None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"share {folder}: {os.strerror(number)}")


def _is_namespace(path: Path) -> bool:
    try:
        with namespaces.opened(str(path)):
            return True
    except (AxonemeError, OSError):  # an empty file, a leftover, or nothing at all
        return False
