"""BPF programs of the node: loaded from the checked object, attached to endpoint interfaces, replaced in
place.

Maps are pinned under the node's directory and found again by name; each attachment is a tcx link with its
own pin, so programs outlive every process. A new program takes the place of the old one by an update of the
link: there is no moment at which an interface has none. Nothing here looks into a map's content, except for
the id of an inner map.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from axoneme.lib import log
from axoneme.lib.bpf.create import create_map
from axoneme.lib.bpf.errors import BpfError
from axoneme.lib.bpf.links import Hook, TcxLink, attached
from axoneme.lib.bpf.maps import KernelMap
from axoneme.lib.bpf.object import BpfObject
from axoneme.lib.bpf.program import BpfProgram
from axoneme.lib.errors import FailedPrecondition
from shim.bpf.manifest import ObjectsMissingError, object_path, sha256_of
from shim.maps import layout

logger = logging.getLogger(__name__)

# Directions are the interface's: its ingress is what the workload sends.
HOOK_BY_PROGRAM: Mapping[str, Hook] = {
    "axoneme_from_ep": Hook.TCX_INGRESS,
    "axoneme_to_ep": Hook.TCX_EGRESS,
}


class ProgramLoader:
    """Programs, links and maps of one node."""

    def __init__(self, pin_directory: Path) -> None:
        self._pins = pin_directory
        self._links = pin_directory / "links"
        self._programs: dict[str, BpfProgram] = {}
        self._loaded: tuple[str, dict[str, int]] | None = None  # hash of the object, ids of its maps

    def load(self, *, replace: bool = True) -> list[str]:
        """Loads the object (again), and replaces the programs of every pinned link; returns program names.

        Without `replace` it keeps the programs that it has of the same object over the same maps. Raises
        FailedPrecondition without a usable object.
        """
        try:
            path = object_path()
        except ObjectsMissingError as error:
            raise FailedPrecondition(str(error), reason="BPF_OBJECTS_MISSING") from error
        digest = sha256_of(path)
        if not replace and self._loaded == (digest, self._pinned_maps()):
            return sorted(self._programs)
        self._links.mkdir(parents=True, exist_ok=True)
        self._pins.chmod(0o700)
        with BpfObject(path) as loaded:
            loaded.load(pins=self._pins)
            programs = loaded.programs()
        missing = HOOK_BY_PROGRAM.keys() - programs.keys()
        if missing:
            raise FailedPrecondition(
                f"{path} lacks {', '.join(sorted(missing))}", reason="BPF_OBJECTS_MISSING"
            )
        before, self._programs = self._programs, programs
        self._replace_everywhere()
        for program in before.values():
            program.close()
        self._loaded = digest, self._pinned_maps()
        return sorted(programs)

    def attach(self, endpoint_id: int, ifindex: int) -> None:
        """Attaches both programs to an interface, or replaces them in place."""
        if not self._programs:
            self.load()
        for name, hook in HOOK_BY_PROGRAM.items():
            self._attach(self._pin(endpoint_id, name), self._programs[name], ifindex, hook)

    def detach(self, endpoint_id: int) -> None:
        """Removes the links of an endpoint and their pins; absent ones are fine."""
        for name in HOOK_BY_PROGRAM:
            self._drop(self._pin(endpoint_id, name))

    def whole(self, endpoint_id: int, ifindex: int) -> bool:
        """Whether both programs are on the interface by links of ours, asked of the kernel."""
        for name, hook in HOOK_BY_PROGRAM.items():
            link = self._opened(self._pin(endpoint_id, name))
            if link is None:
                return False
            try:
                state = link.state()
            finally:
                link.close()
            present = {one.link_id for one in attached(ifindex, hook)}
            if state.ifindex != ifindex or state.link_id not in present:
                return False
        return True

    def create_policy_map(self) -> KernelMap:
        """A new inner policy map."""
        return create_map(layout.POLICY_INNER)

    def open_policy_map(self, endpoint_id: int) -> KernelMap | None:
        """The inner map of an endpoint; None when it has none."""
        outer = KernelMap.open(self._pins / layout.POLICY.name)
        try:
            map_id = outer.inner_id(layout.policy_outer_key(endpoint_id))
        finally:
            outer.close()
        if not map_id:
            return None
        try:
            return KernelMap.by_id(map_id)
        except BpfError as error:
            if error.errno == errno.ENOENT:
                return None
            raise

    def _pinned_maps(self) -> dict[str, int]:
        """Ids of the maps behind the pins: somebody may have removed them since."""
        found = {}
        for name in layout.MAPS:
            with contextlib.suppress(BpfError), contextlib.closing(KernelMap.open(self._pins / name)) as held:
                found[name] = held.map_id
        return found

    def _replace_everywhere(self) -> None:
        """Puts the loaded programs into every link that is alive; pins of dead links are removed."""
        for path in sorted(self._links.iterdir()):
            name = path.name.partition("-")[2]
            link = self._opened(path)
            if link is None:
                continue
            try:
                if name not in self._programs or link.state().ifindex == 0:
                    path.unlink()
                else:
                    link.update(self._programs[name])
            finally:
                link.close()

    def _attach(self, path: Path, program: BpfProgram, ifindex: int, hook: Hook) -> None:
        link = self._opened(path)
        if link is not None:
            try:
                if link.state().ifindex == ifindex:
                    link.update(program)
                    return
            finally:
                link.close()
            self._drop(path)
        link = TcxLink.create(program, ifindex=ifindex, hook=hook)
        try:
            link.pin(path)
        finally:
            link.close()
        logger.info("program attached", extra={log.INTERFACE: ifindex, log.PATH: path.name})

    def _drop(self, path: Path) -> None:
        link = self._opened(path)
        if link is None:
            return
        with contextlib.closing(link):
            link.detach()
        path.unlink(missing_ok=True)

    def _opened(self, path: Path) -> TcxLink | None:
        if not os.path.lexists(path):
            return None
        return TcxLink.open(path)

    def _pin(self, endpoint_id: int, program: str) -> Path:
        return self._links / f"{endpoint_id}-{program}"
