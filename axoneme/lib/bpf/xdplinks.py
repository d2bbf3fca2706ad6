"""XDP links: one program at the driver of an interface (native), or before its stack (generic)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, Self

from axoneme.lib.bpf.kernellink import KernelLink
from axoneme.lib.bpf.program import BpfProgram

_ATTACH_XDP = 37


class XdpMode(IntEnum):
    """Flags of `XDP_FLAGS_*` in if_link.h."""

    GENERIC = 2
    NATIVE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class XdpLinkState:
    """What the kernel says about a link; ifindex 0: the interface is gone."""

    link_id: int
    program_id: int
    ifindex: int


class XdpLink(KernelLink):
    """The XDP program of one interface; there can be one per mode."""

    KIND: ClassVar[int] = 6

    @classmethod
    def create(cls, program: BpfProgram, *, ifindex: int, mode: XdpMode) -> Self:
        """Attaches. Raises BpfError: EBUSY when another program is there, EOPNOTSUPP when the driver knows
        no XDP."""
        subject = f"{program.name} on {mode.name} XDP of ifindex {ifindex}"
        return cls._create(program, ifindex, _ATTACH_XDP, subject, int(mode))

    def state(self) -> XdpLinkState:
        link_id, program_id, details = self._info()
        return XdpLinkState(link_id=link_id, program_id=program_id, ifindex=details[0])
