"""A BPF object file: opened, its constants set, its maps taken from pins where they exist, loaded.

    open (no privilege) -> set_constants -> load(pins): reuse or create and pin each map -> programs

A pinned map of another definition is never replaced: its contents belong to packets in flight. A refused
program raises VerifierError with the last two lines of the verifier's log; all of it goes to the debug log.
"""

from __future__ import annotations

import ctypes
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from axoneme.lib.bpf.errors import BpfError, VerifierError
from axoneme.lib.bpf.kinds import MapKind, MapSpec
from axoneme.lib.bpf.library import errno_of, libbpf
from axoneme.lib.bpf.maps import KernelMap
from axoneme.lib.bpf.program import BpfProgram

_LOG: Final = logging.getLogger(__name__)
_PRINT: Final = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_LINE_BYTES: Final = 1 << 20
_KIND_DATASEC: Final = 15
_print_lock = threading.Lock()


class BpfObject:
    """One object file. Maps and programs handed out live on when the object is closed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with _captured() as log:
            handle = libbpf().bpf_object__open_file(os.fsencode(path), None)
        if not handle:
            raise VerifierError(ctypes.get_errno(), str(path), "".join(log))
        self._handle: int | None = handle

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._handle is not None:
            libbpf().bpf_object__close(self._handle)
            self._handle = None

    def map_specs(self) -> dict[str, MapSpec]:
        """Definitions of the maps in the file, without the compiler's own (.rodata) and inner maps."""
        return {name: _spec_of(name, handle) for name, handle in self._maps()}

    def set_constants(self, **values: int) -> None:
        """Sets `const volatile` variables, before the load. Raises KeyError for an unknown name."""
        places = self._constants()
        handle = libbpf().bpf_object__find_map_by_name(self._handle, b".rodata")
        size = ctypes.c_size_t()
        base = libbpf().bpf_map__initial_value(handle, ctypes.byref(size)) if handle else None
        for name, value in values.items():
            offset, width = places[name]
            if base is None or offset + width > size.value:
                raise KeyError(name)
            ctypes.memmove(base + offset, value.to_bytes(width, "little"), width)

    def constant_names(self) -> set[str]:
        """The `const volatile` variables that the file has."""
        return set(self._constants())

    def load(
        self,
        *,
        pins: Path | None = None,
        max_entries: Mapping[str, int] | None = None,
        maps: Mapping[str, KernelMap] | None = None,
    ) -> None:
        """Loads maps and programs. Maps that are given are used as they are, whatever their size. With
        `pins`, each other map is taken from its pin, or created and pinned."""
        for name, count in (max_entries or {}).items():
            handle = libbpf().bpf_object__find_map_by_name(self._handle, name.encode())
            if not handle or libbpf().bpf_map__set_max_entries(handle, count):
                raise KeyError(name)
        self._use(maps or {})
        reused = self._reuse(pins) if pins is not None else set()
        with _captured() as log:
            result = libbpf().bpf_object__load(self._handle)
        text = "".join(log)
        if result:
            _LOG.debug("verifier log of %s:\n%s", self._path, text)
            raise VerifierError(errno_of(result), str(self._path), text)
        if pins is not None:
            self._pin_new(pins, reused)

    def map(self, name: str) -> KernelMap:
        """A loaded map. Raises KeyError for an unknown name."""
        handle = libbpf().bpf_object__find_map_by_name(self._handle, name.encode())
        if not handle:
            raise KeyError(name)
        return KernelMap(os.dup(libbpf().bpf_map__fd(handle)))

    def programs(self) -> dict[str, BpfProgram]:
        """All loaded programs by name."""
        found: dict[str, BpfProgram] = {}
        handle = libbpf().bpf_object__next_program(self._handle, None)
        while handle:
            name = libbpf().bpf_program__name(handle).decode()
            found[name] = BpfProgram(os.dup(libbpf().bpf_program__fd(handle)), name)
            handle = libbpf().bpf_object__next_program(self._handle, handle)
        return found

    def _maps(self) -> Iterator[tuple[str, int]]:
        handle = libbpf().bpf_object__next_map(self._handle, None)
        while handle:
            if not libbpf().bpf_map__is_internal(handle):
                yield libbpf().bpf_map__name(handle).decode(), handle
            handle = libbpf().bpf_object__next_map(self._handle, handle)

    def _use(self, maps: Mapping[str, KernelMap]) -> None:
        for name, handle in self._maps():
            given = maps.get(name)
            if given is None:
                continue
            wanted = replace(_spec_of(name, handle), max_entries=given.max_entries)
            _check_same(wanted, given, Path(name))
            result = libbpf().bpf_map__reuse_fd(handle, given.fd)
            if result:
                raise BpfError(errno_of(result), "use", name)

    def _reuse(self, pins: Path) -> set[str]:
        reused = set()
        for name, handle in self._maps():
            path = pins / name
            if not path.exists():
                continue
            pinned = KernelMap.open(path)
            try:
                _check_same(_spec_of(name, handle), pinned, path)
            except BpfError:
                pinned.close()
                raise
            result = libbpf().bpf_map__reuse_fd(handle, pinned.fd)
            pinned.close()  # libbpf keeps a duplicate
            if result:
                raise BpfError(errno_of(result), "reuse", str(path))
            reused.add(name)
        return reused

    def _pin_new(self, pins: Path, reused: set[str]) -> None:
        pins.mkdir(parents=True, exist_ok=True)
        for name, handle in self._maps():
            if name in reused:
                continue
            result = libbpf().bpf_obj_pin(libbpf().bpf_map__fd(handle), os.fsencode(pins / name))
            if result:
                raise BpfError(errno_of(result), "pin", str(pins / name))

    def _constants(self) -> dict[str, tuple[int, int]]:
        """Offset and size in .rodata of each constant, out of the object's BTF."""
        library = libbpf()
        btf = library.bpf_object__btf(self._handle)
        section_id = library.btf__find_by_name_kind(btf, b".rodata", _KIND_DATASEC) if btf else -1
        if section_id < 0:
            return {}
        section = library.btf__type_by_id(btf, section_id)
        count = ctypes.c_uint32.from_address(section + 4).value & 0xFFFF  # btf_type.info: vlen
        places = {}
        for index in range(count):
            # struct btf_var_secinfo { type, offset, size } follows the 12 bytes of struct btf_type.
            variable, offset, size = (ctypes.c_uint32 * 3).from_address(section + 12 + 12 * index)
            name_offset = ctypes.c_uint32.from_address(library.btf__type_by_id(btf, variable)).value
            places[library.btf__name_by_offset(btf, name_offset).decode()] = (offset, size)
        return places


