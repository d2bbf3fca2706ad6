"""Programs on a cgroup: links for what sockets call, and for the events of their connections.

A cgroup's programs run for the sockets of all processes in it and below. Several programs can be on one hook;
each link holds one. SK_MSG programs know no link: they are attached to a map of sockets and stay as long as
it does, so attaching another replaces them.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import ClassVar, Final, Self

from axoneme.lib.bpf.errors import BpfError
from axoneme.lib.bpf.kernellink import KernelLink
from axoneme.lib.bpf.library import bpf_syscall
from axoneme.lib.bpf.maps import KernelMap
from axoneme.lib.bpf.program import BpfProgram

_PROG_ATTACH, _PROG_DETACH = 8, 9
_SK_MSG_VERDICT = 7


class CgroupHook(IntEnum):
    """Attach points of a cgroup, by `enum bpf_attach_type`."""

    SOCK_OPS = 3
    CONNECT4 = 10
    CONNECT6 = 11
    SENDMSG4 = 14
    SENDMSG6 = 15
    RECVMSG4 = 19
    RECVMSG6 = 20
    GETPEERNAME4 = 29
    GETPEERNAME6 = 30


SOCKET_PROGRAMS: Final[dict[str, CgroupHook]] = {
    f"axoneme_{hook.name.lower()}": hook for hook in CgroupHook if hook is not CgroupHook.SOCK_OPS
}
"""Programs of sock.bpf.c and their hooks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupLinkState:
    """What the kernel says about a link; cgroup id 0: the cgroup is gone."""

    link_id: int
    program_id: int
    cgroup_id: int
    hook: CgroupHook


class CgroupLink(KernelLink):
    """One program on one hook of a cgroup."""

    KIND: ClassVar[int] = 3

    @classmethod
    def create(cls, program: BpfProgram, *, cgroup: Path, hook: CgroupHook) -> Self:
        """Attaches beside what is attached already. Raises BpfError, with the path, where there is no v2
        cgroup."""
        subject = f"{program.name} on {hook.name} of {cgroup}"
        try:
            fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise BpfError(error.errno or 0, "attach", subject) from error
        try:
            return cls._create(program, fd, int(hook), subject)
        finally:
            os.close(fd)

    def state(self) -> CgroupLinkState:
        link_id, program_id, details = self._info()
        return CgroupLinkState(
            link_id=link_id,
            program_id=program_id,
            cgroup_id=details[0] | details[1] << 32,
            hook=CgroupHook(details[2]),
        )


class _ProgAttach(ctypes.Structure):
    _fields_ = (
        ("target_fd", ctypes.c_uint32),
        ("attach_bpf_fd", ctypes.c_uint32),
        ("attach_type", ctypes.c_uint32),
        ("attach_flags", ctypes.c_uint32),
        ("replace_bpf_fd", ctypes.c_uint32),
    )


def attach_messages(program: BpfProgram, sockets: KernelMap) -> None:
    """Lets `program` (SK_MSG) judge what the sockets in the map send; sockets that are in it already keep
    the program that was there when they came."""
    attributes = _ProgAttach(target_fd=sockets.fd, attach_bpf_fd=program.fd, attach_type=_SK_MSG_VERDICT)
    result = bpf_syscall(_PROG_ATTACH, attributes)
    if result < 0:
        raise BpfError(-result, "attach", f"{program.name} to map {sockets.name}")


def detach_messages(program: BpfProgram, sockets: KernelMap) -> None:
    """Takes `program` off the map. Raises BpfError (ENOENT) when another is attached."""
    attributes = _ProgAttach(target_fd=sockets.fd, attach_bpf_fd=program.fd, attach_type=_SK_MSG_VERDICT)
    result = bpf_syscall(_PROG_DETACH, attributes)
    if result < 0:
        raise BpfError(-result, "detach", f"{program.name} from map {sockets.name}")


def cgroup2_root() -> Path | None:
    """Where cgroup v2 is mounted, None without one; in the hybrid layout that is .../unified."""
    with suppress(OSError):
        for fields in map(str.split, Path("/proc/self/mounts").read_text().splitlines()):
            if fields[2] == "cgroup2":
                return Path(fields[1])
    return None
