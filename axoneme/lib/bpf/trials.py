"""Single questions to the kernel: each tries the thing itself, on a small scale, and leaves nothing."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
from collections.abc import Iterator
from typing import Final

from axoneme.lib.bpf.create import create_map
from axoneme.lib.bpf.errors import BpfError
from axoneme.lib.bpf.kinds import INNER_MAP, NO_PREALLOC, MapKind, MapSpec
from axoneme.lib.bpf.library import bpf_syscall, libbpf
from axoneme.lib.bpf.maps import KernelMap

YES: Final = "yes"
_PROG_LOAD: Final = 5
# mov64 r0, 1; exit
_RETURN_ONE: Final = bytes.fromhex("b7000000010000009500000000000000")
_LPM: Final = MapSpec(
    name="axt_lpm", kind=MapKind.LPM_TRIE, key_size=8, value_size=4, max_entries=4, flags=NO_PREALLOC
)
_ARRAY: Final = MapSpec(
    name="axt_array", kind=MapKind.ARRAY, key_size=4, value_size=4, max_entries=1, flags=INNER_MAP
)


class _ProgramLoad(ctypes.Structure):
    """`union bpf_attr` of BPF_PROG_LOAD, up to the attach type."""

    _fields_ = (
        ("prog_type", ctypes.c_uint32),
        ("insn_cnt", ctypes.c_uint32),
        ("insns", ctypes.c_uint64),
        ("license", ctypes.c_uint64),
        ("log_level", ctypes.c_uint32),
        ("log_size", ctypes.c_uint32),
        ("log_buf", ctypes.c_uint64),
        ("kern_version", ctypes.c_uint32),
        ("prog_flags", ctypes.c_uint32),
        ("prog_name", ctypes.c_char * 16),
        ("prog_ifindex", ctypes.c_uint32),
        ("expected_attach_type", ctypes.c_uint32),
    )


def map_kind(kind: MapKind) -> str:
    """Whether maps of a kind can be made."""
    found = int(libbpf().libbpf_probe_bpf_map_type(int(kind), None)) == 1
    return YES if found else f"the kernel has no maps of kind {kind.name}"


def helper(program_kind: int, number: int, since: str) -> str:
    """Whether programs of a kind may call a helper function."""
    found = int(libbpf().libbpf_probe_bpf_helper(program_kind, number, None)) == 1
    return YES if found else f"the kernel is too old: {since}"


def program(kind: int, attach_type: int = 0) -> str:
    """Whether a program of a kind can be loaded for an attach point."""
    code = ctypes.create_string_buffer(_RETURN_ONE, len(_RETURN_ONE))
    permission = ctypes.create_string_buffer(b"GPL")
    fd = bpf_syscall(
        _PROG_LOAD,
        _ProgramLoad(
            prog_type=kind,
            insn_cnt=len(_RETURN_ONE) // 8,
            insns=ctypes.addressof(code),
            license=ctypes.addressof(permission),
            expected_attach_type=attach_type,
        ),
    )
    if fd < 0:
        return f"the kernel refuses programs of this kind: {os.strerror(-fd)}"
    os.close(fd)
    return YES


def lpm_batch() -> str:
    """Whether a trie can be listed by batches."""
    with _attempt() as found, contextlib.closing(create_map(_LPM)) as trie:
        trie.items()
    return found[0]


def trie_in_hash() -> str:
    """Whether a trie can be the inner map of a hash."""
    return _inner(_LPM, _LPM)


def inner_array_sizes() -> str:
    """Whether inner arrays of one hash may have different sizes."""
    larger = MapSpec(**{**{name: getattr(_ARRAY, name) for name in _ARRAY.__slots__}, "max_entries": 3})
    return _inner(_ARRAY, larger)


def ring_mapping() -> str:
    """Whether the pages of a ring buffer can be mapped into this process."""
    size = mmap.PAGESIZE
    spec = MapSpec(name="axt_ring", kind=MapKind.RINGBUF, key_size=0, value_size=0, max_entries=size)
    with _attempt() as found, contextlib.closing(create_map(spec)) as ring:
        mmap.mmap(ring.fd, size).close()
        mmap.mmap(ring.fd, size + 2 * size, prot=mmap.PROT_READ, offset=size).close()
    return found[0]


def _inner(template: MapSpec, used: MapSpec) -> str:
    outer_spec = MapSpec(
        name="axt_outer", kind=MapKind.HASH_OF_MAPS, key_size=4, value_size=4, max_entries=2, inner=template
    )
    with _attempt() as found, contextlib.ExitStack() as stack:

        def opened(spec: MapSpec) -> KernelMap:
            return stack.enter_context(contextlib.closing(create_map(spec)))

        opened(outer_spec).set_inner(bytes(4), opened(used))
    return found[0]


@contextlib.contextmanager
def _attempt() -> Iterator[list[str]]:
    """The block's answer: yes, or what the kernel said."""
    found = [YES]
    try:
        yield found
    except BpfError as error:
        found[0] = str(error)
    except OSError as error:
        found[0] = os.strerror(error.errno or errno.EINVAL)