def _spec_of(name: str, handle: int) -> MapSpec:
    library = libbpf()
    return MapSpec(
        name=name,
        kind=MapKind(library.bpf_map__type(handle)),
        key_size=library.bpf_map__key_size(handle),
        value_size=library.bpf_map__value_size(handle),
        max_entries=library.bpf_map__max_entries(handle),
        flags=library.bpf_map__map_flags(handle),
    )


def _check_same(wanted: MapSpec, pinned: KernelMap, path: Path) -> None:
    actual = (pinned.kind, pinned.key_size, pinned.value_size, pinned.max_entries, pinned.flags)
    expected = (wanted.kind, wanted.key_size, wanted.value_size, wanted.max_entries, wanted.flags)
    if actual != expected:
        shown = "kind, key, value, max_entries, flags"
        raise BpfError(
            22,
            "reuse",
            f"{path}: ({shown}) is {actual}, the program wants {expected}; raise the schema version",
        )


@contextmanager
def _captured() -> Iterator[list[str]]:
    """Collects what libbpf prints, the verifier's log included, while the block runs."""
    lines: list[str] = []
    libc: Any = ctypes.CDLL(None)

    def on_print(_level: int, template: bytes, arguments: int) -> int:
        buffer = ctypes.create_string_buffer(_LINE_BYTES)
        libc.vsnprintf(buffer, ctypes.c_size_t(_LINE_BYTES), template, ctypes.c_void_p(arguments))
        lines.append(buffer.value.decode(errors="replace"))
        return 0

    callback = _PRINT(on_print)
    with _print_lock:
        previous = libbpf().libbpf_set_print(ctypes.cast(callback, ctypes.c_void_p))
        try:
            yield lines
        finally:
            libbpf().libbpf_set_print(previous)
