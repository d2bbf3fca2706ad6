"""tcx links: a program on an interface that outlives its loader by a pin and is replaced in place."""

from __future__ import annotations

import ctypes
import errno
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, Self

from axoneme.lib.bpf.errors import BpfError
from axoneme.lib.bpf.kernellink import KernelLink
from axoneme.lib.bpf.library import bpf_syscall
from axoneme.lib.bpf.program import BpfProgram

_PROG_QUERY = 16
_QUERY_SLOTS = 64
_F_BEFORE, _F_AFTER, _F_LINK = 1 << 3, 1 << 4, 1 << 13


class Hook(IntEnum):
    """Attach points of an interface, by `enum bpf_attach_type`; directions are the interface's."""

    TCX_INGRESS = 46
    TCX_EGRESS = 47


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


class TcxLink(KernelLink):
    """One program on one hook of an interface."""

    KIND: ClassVar[int] = 11

    @classmethod
    def create(
        cls,
        program: BpfProgram,
        *,
        ifindex: int,
        hook: Hook,
        before: TcxLink | None = None,
        after: TcxLink | None = None,
    ) -> Self:
        """Attaches `program` next to the given link of the same hook, else behind all that is there."""
        subject = f"{program.name} on {hook.name} of ifindex {ifindex}"
        neighbour = before or after
        flags = 0 if neighbour is None else _F_LINK | (_F_BEFORE if before is not None else _F_AFTER)
        relative_fd = 0 if neighbour is None else neighbour.fd
        return cls._create(program, ifindex, int(hook), subject, flags, relative_fd)

    def state(self) -> LinkState:
        link_id, program_id, details = self._info()
        return LinkState(link_id=link_id, program_id=program_id, ifindex=details[0], hook=Hook(details[1]))


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
