"""Gives up privileges, with the standard library alone: the supervisor runs this between fork and exec.

The uid stays root, since keys and pins are files that only root may open; what goes is every capability.
Without the securebits, exec as uid 0 would hand all of them back. After this no capability can return in
any descendant.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_SECUREBITS, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 4, 24, 28, 38, 47
PR_SET_PDEATHSIG = 1
PR_CAP_AMBIENT_CLEAR_ALL = 4
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


def drop_all() -> None:
    """Empties the bounding, ambient, inheritable, permitted and effective sets for good. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    os.umask(0o077)
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text(encoding="ascii"))
    for capability in range(last + 1):
        _prctl(libc, PR_CAPBSET_DROP, capability)
    _prctl(libc, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    _prctl(libc, PR_SET_SECUREBITS, SECUREBITS)
    _prctl(libc, PR_SET_NO_NEW_PRIVS, 1)
    header, sets = _Header(_CAPABILITY_VERSION_3, 0), (_Sets * 2)()
    if libc.capset(ctypes.byref(header), ctypes.byref(sets)) != 0:
        _fail("capset")


def forbid_dumps() -> None:
    """No core files and no ptrace by equals. Exec resets it, so each process calls it for itself."""
    _prctl(ctypes.CDLL(None, use_errno=True), PR_SET_DUMPABLE, 0)


def die_with_parent(signal_number: int) -> None:
    """Has the kernel send this process a signal when its parent ends, however it ends."""
    _prctl(ctypes.CDLL(None, use_errno=True), PR_SET_PDEATHSIG, signal_number)


def effective_capabilities() -> int:
    """The effective set of this process as the kernel reports it."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return -1


def _prctl(libc: ctypes.CDLL, operation: int, argument: int) -> None:
    if libc.prctl(operation, ctypes.c_ulong(argument), 0, 0, 0) != 0:
        _fail(f"prctl {operation} {argument}")


def _fail(what: str) -> None:
    number = ctypes.get_errno()
    raise OSError(number, f"{what}: {os.strerror(number)}")
