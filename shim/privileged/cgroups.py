"""Programs of sockets: on the cgroup of the workloads, and on the map of sockets that pass data directly."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

from axoneme.lib.bpf.cgrouplinks import CgroupHook, CgroupLink, attach_messages, cgroup2_root
from axoneme.lib.bpf.errors import BpfError
from axoneme.lib.bpf.maps import KernelMap
from axoneme.lib.bpf.program import BpfProgram
from axoneme.lib.errors import FailedPrecondition
from shim.maps.sockets import PAIRS, SOCKHASH
from shim.privileged.catalogue import CGROUP_PROGRAMS
from shim.privileged.pins import LinkPins
from shim.socketpairs import leave_for_good

PLACE = "cgroup"
_HOOKS: dict[str, CgroupHook] = {
    name: hook for programs in CGROUP_PROGRAMS.values() for name, hook in programs.items()
}


class CgroupPlaces:
    """Attachments of one node's programs to one cgroup."""

    def __init__(self, links: LinkPins) -> None:
        self._links = links

    def attach(self, programs: Iterable[BpfProgram], cgroup: Path) -> list[str]:
        """Attaches what is not there yet; returns its names. Raises BpfError; then none of them is there."""
        made: list[str] = []
        wanted = list(programs)
        try:
            for program in wanted:
                if self._holds(program.name, cgroup):
                    continue
                self._links.drop(PLACE, program.name)
                link = CgroupLink.create(program, cgroup=cgroup, hook=_HOOKS[program.name])
                with contextlib.closing(link):
                    link.pin(self._links.path(PLACE, program.name))
                made.append(program.name)
        except BpfError:
            self.detach(program.name for program in wanted)
            raise
        return made

    def detach(self, names: Iterable[str]) -> None:
        """Takes programs off; absent ones are fine."""
        for name in names:
            self._links.drop(PLACE, name)

    def _holds(self, name: str, cgroup: Path) -> bool:
        path = self._links.path(PLACE, name)
        if not path.exists():
            return False
        with contextlib.closing(CgroupLink.open(path)) as link:
            state = link.state()
        return state.cgroup_id == cgroup.stat().st_ino


def folder(wanted: str) -> Path:
    """The cgroup of the workloads. Raises FailedPrecondition where there is no cgroup v2."""
    path = Path(wanted) if wanted else cgroup2_root()
    if path is None:
        raise FailedPrecondition(
            "no cgroup v2 is mounted; mount one: mount -t cgroup2 none /sys/fs/cgroup/unified",
            reason="FEATURE_MISSING",
        )
    if not (path / "cgroup.procs").exists():
        raise FailedPrecondition(f"cgroup_root: {path} is no cgroup v2", reason="FEATURE_MISSING")
    return path


def leave_sockets(pins: Path) -> None:
    """Has every accelerated connection go on through the stack. The map of sockets keeps them, and its pin
    stays: a socket that leaves it loses what its reader has not read yet."""
    path = pins / PAIRS.name
    if path.exists():
        with contextlib.closing(KernelMap.open(path)) as held:
            leave_for_good(held)


def attach_to_sockets(program: BpfProgram, pins: Path) -> None:
    """Has the program judge what the sockets in the pinned map send; the one that was there goes.

    Raises FailedPrecondition without such a map.
    """
    path = pins / SOCKHASH.name
    if not path.exists():
        raise FailedPrecondition("no map of sockets is pinned", reason="BPF_OBJECTS_MISSING")
    with contextlib.closing(KernelMap.open(path)) as held:
        attach_messages(program, held)
