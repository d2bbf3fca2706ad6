"""Programs on interfaces in tests: tcx links, or tc filters on kernels without tcx (before Linux 6.6)."""

from __future__ import annotations

from typing import Protocol

from axoneme.lib.bpf.links import TcxLink
from axoneme.lib.bpf.program import BpfProgram
from shim.privileged import clsact
from shim.privileged.catalogue import HOOKS
from shim.privileged.tcxplaces import is_known
from tests.bpf.namespaces import inside


class Attachment(Protocol):
    def close(self) -> None:
        """Takes the program off."""


class Filter:
    """A program of ours as a tc filter; gone with its interface at the latest."""

    def __init__(self, program: BpfProgram, netns: str, ifindex: int) -> None:
        self._name, self._netns, self._ifindex = program.name, netns, ifindex
        inside(netns, lambda: clsact.attach(program, ifindex))

    def close(self) -> None:
        inside(self._netns, lambda: clsact.detach(self._name, self._ifindex))


def attach(program: BpfProgram, *, netns: str, ifindex: int) -> Attachment:
    """Puts a program on its hook of an interface of a namespace."""
    if not is_known():
        return Filter(program, netns, ifindex)
    return inside(netns, lambda: TcxLink.create(program, ifindex=ifindex, hook=HOOKS[program.name]))
