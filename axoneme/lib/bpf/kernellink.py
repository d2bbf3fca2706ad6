"""What all links have in common: a program at its place in the kernel, kept by a pin, replaced in one step.

By raw bpf(2): libbpf 1.1 does not know all kinds. An update can name the program that it expects to replace,
so that of two loaders only one wins, and nothing ever meets a place without a program.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path
from typing import ClassVar, Self

from axoneme.lib.bpf.errors import BpfError
from axoneme.lib.bpf.library import bpf_syscall, errno_of, libbpf
from axoneme.lib.bpf.program import BpfProgram

_LINK_CREATE, _LINK_UPDATE, _LINK_DETACH = 28, 29, 34
_F_REPLACE = 4
_KIND_CGROUP = 3


class _LinkCreate(ctypes.Structure):
    _fields_ = (
        ("prog_fd", ctypes.c_uint32),
        ("target", ctypes.c_uint32),
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


class _LinkInfo(ctypes.Structure):
    """The head of `struct bpf_link_info`; the rest is a union by kind."""

    _fields_ = (
        ("kind", ctypes.c_uint32),
        ("link_id", ctypes.c_uint32),
        ("prog_id", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
        ("details", ctypes.c_uint32 * 12),
    )


class KernelLink:
    """A link of the kernel; owns its file descriptor. Unpinned, it ends with it."""

    KIND: ClassVar[int] = 0
    """`enum bpf_link_type` of the class; 0: of any kind."""

    def __init__(self, fd: int, subject: str) -> None:
        self._fd = fd
        self._subject = subject

    @classmethod
    def open(cls, path: Path) -> Self:
        """The link pinned at `path`; its kind is checked when its state is asked for."""
        fd = libbpf().bpf_obj_get(os.fsencode(path))
        if fd < 0:
            raise BpfError(errno_of(fd), "open", str(path))
        return cls(fd, str(path))

    @classmethod
    def _create(
        cls,
        program: BpfProgram,
        target: int,
        attach_type: int,
        subject: str,
        flags: int = 0,
        relative_fd: int = 0,
    ) -> Self:
        attributes = _LinkCreate(
            prog_fd=program.fd,
            target=target,
            attach_type=attach_type,
            flags=flags,
            relative_fd=relative_fd,
        )
        fd = bpf_syscall(_LINK_CREATE, attributes)
        if fd < 0:
            raise BpfError(-fd, "attach", subject)
        return cls(fd, subject)

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

    def detach(self) -> None:
        """Takes the program off at once, whoever else holds the link; detaching twice is no error."""
        result = bpf_syscall(_LINK_DETACH, _LinkDetach(link_fd=self._fd))
        if result < 0 and -result not in (errno.ENOLINK, errno.ENODEV):
            raise BpfError(-result, "detach", self._subject)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def is_alive(self) -> bool:
        """Whether what the link is attached to, an interface or a cgroup, still exists."""
        info = self._read()
        return bool(info.details[0] or (info.kind == _KIND_CGROUP and info.details[1]))

    def _info(self) -> tuple[int, int, list[int]]:
        """The link's id, its program's id, and the words of the kind's own details."""
        info = self._read()
        if self.KIND and info.kind != self.KIND:
            raise BpfError(
                errno.EINVAL, "inspect", f"{self._subject} (link type {info.kind}, not {self.KIND})"
            )
        return int(info.link_id), int(info.prog_id), list(info.details)

    def _read(self) -> _LinkInfo:
        info = _LinkInfo()
        size = ctypes.c_uint32(ctypes.sizeof(info))
        result = libbpf().bpf_obj_get_info_by_fd(self._fd, ctypes.byref(info), ctypes.byref(size))
        if result:
            raise BpfError(errno_of(result), "inspect", self._subject)
        return info
