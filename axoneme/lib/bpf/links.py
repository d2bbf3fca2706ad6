"""tcx links: a program on an interface that outlives its loader by a pin and is replaced in place.

By raw bpf(2): libbpf 1.1 does not know tcx. An update names the program that it expects to replace, so
that of two loaders only one wins, and no packet ever meets an interface without a program.
"""

from __future__ import annotations

import ctypes
import errno
import os
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from axoneme.lib.bpf.errors import BpfError
from axoneme.lib.bpf.library import bpf_syscall, errno_of, libbpf
from axoneme.lib.bpf.program import BpfProgram

_PROG_QUERY, _LINK_CREATE, _LINK_UPDATE, _LINK_DETACH = 16, 28, 29, 34
_F_REPLACE = 4
_QUERY_SLOTS = 64
_LINK_KIND_TCX = 11


class Hook(IntEnum):
    """Attach points of an interface, by `enum bpf_attach_type`; directions are the interface's."""

    TCX_INGRESS = 46
    TCX_EGRESS = 47


class _LinkCreate(ctypes.Structure):
    _fields_ = (
        ("prog_fd", ctypes.c_uint32),
        ("target_ifindex", ctypes.c_uint32),
        ("attach_type", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("relative_fd", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
        ("expected_revision", ctypes.c_uint64),
    )


class _LinkUpdate(ctypes.Structure):
    _fields_ = (
        ("link_fd", ctypes.c_uint32),
        ("new_prog_fd", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("old_prog_fd", ctypes.c_uint32),
    )


class _LinkDetach(ctypes.Structure):
    _fields_ = (("link_fd", ctypes.c_uint32),)


class _Query(ctypes.Structure):
    _fields_ = (
        ("target_ifindex", ctypes.c_uint32),
        ("attach_type", ctypes.c_uint32),
        ("query_flags", ctypes.c_uint32),
        ("attach_flags", ctypes.c_uint32),
        ("prog_ids", ctypes.c_uint64),
        ("count", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
        ("prog_attach_flags", ctypes.c_uint64),
        ("link_ids", ctypes.c_uint64),
        ("link_attach_flags", ctypes.c_uint64),
        ("revision", ctypes.c_uint64),
    )


class _LinkInfo(ctypes.Structure):
    """The head of `struct bpf_link_info`, with the tcx member of its union."""

    _fields_ = (
        ("kind", ctypes.c_uint32),
        ("link_id", ctypes.c_uint32),
        ("prog_id", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
        ("ifindex", ctypes.c_uint32),
        ("attach_type", ctypes.c_uint32),
        ("rest", ctypes.c_uint8 * 40),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkState:
    """What the kernel says about a link; ifindex 0: the interface is gone."""

    link_id: int
    program_id: int
    ifindex: int
    hook: Hook


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached:
    """One program on a hook; link id 0: attached without a link."""

    program_id: int
    link_id: int


class TcxLink:
    """A link of the kernel; owns its file descriptor. Unpinned, it ends with it."""

    def __init__(self, fd: int, subject: str) -> None:
        self._fd = fd
        self._subject = subject

    @classmethod
    def create(cls, program: BpfProgram, *, ifindex: int, hook: Hook) -> TcxLink:
        """Attaches `program` behind what is attached already."""
        subject = f"{program.name} on {hook.name} of ifindex {ifindex}"
        attributes = _LinkCreate(prog_fd=program.fd, target_ifindex=ifindex, attach_type=int(hook))
        fd = bpf_syscall(_LINK_CREATE, attributes)
        if fd < 0:
            raise BpfError(-fd, "attach", subject)
        return cls(fd, subject)

    @classmethod
    def open(cls, path: Path) -> TcxLink:
        """The link pinned at `path`."""
        fd = libbpf().bpf_obj_get(os.fsencode(path))
        if fd < 0:
            raise BpfError(errno_of(fd), "open", str(path))
        return cls(fd, str(path))

    @property
    def fd(self) -> int:
        return self._fd

    def update(self, program: BpfProgram, *, expected: BpfProgram | None = None) -> None:
        """Replaces the program in one step. With `expected`, only if that one is attached (else EPERM)."""
        attributes = _LinkUpdate(link_fd=self._fd, new_prog_fd=program.fd)
        if expected is not None:
            attributes.flags = _F_REPLACE
            attributes.old_prog_fd = expected.fd
        result = bpf_syscall(_LINK_UPDATE, attributes)
        if result < 0:
            raise BpfError(-result, "replace", self._subject)

    def pin(self, path: Path) -> None:
        result = libbpf().bpf_obj_pin(self._fd, os.fsencode(path))
        if result:
            raise BpfError(errno_of(result), "pin", str(path))

    def state(self) -> LinkState:
        info = _LinkInfo()
        size = ctypes.c_uint32(ctypes.sizeof(info))
        result = libbpf().bpf_obj_get_info_by_fd(self._fd, ctypes.byref(info), ctypes.byref(size))
        if result:
            raise BpfError(errno_of(result), "inspect", self._subject)
        if info.kind != _LINK_KIND_TCX:
            raise BpfError(errno.EINVAL, "inspect", f"{self._subject} (link type {info.kind}, not tcx)")
        return LinkState(
            link_id=info.link_id, program_id=info.prog_id, ifindex=info.ifindex, hook=Hook(info.attach_type)
        )

    def detach(self) -> None:
        """Takes the program off at once, whoever else holds the link; detaching twice is no error."""
        result = bpf_syscall(_LINK_DETACH, _LinkDetach(link_fd=self._fd))
        if result < 0 and -result not in (errno.ENOLINK, errno.ENODEV):
            raise BpfError(-result, "detach", self._subject)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def attached(ifindex: int, hook: Hook) -> list[Attached]:
    """Programs on a hook, in the order in which they run."""
    programs = (ctypes.c_uint32 * _QUERY_SLOTS)()
    links = (ctypes.c_uint32 * _QUERY_SLOTS)()
    query = _Query(
        target_ifindex=ifindex,
        attach_type=int(hook),
        prog_ids=ctypes.addressof(programs),
        link_ids=ctypes.addressof(links),
        count=_QUERY_SLOTS,
    )
    result = bpf_syscall(_PROG_QUERY, query)
    if result < 0 and -result != errno.ENOENT:
        raise BpfError(-result, "query", f"{hook.name} of ifindex {ifindex}")
    if result < 0:
        return []
    return [Attached(program_id=programs[i], link_id=links[i]) for i in range(query.count)]
