"""Creation of maps outside an object: the inner policy maps. Needs CAP_BPF: for the helper only."""

from __future__ import annotations

import ctypes

from axoneme.lib.bpf.errors import BpfError
from axoneme.lib.bpf.kinds import MapSpec
from axoneme.lib.bpf.library import errno_of, libbpf
from axoneme.lib.bpf.maps import KernelMap


class _CreateOptions(ctypes.Structure):
    """`struct bpf_map_create_opts` of libbpf 1.1."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("btf_fd", ctypes.c_uint32),
        ("btf_key_type_id", ctypes.c_uint32),
        ("btf_value_type_id", ctypes.c_uint32),
        ("btf_vmlinux_value_type_id", ctypes.c_uint32),
        ("inner_map_fd", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
        ("map_extra", ctypes.c_uint64),
        ("numa_node", ctypes.c_uint32),
        ("map_ifindex", ctypes.c_uint32),
    )


def create_map(spec: MapSpec, *, name: str | None = None) -> KernelMap:
    """A new, unpinned map. Names longer than 15 characters are cut, as the kernel wants it."""
    inner = create_map(spec.inner) if spec.inner is not None else None
    options = _CreateOptions(sz=ctypes.sizeof(_CreateOptions), map_flags=spec.flags)
    if inner is not None:
        options.inner_map_fd = inner.fd
    shown = (name or spec.name)[:15]
    fd = libbpf().bpf_map_create(
        int(spec.kind),
        shown.encode(),
        spec.key_size,
        spec.value_size,
        spec.max_entries,
        ctypes.byref(options),
    )
    if inner is not None:
        inner.close()
    if fd < 0:
        raise BpfError(errno_of(fd), "create", f"map {shown}")
    return KernelMap(fd)
