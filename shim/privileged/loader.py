"""BPF programs of the node: loaded from the checked objects, attached to interfaces, replaced in place.

Maps are pinned under the node's directory and found again by name; each attachment is a link with its own
pin (or a tc filter, on old kernels), so programs outlive every process. A new program takes the place of the
old one by an update of the link: there is no moment at which an interface has none. Maps that change, by
their size or with the schema, are copied before programs change over (`mapset`, `schema`).
"""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from axoneme.lib import log
from axoneme.lib.bpf.create import create_map
from axoneme.lib.bpf.errors import BpfError
from axoneme.lib.bpf.kinds import MapSpec
from axoneme.lib.bpf.maps import KernelMap
from axoneme.lib.bpf.program import BpfProgram
from axoneme.lib.errors import FailedPrecondition
from shim.bpf.manifest import ObjectsMissingError, object_path, sha256_of
from shim.maps import layout
from shim.privileged import schema
from shim.privileged.catalogue import ENDPOINT, OBJECT_OF
from shim.privileged.mapset import MapSet
from shim.privileged.objects import Loaded, load_objects, sized
from shim.privileged.pins import LinkPins
from shim.privileged.places import InterfacePlaces
from shim.privileged.protocol import LoadPrograms

logger = logging.getLogger(__name__)


class ProgramLoader:
    """Programs and maps of one node."""

    def __init__(self, pin_directory: Path) -> None:
        self.links = LinkPins(pin_directory / "links")
        self.places = InterfacePlaces(self.links)
        self._pins = pin_directory
        self._loaded = Loaded({}, {})
        self._request: LoadPrograms | None = None
        self._made_of: tuple[object, ...] = ()  # settings, hashes of the objects, ids of the maps

    def load(self, request: LoadPrograms) -> list[str]:
        """Loads the objects in use (again) and replaces their programs everywhere; returns program names.

        Without `replace` it keeps what it has of the same objects, maps and settings. Raises
        FailedPrecondition when the endpoint's object cannot be used, or a map's contents do not fit.
        """
        self.places.choose(request.attach)
        names = self._in_use()
        if not request.replace and self._made_of == self._state(request, names):
            return sorted(self._loaded.programs)
        self._pins.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._pins.chmod(0o700)
        self._load(request, names)
        self._made_of = self._state(request, names)
        return sorted(self._loaded.programs)

    def need(self, names: Iterable[str]) -> Mapping[str, str]:
        """Loads objects that are not loaded yet; returns object → why it is not there."""
        request = self.settings
        absent = [name for name in names if name not in self._objects()]
        if absent:
            maps = self._map_set()
            try:
                maps.take(self._specs(request))
                more = load_objects(absent, maps, request)
                maps.finish()
            finally:
                maps.close()
            self._loaded.programs.update(more.programs)
            for name in absent:
                self._loaded.faults.pop(name, None)
            self._loaded.faults.update(more.faults)
            self.places.replace(more.programs)
            self._made_of = self._state(request, self._in_use())
        return {name: fault for name, fault in self._loaded.faults.items() if name in set(names)}

    def release(self, names: Iterable[str]) -> None:
        """Lets go of objects that nothing uses any more; attached programs of theirs stay."""
        unused = set(names)
        for program in [name for name in self._loaded.programs if OBJECT_OF.get(name) in unused]:
            self._loaded.programs.pop(program).close()
        for name in unused:
            self._loaded.faults.pop(name, None)
        if self._request is not None:
            self._made_of = self._state(self._request, self._in_use())

    @property
    def settings(self) -> LoadPrograms:
        """What programs were loaded with. Raises FailedPrecondition before the first load: the helper is
        new, and only the shim knows its settings."""
        if self._request is None:
            raise FailedPrecondition("no programs are loaded yet", reason="BPF_OBJECTS_MISSING")
        return self._request

    def program(self, name: str) -> BpfProgram:
        """A loaded program. Raises FailedPrecondition."""
        found = self._loaded.programs.get(name)
        if found is None:
            fault = self._loaded.faults.get(OBJECT_OF[name], "no programs are loaded yet")
            raise FailedPrecondition(f"{name}: {fault}", reason="BPF_OBJECTS_MISSING")
        return found

    def attach(self, place: str, ifindex: int, names: Iterable[str]) -> None:
        """Puts programs on an interface, or replaces them in place."""
        for name in names:
            self.places.attach(place, self.program(name), ifindex)

    def create_policy_map(self) -> KernelMap:
        """A new inner policy map."""
        return create_map(layout.POLICY_INNER)

    def open_inner(self, outer_name: str, key: bytes) -> KernelMap | None:
        """The inner map of a key; None when it has none."""
        with contextlib.closing(KernelMap.open(self._pins / outer_name)) as outer:
            map_id = outer.inner_id(key)
        if not map_id:
            return None
        try:
            return KernelMap.by_id(map_id)
        except BpfError as error:
            if error.errno == errno.ENOENT:
                return None
            raise

    def _load(self, request: LoadPrograms, names: list[str]) -> None:
        older = schema.older_folder(self._pins)
        maps = self._map_set(older)
        try:
            loaded = load_objects(names, maps, request)
            if ENDPOINT in loaded.faults:
                loaded.close()
                raise FailedPrecondition(loaded.faults[ENDPOINT], reason="BPF_OBJECTS_MISSING")
            try:
                specs = self._specs(request)
                maps.take(specs)
                maps.make_missing(specs)
                maps.fill()
                self._change_over(loaded, older)
            except BaseException:
                loaded.close()
                raise
            maps.finish()
        finally:
            maps.close()
        schema.remove_older(self._pins)
        before, self._loaded, self._request = self._loaded, loaded, request
        before.close()

    def _change_over(self, loaded: Loaded, older: Path | None) -> None:
        self.links.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if older is not None:
            logger.info("older schema is taken over", extra={log.PATH: older.name})
            schema.move_links(older, self._pins)
        self.places.replace(loaded.programs, complete=True)

    def _map_set(self, older: Path | None = None) -> MapSet:
        return MapSet(self._pins, older=older, converters=schema.converters_from(older))

    def _specs(self, request: LoadPrograms) -> list[MapSpec]:
        return [sized(spec, request.map_sizes) for spec in layout.MAPS.values()]

    def _objects(self) -> set[str]:
        return {OBJECT_OF[name] for name in self._loaded.programs if name in OBJECT_OF}

    def _in_use(self) -> list[str]:
        """Objects that are loaded or attached anywhere, the endpoint's first."""
        attached = self.links.programs() | self.places.filters()
        older = schema.older_folder(self._pins)
        if older is not None:
            attached |= LinkPins(older / "links").programs()
        names = self._objects() | {OBJECT_OF[name] for name in attached if name in OBJECT_OF}
        return [ENDPOINT, *sorted(names - {ENDPOINT})]

    def _state(self, request: LoadPrograms, names: Iterable[str]) -> tuple[object, ...]:
        hashes = {}
        for name in names:
            with contextlib.suppress(ObjectsMissingError):
                hashes[name] = sha256_of(object_path(f"{name}.o"))
        settings = (dict(request.map_sizes), request.tunnel_port, request.monitor_aggregation)
        return settings, hashes, self._pinned_maps()

    def _pinned_maps(self) -> dict[str, int]:
        """Ids of the maps behind the pins: somebody may have removed them since."""
        found = {}
        for name in layout.MAPS:
            with contextlib.suppress(BpfError), contextlib.closing(KernelMap.open(self._pins / name)) as held:
                found[name] = held.map_id
        return found
