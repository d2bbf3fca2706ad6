"""Programs on interfaces, by tcx links or by tc filters, whichever is chosen; the other kind is cleared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from axoneme.lib.bpf.program import BpfProgram
from axoneme.lib.errors import FailedPrecondition
from shim.network import ATTACH_AUTO, ATTACH_TCX
from shim.privileged import clsact
from shim.privileged.pins import LinkPins
from shim.privileged.tcxplaces import TcxPlaces, is_known


class InterfacePlaces:
    """Attachments of one node's programs to interfaces."""

    def __init__(self, links: LinkPins) -> None:
        self._links = links
        self._tcx = TcxPlaces(links)
        self._by_links = True

    def choose(self, attach: str) -> None:
        """`tcx`, `clsact`, or `auto`: tcx where the kernel has it. Raises FailedPrecondition without tcx."""
        known = is_known()
        if attach == ATTACH_TCX and not known:
            raise FailedPrecondition(
                "attach: this kernel has no tcx (Linux 6.6); write clsact or auto", reason="FEATURE_MISSING"
            )
        self._by_links = known if attach == ATTACH_AUTO else attach == ATTACH_TCX

    def attach(self, place: str, program: BpfProgram, ifindex: int) -> None:
        """Attaches or replaces in place; the other kind goes after, so that there is never none."""
        if self._by_links:
            self._tcx.attach(place, program, ifindex)
            clsact.detach(program.name, ifindex)
        else:
            clsact.attach(program, ifindex)
            self._tcx.detach(place, program.name)

    def detach(self, place: str, ifindex: int, names: Iterable[str]) -> None:
        """Takes programs off; an interface that is gone (index 0) and absent programs are fine."""
        wanted = list(names)
        for name in wanted:
            self._tcx.detach(place, name)
        filters = clsact.present(ifindex) if ifindex else {}
        for name in wanted:
            if name in filters:
                clsact.detach(name, ifindex)

    def holds(self, place: str, ifindex: int, names: Iterable[str]) -> bool:
        """Whether all programs are on the interface in their order, asked of the kernel."""
        if self._by_links:
            return all(self._tcx.holds(place, name, ifindex) for name in names)
        return clsact.present(ifindex).keys() >= set(names)

    def replace(self, programs: Mapping[str, BpfProgram], *, complete: bool = False) -> None:
        """Puts programs wherever one of their name is. `complete`: what has no program here is taken off."""
        self._links.replace(dict(programs), complete=complete)
        for ifindex, names in clsact.everywhere().items():
            for name in names:
                if name in programs:
                    clsact.attach(programs[name], ifindex)
                elif complete:
                    clsact.detach(name, ifindex)

    def filters(self) -> set[str]:
        """Programs that are attached as tc filters anywhere in this network namespace."""
        return {name for names in clsact.everywhere().values() for name in names}
