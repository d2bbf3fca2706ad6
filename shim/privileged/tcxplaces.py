"""Programs on interfaces by pinned tcx links, in the order of the catalogue."""

from __future__ import annotations

import contextlib
import logging

from axoneme.lib import log
from axoneme.lib.bpf.errors import BpfError
from axoneme.lib.bpf.links import Hook, TcxLink, attached
from axoneme.lib.bpf.program import BpfProgram
from shim.privileged.catalogue import HOOKS, order_on
from shim.privileged.pins import LinkPins

logger = logging.getLogger(__name__)


class TcxPlaces:
    """Links of one node; a place is an endpoint's number, `uplink` or `overlay`."""

    def __init__(self, pins: LinkPins) -> None:
        self._pins = pins

    def attach(self, place: str, program: BpfProgram, ifindex: int) -> None:
        """Attaches, or replaces in place. Raises BpfError."""
        path = self._pins.path(place, program.name)
        if self._is_in_place(place, program.name, ifindex):
            with contextlib.closing(TcxLink.open(path)) as link:
                link.update(program)
            return
        self._pins.drop(place, program.name)
        link = self._create(place, program, ifindex)
        try:
            link.pin(path)
        finally:
            link.close()
        logger.info("program attached", extra={log.INTERFACE: ifindex, log.PATH: path.name})

    def detach(self, place: str, name: str) -> None:
        """Removes the link and its pin; an absent one is fine."""
        self._pins.drop(place, name)

    def holds(self, place: str, name: str, ifindex: int) -> bool:
        """Whether the program is there by a link of ours and in its order, asked of the kernel."""
        return self._is_in_place(place, name, ifindex)

    def _is_in_place(self, place: str, name: str, ifindex: int) -> bool:
        hook = HOOKS[name]
        links = self._links(place, hook, ifindex)
        if name not in links:
            return False
        order = [one for one in order_on(hook) if one in links]
        return sorted(order, key=lambda one: links[one]) == order

    def _links(self, place: str, hook: Hook, ifindex: int) -> dict[str, int]:
        """Program → position on the hook of the links of this place that are attached there."""
        positions = {one.link_id: position for position, one in enumerate(attached(ifindex, hook))}
        found = {}
        for name in order_on(hook):
            path = self._pins.path(place, name)
            if not path.exists():
                continue
            with contextlib.closing(TcxLink.open(path)) as link:
                state = link.state()
            if state.ifindex == ifindex and state.link_id in positions:
                found[name] = positions[state.link_id]
        return found

    def _create(self, place: str, program: BpfProgram, ifindex: int) -> TcxLink:
        """Next to the program that it must run before or after, if that one is there."""
        hook = HOOKS[program.name]
        order, links = order_on(hook), self._links(place, hook, ifindex)
        own = order.index(program.name)
        follower = next((name for name in order[own + 1 :] if name in links), None)
        leader = next((name for name in reversed(order[:own]) if name in links), None)
        with contextlib.ExitStack() as stack:

            def opened(name: str | None) -> TcxLink | None:
                if name is None:
                    return None
                return stack.enter_context(contextlib.closing(TcxLink.open(self._pins.path(place, name))))

            return TcxLink.create(
                program, ifindex=ifindex, hook=hook, before=opened(follower), after=opened(leader)
            )


def is_known() -> bool:
    """Whether this kernel has tcx."""
    try:
        attached(1, Hook.TCX_INGRESS)
    except BpfError:
        return False
    return True
