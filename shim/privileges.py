"""Gives up privileges, with the standard library alone: the supervisor runs this between fork and exec.

The uid stays root, since keys and pins are files that only root may open; what goes is every capability
that a process has no need of. Without the securebits, exec as uid 0 would hand all of them back. After this
no other capability can come in any descendant.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Collection
from pathlib import Path

CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_ADMIN, CAP_BPF = 10, 12, 13, 21, 39

PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_SECUREBITS, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 4, 24, 28, 38, 47
PR_SET_PDEATHSIG = 1
PR_CAP_AMBIENT_RAISE, PR_CAP_AMBIENT_CLEAR_ALL = 2, 4
# NOROOT, NO_SETUID_FIXUP and NO_CAP_AMBIENT_RAISE with their locks, and the lock of KEEP_CAPS.
SECUREBITS = 0x01 | 0x02 | 0x04 | 0x08 | 0x20 | 0x40 | 0x80
_CAPABILITY_VERSION_3 = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def keep_only(capabilities: Collection[int] = ()) -> None:
    """Reduces every set (bounding, ambient, inheritable, permitted, effective) to these, for good.

    One that this process lacks itself is left out: what needs it then fails by name. Raises OSError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    os.umask(0o077)
    held = _capability_set("CapPrm")
    kept = {capability for capability in capabilities if held >> capability & 1}
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text(encoding="ascii"))
    for capability in range(last + 1):
        if capability not in kept:
            _prctl(libc, PR_CAPBSET_DROP, capability)
    _prctl(libc, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    # Only what is inheritable can be ambient, and only what is ambient outlives exec without NOROOT's help.
    wanted = sum(1 << capability for capability in kept)
    _capset(libc, permitted=held, inheritable=wanted)
    for capability in kept:
        _prctl(libc, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability)
    _prctl(libc, PR_SET_SECUREBITS, SECUREBITS)
    _prctl(libc, PR_SET_NO_NEW_PRIVS, 1)
    _capset(libc, permitted=wanted, inheritable=wanted)


def forbid_dumps() -> None:
    """No core files and no ptrace by equals. Exec resets it, so each process calls it for itself."""
    _prctl(ctypes.CDLL(None, use_errno=True), PR_SET_DUMPABLE, 0)


def die_with_parent(signal_number: int) -> None:
    """Has the kernel send this process a signal when its parent ends, however it ends."""
    _prctl(ctypes.CDLL(None, use_errno=True), PR_SET_PDEATHSIG, signal_number)


def effective_capabilities() -> int:
    """The effective set of this process as the kernel reports it."""
    return _capability_set("CapEff")


def _capability_set(name: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1], 16)
    raise OSError(0, f"/proc/self/status has no {name}")


def _capset(libc: ctypes.CDLL, *, permitted: int, inheritable: int) -> None:
    """Sets permitted and effective alike, and inheritable."""
    header = _Header(_CAPABILITY_VERSION_3, 0)
    words = [(permitted >> shift & 0xFFFF_FFFF, inheritable >> shift & 0xFFFF_FFFF) for shift in (0, 32)]
    sets = (_Sets * 2)(*(_Sets(effective=p, permitted=p, inheritable=i) for p, i in words))
    if libc.capset(ctypes.byref(header), ctypes.byref(sets)) != 0:
        _fail("capset")


def _prctl(libc: ctypes.CDLL, operation: int, argument: int, more: int = 0) -> None:
    if libc.prctl(operation, ctypes.c_ulong(argument), ctypes.c_ulong(more), 0, 0) != 0:
        _fail(f"prctl {operation} {argument}")


def _fail(what: str) -> None:
    number = ctypes.get_errno()
    raise OSError(number, f"{what}: {os.strerror(number)}")
