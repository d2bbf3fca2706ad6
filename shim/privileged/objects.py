"""Loads compiled objects over one set of maps, each with the constants that it has."""

from __future__ import annotations

import functools
import logging
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from axoneme.lib import log
from axoneme.lib.bpf import trials
from axoneme.lib.bpf.errors import BpfError
from axoneme.lib.bpf.kinds import MapSpec
from axoneme.lib.bpf.object import BpfObject
from axoneme.lib.bpf.program import BpfProgram
from shim.bpf.manifest import ObjectsMissingError, object_path
from shim.network import AGGREGATIONS
from shim.privileged.catalogue import PROGRAMS
from shim.privileged.mapset import MapSet
from shim.privileged.namespaces import own_cookie
from shim.privileged.protocol import LoadPrograms

logger = logging.getLogger(__name__)

_PROGRAM_KIND_SOCK_ADDR, _HELPER_SET_RETVAL = 18, 187


@dataclass(slots=True)
class Loaded:
    """Programs by name, and object → why it could not be loaded."""

    programs: dict[str, BpfProgram]
    faults: dict[str, str]

    def close(self) -> None:
        """Closes the programs; attached ones stay attached."""
        for program in self.programs.values():
            program.close()


def load_objects(names: Iterable[str], maps: MapSet, request: LoadPrograms) -> Loaded:
    """Loads objects one after the other; one that fails leaves the others alone."""
    loaded = Loaded({}, {})
    constants = constants_of(request)
    for name in names:
        try:
            loaded.programs.update(_load(name, maps, constants, request.map_sizes))
        except (ObjectsMissingError, BpfError) as error:
            loaded.faults[name] = str(error)
            logger.warning("object not loaded", extra={log.PATH: name, log.ERROR: log.clip(error)})
    return loaded


def sized(spec: MapSpec, sizes: Mapping[str, int]) -> MapSpec:
    """The specification with the entries that the settings ask for."""
    return replace(spec, max_entries=sizes.get(spec.name, spec.max_entries))


def constants_of(request: LoadPrograms) -> dict[str, int]:
    """`const volatile` variable → value. An object gets those of them that it has."""
    return {
        "tunnel_port_be": socket.htons(request.tunnel_port),
        "aggregation_level": 1 + AGGREGATIONS.index(request.monitor_aggregation),
        "node_netns_cookie": own_cookie(),
        "set_retval_known": int(_has_set_retval()),
    }


def _load(
    name: str, maps: MapSet, constants: Mapping[str, int], sizes: Mapping[str, int]
) -> dict[str, BpfProgram]:
    with BpfObject(object_path(f"{name}.o")) as opened:
        known = opened.constant_names()
        opened.set_constants(**{key: value for key, value in constants.items() if key in known})
        specs = opened.map_specs()
        maps.take([sized(spec, sizes) for spec in specs.values()])
        new = specs.keys() - maps.used.keys()
        opened.load(max_entries={key: sizes[key] for key in new & sizes.keys()}, maps=maps.used)
        programs = opened.programs()
        missing = set(PROGRAMS[name]) - programs.keys()
        if missing:
            for program in programs.values():
                program.close()
            raise ObjectsMissingError(f"{name}.o lacks {', '.join(sorted(missing))}: run `make bpf`")
        for key in new:
            maps.add(key, opened.map(key))
    return programs


@functools.cache
def _has_set_retval() -> bool:
    """Whether programs of sockets may choose the error of a refused call (Linux 6.1)."""
    return trials.helper(_PROGRAM_KIND_SOCK_ADDR, _HELPER_SET_RETVAL, "Linux 6.1") == trials.YES
